"""The frozen base, language-specific LoRA with its routing, pruning, and the way out to PEFT."""
