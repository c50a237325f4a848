"""`python -m metajax`."""

from .cli import main

main()
