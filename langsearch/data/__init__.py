"""Parallel text from files, its tokens in memory-mapped Arrow files, and the batches made of them."""
