"""``Seq2SeqTrainer``: evaluation and prediction with what a model generates."""
