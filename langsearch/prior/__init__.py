"""What is learned about a space before it is searched: sides, and each language's demand for rank."""
