"""The search: our searcher and worker for Ray Tune, the runner from start to end, and what is shown meanwhile."""
