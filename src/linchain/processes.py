"""Processes that one launcher started for one run: which is the main one, what they tell each other, how they fail alike.

`accelerate launch` and `torchrun` give each process its place by the environment variables RANK and WORLD_SIZE. Everything here
does nothing where a process is alone.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from linchain.errors import LinchainError

Item = TypeVar("Item")

# What the others wait for while the main process hashes a model, say. One that has died ends the wait at once.
PATIENCE = timedelta(days=1)

_group: Any = None  # for objects in CPU memory, while the processes are joined


def launched() -> int:
    """How many processes a launcher has started, this one among them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes the files and talks to the user."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """How many processes are joined; 1 where this one is on its own."""
    import torch.distributed as dist

    return dist.get_world_size(_group) if _group is not None else 1


def rank() -> int:
    """The place of this process among those joined, from 0."""
    import torch.distributed as dist

    return dist.get_rank(_group) if _group is not None else 0


@contextmanager
def joined() -> Iterator[None]:
    """Within it the processes of a launcher know each other. It may be entered again within itself."""
    global _group
    if _group is not None or launched() == 1:
        yield
        return
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    ours = not dist.is_initialized()
    # chooses device and backend as the trainer will
    PartialState(cpu=not torch.accelerator.is_available(), timeout=PATIENCE)
    _group = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        _group = None
    if ours:  # not after an error, which may have left the others in the middle of an exchange
        atexit.register(_part)  # not yet: a launcher lets its processes meet once, and another run may follow


def _part() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def exchange(item: Item) -> list[Item]:
    """What every process gave, in the order of their ranks; each must call it. Returns when all have."""
    if _group is None:
        return [item]
    import torch.distributed as dist

    items: list[Any] = [None] * count()
    dist.all_gather_object(items, item, group=_group)
    return items


@contextmanager
def agreed() -> Iterator[None]:
    """A block that all processes leave together: a LinchainError in one of them is raised in all, and told once."""
    error: LinchainError | None = None
    try:
        yield
    except LinchainError as found:
        error = found
    messages = exchange(None if error is None else str(error))
    if any(message is not None for message in messages):
        error = error or LinchainError(next(message for message in messages if message is not None))
        error.in_all_processes = True
        raise error


def turns(items: Sequence[Item]) -> Iterator[tuple[Item, Sequence[Item]]]:
    """Deals `items` out: in each turn every process gets one, beside those of all in this turn.

    In the last turn a process may get what another has, too: layers whose weights are sharded need all in each forward.

    >>> list(turns("abc"))
    [('a', 'a'), ('b', 'b'), ('c', 'c')]
    """
    for first in range(0, len(items), count()):
        turn = items[first : first + count()]
        yield turn[rank() % len(turn)], turn
