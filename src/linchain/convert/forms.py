"""What converts to what, in one table, and what is said where it does not. docs/export.md shows the same table."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from linchain.errors import LinchainError

Kind = Literal["linchain", "lora", "fork", "bone-col", "bone-row", "bone-plain", "miss", "miss-mini", "miss-bat"]

EXACT, APPROXIMATE = "exact", "--svd-rank"
TARGETS = ("lora", "merged", "linchain", "bone", "miss")
CONVERSIONS: dict[Kind, dict[str, str]] = {
    "linchain": {"lora": EXACT, "merged": EXACT},
    "lora": {"merged": EXACT, "linchain": EXACT},
    "fork": {"lora": EXACT, "merged": EXACT, "linchain": EXACT},
    "bone-col": {"lora": APPROXIMATE, "merged": EXACT, "miss": EXACT},
    "bone-row": {"lora": APPROXIMATE, "merged": EXACT},
    "bone-plain": {"lora": EXACT, "merged": EXACT, "miss": EXACT},
    "miss": {"lora": EXACT, "merged": EXACT},
    "miss-mini": {"lora": EXACT, "merged": EXACT},
    "miss-bat": {"lora": APPROXIMATE, "merged": EXACT, "bone": EXACT},
}
NAMES: dict[Kind, str] = {
    "linchain": "LinChain",
    "lora": "LoRA",
    "fork": "LoRA with mixers",
    "bone-col": "bone-col",
    "bone-row": "bone-row",
    "bone-plain": "bone-plain",
    "miss": "MiSS",
    "miss-mini": "MiSS mini",
    "miss-bat": "MiSS bat",
}


def check_target(folder: Path, kind: Kind, to: str, svd_rank: int | None) -> None:
    """LinchainError where the adapter in `folder` does not convert to `to`, one of TARGETS; it says what there is."""
    if svd_rank is not None and svd_rank < 1:
        raise LinchainError(f"--svd-rank must be a positive integer, got {svd_rank}")
    how, what = CONVERSIONS[kind].get(to), f"{folder} is a {NAMES[kind]} adapter"
    if how is None:
        wrong = " already" if kind.split("-")[0] == to else f", which does not convert to {to}"
        raise LinchainError(f"{what}{wrong}. It converts to {_offers(kind)}")
    if how == APPROXIMATE and svd_rank is None:
        raise LinchainError(
            f"{what}, and no LoRA equals it: its update W·B + B depends on the weights W and has full rank. "
            f"--svd-rank R writes the LoRA of rank R that comes closest, and says how close. It converts to {_offers(kind)}"
        )
    if how != APPROXIMATE and svd_rank is not None:
        raise LinchainError(f"--svd-rank is for updates of full rank and --to lora; {what}, and --to {to} is exact")


def _offers(kind: Kind) -> str:
    """E.g. "merged, miss, lora (approximately, with --svd-rank)"."""
    ways = CONVERSIONS[kind]
    exact = [to for to, how in ways.items() if how == EXACT]
    return ", ".join(exact + [f"{to} (approximately, with {how})" for to, how in ways.items() if how != EXACT])
