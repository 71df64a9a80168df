"""The command ``raytrainer``: how a script is started."""
