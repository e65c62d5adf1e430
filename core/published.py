"""The authors' published scores, to be read beside ours: docs/published.yaml, read off their figures.

No seeds and no intervals were published. Two of the figures disagree for ROME without a regulariser on gpt2-xl; then
both are given, the one about sequences of edits first.
"""

from collections.abc import Iterator, Mapping
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
    rule = edit["regularizer"]
    wanted = {
        "model": model,
        "mode": edit["mode"],
        "method": edit["method"],
        "regularizer": "none" if rule is None else f"{rule['name']}{100 * rule.get('keep', 1):g}",
        "batch_size": edit["batch_size"],
    }
    with _table() as table:
        return [
            # The horizontal axis counts updates of batch_size edits, or edits.
            tuple((x * (curve["batch_size"] or 1), float(y)) for x, y in zip(curve["at"], scores, strict=True))
            for curve in table["curves"]
            if {key: curve[key] for key in wanted} == wanted and (scores := curve["scores"].get(task))
        ]


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


def beside(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a result made with these settings is to be read beside, for its file; None if nothing was published."""
    edit = settings["edit"]
    scores = figures(settings["model"]["name"], edit, settings["task"])
    if not scores:
        return None
    whole = settings["limit"] is None and settings["data"]["kind"] == "official"
    return {"as_released": scores, "read_to": BAR if edit is None else LINE, "same_data": whole}


def line(published: Mapping[str, Any]) -> str:
    """`beside` in words; it says what it was measured on where ours was, or may have been, something else."""
    scores = " or ".join(f"{score:.3f}" for score in published["as_released"])
    data = "" if published["same_data"] else ", on the whole official set"
    return f"published (as_released): {scores} (read off a figure to ±{published['read_to']:g}{data})"
