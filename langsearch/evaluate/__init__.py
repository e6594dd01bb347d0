"""Decoding of mixed directions, and spBLEU with its signature."""
