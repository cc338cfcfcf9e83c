"""`python -m cuecard` is the command line."""

from cuecard.cli import main

main()
