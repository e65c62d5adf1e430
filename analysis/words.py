"""Names and numbers as a reader meets them, in figures, tables and sentences."""

import json
import math
from collections.abc import Sequence

from analysis.collect import Run, Setting
from analysis.compare import LEVEL
from analysis.study import Group, Study
from core.types import Measure

FEW = 3
UNKNOWN, NO_BREAK = "\u2013", "\u00a0"
KINDS = {
    "official": "the official sets",
    "sample": "the sample data of this repository",
    "custom": "custom data",
    "lm-eval": "tasks of lm-evaluation-harness",
}
METRICS = {
    "solve_rate": "solve rate",
    "exact_match": "exact match",
    "rouge_mean": "ROUGE",
    "f1": "F1",
    "mcc": "MCC",
    "choice_accuracy": "choice accuracy",
    "as_released": "as released",
    "as_released_after_edit": "as released",
    "reference_logprob": "log p of the reference",
    "reference_logprob_best": "log p of the likeliest reference",
    "text_logprob": "log p of the text",
    "choice_probability": "choice probability",
}
HARMS = {
    "reference_logprob": "fall of log p of the reference",
    "text_logprob": "fall of log p of the text",
    "drift": "drift",
}
"""The measures of analysis.harm, as what has gone wrong."""
NATS = "nats per token"


def group(value: Group) -> str:
    method, mode, batch = value
    return f"{method}, {mode}" + (f", {counted(batch, 'edit')} per update" if batch else "")


def rule(setting: Setting) -> str:
    """The regulariser, its name as in those of result files, and its parameters: "RECT 40 %", "CLIP at 2"."""
    if setting.regularizer == "none":
        return "no regulariser"
    share = [] if setting.keep is None else [f"{100 * setting.keep:g} %"]
    parameters = [_option(key.replace("_", " "), value) for key, value in json.loads(setting.parameters).items()]
    return f"{setting.regularizer.upper()} {', '.join(share + parameters)}".rstrip()


def labels(settings: Sequence[Setting]) -> dict[Setting, str]:
    """A label for every curve of a figure; where two have the same regulariser, what else tells them apart."""
    labelled = {}
    for setting in settings:
        twins = [other for other in settings if (other.group, rule(other)) == (setting.group, rule(setting))]
        labelled[setting] = rule(setting) + ("" if len(twins) == 1 else f" ({_apart(setting, twins)})")
    return labelled


def _apart(setting: Setting, twins: Sequence[Setting]) -> str:
    """Where the settings of a method differ between twins: "v_lr 0.5", "no cache", "edits zsre".

    One thing, if it tells all of them apart (the edits do that best), else up to three.
    """
    flat = {twin: _flat(json.loads(twin.details)) for twin in twins}
    if len({twin.source for twin in twins}) > 1:
        flat = {twin: values | {"edits": twin.source} for twin, values in flat.items()}
    keys = sorted({key for values in flat.values() for key in values}, key=lambda key: (key != "edits", key))
    kinds = {key: len({str(values.get(key)) for values in flat.values()}) for key in keys}
    telling = [key for key in keys if kinds[key] == len(twins)][:1] or [key for key in keys if kinds[key] > 1][:3]
    return ", ".join(_option(key, flat[setting].get(key), 12) for key in telling)


def _option(name: str, value: object, digits: int | None = None) -> str:
    """ "cache", "no cache", "v_lr 0.5"; at most so many characters of the value."""
    if value is None or value is False:
        return f"no {name}"
    return name if value is True else f"{name} {str(value)[:digits]}"


def _flat(details: dict[str, object]) -> dict[str, object]:
    parts = {key: value if isinstance(value, dict) else {key: value} for key, value in details.items()}
    return {name: value for part in parts.values() for name, value in part.items() if value is not None}


def metric(name: str) -> str:
    return METRICS.get(name, name.replace("_", " "))


def unit(name: str) -> str:
    """Behind a number of this metric; "" for a share."""
    return f" {NATS}" if name.endswith(("_logprob", "_logprob_best", "drift")) else ""


def capital(text: str) -> str:
    """With a capital letter at its start: "Log p of the text"."""
    return text[:1].upper() + text[1:]


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


def some(items: Sequence[str], noun: str) -> str:
    """All of a few items, the number of many."""
    return listed(items) if len(items) <= FEW else counted(len(items), noun)


def degenerate(runs: Sequence[Run]) -> str:
    """How many completions are empty, repeating, or from logits that are not finite: "6 of 8 empty"; "" if none are.

    The kinds are not added up: a completion can be of two.
    """
    kinds = dict.fromkeys(kind for run in runs for kind in run.result.degenerate)
    totals = {kind: sum(run.result.degenerate.get(kind, 0) for run in runs) for kind in kinds}
    whole = sum(run.result.completions for run in runs)
    return ", ".join(f"{n:,} of {whole:,} {kind.replace('_', ' ')}" for kind, n in totals.items() if n)


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


def written(before: float, after: float, digits: int = 3) -> float:
    """The difference of two scores as they are written: a reader who takes one from the other gets the same."""
    return round(after, digits) - round(before, digits)


def change(before: float, after: float, between: Measure) -> tuple[str, str, str]:
    """Two scores and the difference `between` them with its interval, all in the digits that it takes to see it.

    Two digits, three where two would give another difference than the true one, four where fewer show one, or a bound
    of it, as 0.
    """

    def seen(digits: int) -> bool:
        pairs = [(between.value, written(before, after, digits)), *((v, v) for v in (between.low, between.high))]
        return all(round(shown, digits) for true, shown in pairs if abs(true) > 5e-7)

    exact = round(written(before, after, 2) - round(between.value, 2), 2) == 0
    digits = 2 if exact and seen(2) else 3 if seen(3) else 4
    difference = number(written(before, after, digits), digits, sign=True)
    with_bounds = f"{difference} {bounds(between, digits, sign=True)}".rstrip()
    return number(before, digits), number(after, digits), with_bounds


def p_value(p: float) -> str:
    """Two digits, three for a small p, and as many as it takes to see that it is below LEVEL, if it is."""
    few = (3,) if p < 0.0095 else (2, 3, 4)
    digits = next((n for n in few if (round(p, n) < LEVEL) == (p < LEVEL)), 5)
    text = "p < 0.001" if p < 0.001 else f"p = {p:.{digits}f}"
    return text.replace(" ", NO_BREAK)
