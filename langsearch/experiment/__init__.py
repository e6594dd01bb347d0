"""An experiment's folder, here or remote: what lies where, locks, the space, the tasks, the results file."""
