"""Runs one of the inputs under Atheris: python -m fuzz config|data|adapter|model [libFuzzer's options]."""

from __future__ import annotations

import importlib
import sys
import warnings

import atheris


def main() -> None:
    """Fuzzes until a case fails or the runs are done."""
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["linchain", "yaml"]):
        check = importlib.import_module(f"fuzz.{name}").check
        importlib.import_module("linchain.quiet").quiet_libraries()
    warnings.simplefilter("ignore")
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
