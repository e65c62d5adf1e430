"""How a script starts and ends: its arguments, its errors as one line, its signals. Imports nothing heavy."""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from core.errors import Interrupted, UserError
from core.folders import shortened
from core.registry import did_you_mean

KEPT = "what is finished is kept; the same command goes on from there"
PACKAGES = ("core", "editors", "tasks", "edit_sets", "inputs", "experiment", "analysis")
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
"""Those that end a script; `script` sends one that was lost again as an alarm."""


@contextmanager
def postponed() -> Iterator[None]:
    """What a signal raises is raised when the block is over, once.

    For matplotlib: its C++ code calls Python, and an exception that a signal's handler raises there becomes a TypeError
    or ends the process with a segmentation fault.
    """
    if threading.current_thread() is not threading.main_thread():  # where no handler runs
        yield
        return
    pending: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: pending.append(number)) for number in NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if pending:
            signal.raise_signal(pending[0])


class _Stderr(logging.Handler):
    """A line on stderr for each message, as it is; on what stderr is at that moment, as progress bars do."""

    def emit(self, record: logging.LogRecord) -> None:
        print(shortened(record.getMessage()), file=sys.stderr, flush=True)


def log_to_stderr() -> None:
    """Let what our packages log go to stderr: for scripts, and for processes that scripts start."""
    for package in PACKAGES:
        logger = logging.getLogger(package)
        logger.setLevel(logging.INFO)
        logger.handlers = [_Stderr()]


class Parser(argparse.ArgumentParser):
    """argparse with the project's manners: one line on stderr, exit 2; a flag that there is not is guessed at."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Unknown flags first: argparse would take the value behind one for a position, and complain of that."""
        words = list(sys.argv[1:] if args is None else args)
        flags = [word.partition("=")[0] for word in words if word.startswith("--") and word != "--"]
        known = list(self._option_string_actions)
        for flag in flags if self._subparsers is None else ():
            if not any(name.startswith(flag) for name in known):
                self.error(f"unknown flag {flag}{did_you_mean(flag, known)}")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `python {self.prog.removeprefix('python ')} --help` lists all arguments")


def script(main: Callable[[], None]) -> None:
    """Run a script's main function.

    A UserError becomes one line on stderr and exit code 2; SIGINT and SIGTERM one line that says what is kept and how
    to go on, and the exit code a shell expects (130, 143). A second signal does not wait for what the first one saves.
    """
    log_to_stderr()
    caught: list[int] = []
    over = False

    def stop(number: int, frame: object) -> None:
        if not over:  # else all there is to keep is kept
            caught.append(number)
            raise KeyboardInterrupt

    def swallowed(unraisable: "sys.UnraisableHookArgs") -> None:
        """An exception in a destructor goes no further: a signal that came at such a moment is sent once more.

        After a signal, other errors of destructors are of objects that it left half-made.
        """
        if unraisable.exc_type is KeyboardInterrupt:
            signal.signal(signal.SIGALRM, stop)
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        elif not caught:
            hook(unraisable)

    hook, sys.unraisablehook = sys.unraisablehook, swallowed
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        main()
        over = True
    except (Exception, KeyboardInterrupt) as error:
        over = True
        if isinstance(error, UserError) and not caught:
            print("error:", shortened(str(error)).replace("\n", " "), file=sys.stderr)
            sys.exit(2)
        if not caught and not isinstance(error, KeyboardInterrupt):  # after a signal an error is what it cut off
            raise
        kept = str(error) if isinstance(error, Interrupted) else KEPT
        print(f"\ninterrupted: {kept}", file=sys.stderr)
        sys.exit(128 + (caught or [signal.SIGINT])[0])


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return int(text)
