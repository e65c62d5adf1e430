"""What a command line with --lm-eval is checked for before anything slow: the package, and the folder of tasks."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from core.errors import UserError

KIND = "lm-eval"
"""Of a yardstick's data, in a result's settings."""


def installed(words: Sequence[str], folder: Path | None) -> None:
    """UserError where lm-evaluation-harness is absent (with what to install), or there are no tasks in the folder."""
    if folder is not None and not words:
        raise UserError("--lm-eval-tasks names a folder of tasks; --lm-eval NAME,NAME says which of them to score on")
    if find_spec("lm_eval") is None:
        raise UserError(
            "--lm-eval needs lm-evaluation-harness, which is not installed: pip install -r requirements-lm-eval.txt"
        )
    if folder is not None and not any(folder.glob("**/*.yaml")):
        raise UserError(f"--lm-eval-tasks: {folder}: no such folder, or no *.yaml of a task in it")
