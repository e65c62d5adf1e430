"""The authors' published scores, to be read beside ours: docs/published.yaml, read off their figures.

No seeds and no intervals were published. Two of the figures disagree for ROME without a regulariser on gpt2-xl; then
both are given, the one about sequences of edits first.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from core import folders
from core.errors import UserError

FILE = folders.PUBLISHED
BAR, LINE = 0.005, 0.01
"""How exactly a bar (before edits) and a line (after edits) can be read off."""


def figures(model: str, edit: Mapping[str, Any] | None, task: str) -> list[float]:
    """Every score published for this setting, in the order of the file. `edit` is that part of a result's settings.

    Raises UserError if the file is not there or not as it should be.
    """
    try:
        return _figures(yaml.safe_load(FILE.read_text(encoding="utf-8")), model, edit, task)
    except OSError as error:
        raise UserError(f"{FILE}: cannot be read ({error.strerror}); it belongs to the repository") from error
    except Exception as error:  # PyYAML, or a table of another shape
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{FILE}: not the table of published scores ({type(error).__name__}: {reason})") from error


def _figures(table: Any, model: str, edit: Mapping[str, Any] | None, task: str) -> list[float]:
    if edit is None:
        scores = table["baseline"].get(model, {})
        return [float(scores[task])] if task in scores else []
    rule = edit["regularizer"]
    wanted = {
        "model": model,
        "mode": edit["mode"],
        "method": edit["method"],
        "regularizer": "none" if rule is None else f"{rule['name']}{100 * rule['keep']:g}",
        "batch_size": edit["batch_size"],
    }
    count = len(range(*edit["range"]))
    curves = [curve for curve in table["curves"] if {key: curve[key] for key in wanted} == wanted]
    return [score for curve in curves if (score := _at(curve, count, task)) is not None]


def _at(curve: Mapping[str, Any], count: int, task: str) -> float | None:
    """A curve's score after `count` edits. The horizontal axis counts updates of batch_size edits, or edits."""
    edits = [x * (curve["batch_size"] or 1) for x in curve["at"]]
    if count not in edits or task not in curve["scores"]:
        return None
    return float(curve["scores"][task][edits.index(count)])


def beside(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a result made with these settings is to be read beside, for its file; None if nothing was published."""
    edit = settings["edit"]
    found = figures(settings["model"]["name"], edit, settings["task"])
    if not found:
        return None
    whole = settings["limit"] is None and settings["data"]["kind"] == "official"
    return {"as_released": found, "read_to": BAR if edit is None else LINE, "same_data": whole}


def line(found: Mapping[str, Any]) -> str:
    """`beside` in words; it says what it was measured on where ours was, or may have been, something else."""
    scores = " or ".join(f"{score:.3f}" for score in found["as_released"])
    data = "" if found["same_data"] else ", on the whole official set"
    return f"published (as_released): {scores} (read off a figure to ±{found['read_to']:g}{data})"
