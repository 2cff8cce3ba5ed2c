"""The command linchain, with flash-linear-attention's architectures: `python recipes/with_fla.py train recipes/rwkv6.yaml`."""

# Importing them makes them known to Transformers, here and in the processes that `compare` starts: those import this file too.
import fla.models  # noqa: F401

from linchain.cli.app import main

if __name__ == "__main__":
    main()
