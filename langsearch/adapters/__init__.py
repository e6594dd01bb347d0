"""The kinds of adapters that a frozen base can carry, their routing and pruning, and their way to PEFT and back."""
