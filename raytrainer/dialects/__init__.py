"""Translates the settings of other tools (sharding configs, accelerate's files and flags) into training arguments."""
