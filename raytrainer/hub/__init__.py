"""The Hub: repositories, the model card, and uploads in the background."""
