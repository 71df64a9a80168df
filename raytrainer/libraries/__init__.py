"""How libraries that build on ``transformers.Trainer`` run on our workers: with our loop, or with their own."""
