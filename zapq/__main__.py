"""`python -m zapq` is `zapq`."""

from zapq.cli import main

main()
