"""The command ``raytrainer``: starts a script, exports and checks checkpoints, shows runs."""
