"""What a search found, for reading: tables on the terminal and the HTML report."""
