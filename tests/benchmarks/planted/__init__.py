"""Searches where the truth is known: ciphers planted for a tiny base, and who finds what they need."""
