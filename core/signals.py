"""Signals that wait for the end of a piece of work."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
"""Those that end a script; core/cli.py sends one that was lost again as an alarm."""


@contextmanager
def postponed() -> Iterator[None]:
    """What a signal raises is raised when the block is over, once.

    For matplotlib: its C++ code calls Python, and an exception that a signal's handler raises there becomes a TypeError
    or ends the process with a segmentation fault.
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler runs
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])
