"""Names and numbers as a reader meets them, in figures, tables and sentences."""

import json
import math
from collections.abc import Sequence

from analysis.collect import Setting
from analysis.study import Group, Study
from core.types import Measure

UNKNOWN, NO_BREAK = "\u2013", "\u00a0"
KINDS = {
    "official": "the official sets",
    "sample": "the sample data of this repository",
    "custom": "custom data",
}
METRICS = {
    "solve_rate": "solve rate",
    "exact_match": "exact match",
    "rouge_mean": "ROUGE",
    "f1": "F1",
    "choice_accuracy": "choice accuracy",
    "as_released": "as released",
    "as_released_after_edit": "as released",
}


def group(value: Group) -> str:
    method, mode, batch = value
    return f"{method}, {mode}" + (f", {counted(batch, 'edit')} per update" if batch else "")


def rule(setting: Setting) -> str:
    """The regulariser, its share and its other parameters: "RECT 40 %"."""
    if setting.regularizer == "none":
        return "no regulariser"
    name = setting.regularizer.upper() if setting.regularizer in ("rect", "pca") else setting.regularizer
    share = "" if setting.keep is None else f" {100 * setting.keep:g} %"
    return name + share + "".join(f", {key} {value}" for key, value in json.loads(setting.parameters).items())


def labels(settings: Sequence[Setting]) -> dict[Setting, str]:
    """A label for every curve of a figure; where two have the same regulariser, what else tells them apart."""
    labelled = {}
    for setting in settings:
        twins = [other for other in settings if (other.group, rule(other)) == (setting.group, rule(setting))]
        labelled[setting] = rule(setting) + ("" if len(twins) == 1 else f" ({_apart(setting, twins)})")
    return labelled


def _apart(setting: Setting, twins: Sequence[Setting]) -> str:
    """Where the settings of a method differ between twins: "v_lr 0.5"."""
    flat = {twin: _flat(json.loads(twin.details)) for twin in twins}
    keys = sorted({key for values in flat.values() for key in values})
    differing = [key for key in keys if len({str(values.get(key)) for values in flat.values()}) > 1]
    return ", ".join(f"{key} {str(flat[setting].get(key))[:12]}" for key in differing[:3])


def _flat(details: dict[str, object]) -> dict[str, object]:
    parts = {key: value if isinstance(value, dict) else {key: value} for key, value in details.items()}
    return {name: value for part in parts.values() for name, value in part.items() if value is not None}


def metric(name: str) -> str:
    return METRICS.get(name, name.replace("_", " "))


def score(task: str, name: str) -> str:
    """ "NER F1"; "NER as released" would be hard to read within a sentence."""
    return f"{task} ({metric(name)})" if " " in metric(name) else f"{task} {metric(name)}"


def study(value: Study) -> str:
    dtype = "" if value.model.dtype == "float32" else f" ({value.model.dtype})"
    return f"{value.model.name}{dtype} on {KINDS.get(value.kind, value.kind)}{limit(value)}"


def limit(value: Study) -> str:
    return f", first {counted(value.limit, 'record')} of each task" if value.limit else ""


def counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(items[:-1]), *items[-1:]) if part)


def number(value: float, digits: int = 3, sign: bool = False) -> str:
    """Fixed point, a true minus sign, UNKNOWN for NaN."""
    if math.isnan(value):
        return UNKNOWN
    rounded = round(value, digits) + 0.0  # no minus zero
    text = f"{rounded:+.{digits}f}" if sign and rounded else f"{rounded:.{digits}f}"
    return text.replace("-", "\u2212")


def part(value: float) -> str:
    """A share to two digits, "7.2 % of"; from the whole on "1.3 times", "11,000,000 times"."""
    if value < 0.995:
        return f"{100 * value:.2g} % of"
    return f"{value:.1f} times" if value < 9.95 else f"{float(f'{value:.2g}'):,.0f} times"


def bounds(measure: Measure, digits: int = 3, sign: bool = False) -> str:
    """The interval in brackets; "" if there is none."""
    if math.isnan(measure.low):
        return ""
    return f"[{number(measure.low, digits, sign)},{NO_BREAK}{number(measure.high, digits, sign)}]"


def p_value(p: float) -> str:
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.0095 else f"p = {p:.2f}"
    return text.replace(" ", NO_BREAK)
