"""The paper's published curves, to be drawn beside ours: docs/published.yaml, read off the authors' figures."""

from functools import lru_cache
from typing import Any

import yaml

from analysis.collect import Setting
from core import published

Curve = tuple[tuple[int, float], ...]
"""(edits, score) pairs. Scored by the released code."""


@lru_cache(maxsize=1)
def _curves() -> list[dict[str, Any]]:
    table: dict[str, list[dict[str, Any]]] = yaml.safe_load(published.FILE.read_text(encoding="utf-8"))
    return table["curves"]


def curves(model: str, setting: Setting, task: str) -> list[Curve]:
    """Every curve published for this setting and task; two of the figures disagree about one, and both are given."""
    rule = "none" if setting.keep is None else f"{setting.regularizer}{100 * setting.keep:g}"
    wanted = (model, setting.mode, setting.method, rule, setting.batch_size)
    return [
        tuple(zip([x * (curve["batch_size"] or 1) for x in curve["at"]], curve["scores"][task], strict=True))
        for curve in _curves()
        if tuple(curve[key] for key in ("model", "mode", "method", "regularizer", "batch_size")) == wanted
        and task in curve["scores"]
    ]
