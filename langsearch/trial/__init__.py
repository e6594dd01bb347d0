"""One trial, from its task to its scores and its exported adapters, alone or in a search. Knows nothing of Ray."""
