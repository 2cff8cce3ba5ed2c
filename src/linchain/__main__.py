"""`python -m linchain`, for where the script is not on PATH."""

from linchain.cli.app import main

main()
