"""The command ``raytrainer``: starts a script, or exports a checkpoint."""
