"""The live pages: a server of this machine that shows experiments while they run."""
