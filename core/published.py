"""The authors' published scores, to be read beside ours: docs/published.yaml, read off their figures.

No seeds and no intervals were published, nor which facts were edited. Two of the figures disagree for ROME without a
regulariser on gpt2-xl; then both are given, the one about sequences of edits first. Points of more edits than their
file has facts repeat facts; they are left out.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import yaml

from core import folders
from core.errors import UserError
from core.messages import first_line

FILE = folders.PUBLISHED
BAR, LINE = 0.005, 0.01
"""How exactly a bar (before edits) and a line (after edits) can be read off."""


Curve = tuple[tuple[int, float], ...]
"""(number of edits, score) pairs, scored by the released code."""


def figures(model: str, edit: Mapping[str, Any] | None, task: str) -> list[float]:
    """Every score published for this setting, in the order of the file. `edit` is that part of a result's settings.

    Raises UserError if the file is absent or malformed.
    """
    if edit is not None:
        count = len(range(*edit["range"]))
        return [score for curve in curves(model, edit, task) for at, score in curve if at == count]
    with _table() as table:
        scores = table["baseline"].get(model, {})
        return [float(scores[task])] if task in scores else []


def curves(model: str, edit: Mapping[str, Any], task: str) -> list[Curve]:
    """Every curve published for these edits, however many; two of the figures disagree about one, and both are given.

    Of `edit` mode, method, batch_size and regularizer count. Raises UserError as `figures` does.
    """
    with _table() as table:
        facts = table.get("facts", math.inf)
        return [
            # The horizontal axis counts updates of batch_size edits, or edits.
            tuple(
                (edits, float(y))
                for x, y in zip(curve["at"], curve["scores"][task], strict=True)
                if (edits := x * (curve["batch_size"] or 1)) <= facts
            )
            for curve in _alike(table, model, edit)
            if curve["scores"].get(task)
        ]


def _alike(table: Any, model: str, edit: Mapping[str, Any]) -> list[Any]:
    """The table's curves for these edits."""
    rule = edit["regularizer"]
    wanted = {
        "model": model,
        "mode": edit["mode"],
        "method": edit["method"],
        "regularizer": "none" if rule is None else f"{rule['name']}{100 * rule.get('keep', 1):g}",
        "batch_size": edit["batch_size"],
    }
    return [curve for curve in table["curves"] if {key: curve[key] for key in wanted} == wanted]


@contextmanager
def _table() -> Iterator[Any]:
    """The file's content. What goes wrong with it in the block is a UserError."""
    try:
        yield _parsed(FILE.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{FILE}: cannot be read ({error.strerror}); it belongs to the repository") from error
    except Exception as error:  # PyYAML, or a table of another shape
        reason = f"{type(error).__name__}: {first_line(error, 200)}"
        raise UserError(f"{FILE}: not the table of published scores ({reason})") from error


@lru_cache(maxsize=1)
def _parsed(text: str) -> Any:
    return yaml.safe_load(text)  # half a second


def inferred(model: str, edit: Mapping[str, Any] | None) -> list[str]:
    """What the figures do not say about the curves for these edits, and was inferred: "method", "x" (its axis)."""
    with _table() as table:
        curves = _alike(table, model, edit) if edit else []
        return sorted({name for curve in curves for name in curve.get("inferred", ())})


def beside(settings: Mapping[str, Any], metrics: Collection[str]) -> dict[str, Any] | None:
    """What a result made with these settings is to be read beside, for its file; None if nothing was published.

    `measure`: the one of the result's metrics that is scored as the published figure was, by the script of before or
    after an edit where the two differ; None if there is none.
    """
    edit = settings["edit"]
    scores = figures(settings["model"]["name"], edit, settings["task"])
    if not scores:
        return None
    names = ("as_released", f"as_released_{'before' if edit is None else 'after'}_edit")
    found = {
        "as_released": scores,
        "read_to": BAR if edit is None else LINE,
        "same_data": settings["limit"] is None and settings["data"]["kind"] == "official",
        "measure": next((name for name in names if name in metrics), None),
    }
    guesses = inferred(settings["model"]["name"], edit)
    return found | {"inferred": guesses} if guesses else found


def line(published: Mapping[str, Any]) -> str:
    """`beside` in words; it says where ours was, or may have been, scored or measured otherwise."""
    scores = " or ".join(f"{score:.3f}" for score in published["as_released"])
    words = {"method": "its method", "x": "what its axis counts"}
    notes = [
        f"read off a figure to ±{published['read_to']:g}",
        *([] if published["same_data"] else ["on the whole official set"]),
        *([] if published.get("measure", "") is not None else ["by the released scorer, which this result lacks"]),
        *[f"{words.get(name, name)} is inferred" for name in published.get("inferred", ())],
    ]
    return f"published ({published.get('measure') or 'as_released'}): {scores} ({', '.join(notes)})"
