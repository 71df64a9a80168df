"""Other tools' words, translated into our settings: FSDP, DeepSpeed's JSON, accelerate's files and flags."""
