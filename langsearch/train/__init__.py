"""The training loop and its checkpoints. Knows neither Ray nor YAML."""
