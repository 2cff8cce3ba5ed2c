"""`python -m linchain`, for `accelerate launch -m linchain train …` and for where the script is not on PATH."""

from linchain.cli.app import main

main()
