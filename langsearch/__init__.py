"""langsearch finds, for each language of a translation model, the smallest adapters that translate best."""

__version__ = "0.1.0"
