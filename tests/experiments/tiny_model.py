"""Arguments of a language model that trains in a second."""

TINY_LM = [
    "attention/language_model",
    *("--model.d_model", "16", "--model.n_layers", "1", "--model.n_heads", "2"),
    *("--model.n_kv_heads", "1", "--model.context", "16", "--training.batch_size", "4"),
    *("--training.steps", "12", "--training.checkpoint_every", "4", "--training.log_every", "1"),
    *("--training.eval_every", "4", "--windows", "4", "--new_bytes", "8"),
]
