"""`python -m langsearch` is `langsearch`."""

from langsearch.cli.app import main

main()
