"""One trial, the Optuna searcher, schedulers, the runner, and the experiment's folder."""
