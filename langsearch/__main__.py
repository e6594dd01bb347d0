"""`python -m langsearch` is `langsearch`."""

from langsearch.cli import main

main()
