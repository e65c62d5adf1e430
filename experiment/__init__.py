"""Edit a model and score it: once or as a grid from the command line, or from Python.

The words of a notebook (experiment/notebook.py) are here; nothing is printed and no file is written:

    import experiment as ex

    lm = ex.load("gpt2-xl")
    facts = ex.edits("zsre", 200, 210)
    with ex.edited(lm, "ROME", facts, regularizer="rect", keep=0.4) as record:
        print(ex.score(lm, "NER", limit=100), record.quality())
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiment.notebook import edited, edits, expect, load, probe, score, wrap, yardsticks

__all__ = ["edited", "edits", "expect", "load", "probe", "score", "wrap", "yardsticks"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # only when it is asked for: scripts import this package too, and torch takes seconds
        return getattr(import_module("experiment.notebook"), name)
    raise AttributeError(f"module 'experiment' has no attribute '{name}'")
