"""A limit on how long a stranger's patterns and templates may compute: some never end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from linchain.errors import LinchainError

LONGEST = 30.0  # seconds of computing


@contextmanager
def time_limit(message: str) -> Iterator[None]:
    """Raises LinchainError with `message` where its body computes for more than LONGEST seconds of this process's time.

    Python delivers signals to the main thread alone; in another, and where a system has no such timer, nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise LinchainError(message)

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
