"""A base: its family, its weights and tokenizer, shared between processes without a copy."""
