"""What is searched: languages and classes, the YAML of a space, its dimensions, and one point as an architecture."""
