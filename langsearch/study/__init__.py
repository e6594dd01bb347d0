"""The trial table, and what is computed from it: the front, constraints, samplers, halving, plateaus, retries."""
