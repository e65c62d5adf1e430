"""The numbers behind the figures, as HTML tables."""

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from analysis import edits, words
from analysis.collect import Result, Setting
from analysis.study import CHOICE, Group, Panel, Point, Study
from analysis.tradeoff import Trade
from core.types import Measure

Names = Mapping[Setting, str]


def text(plain: str) -> str:
    """Text as HTML, with typographic apostrophes."""
    return html.escape(plain).replace("&#x27;", "\u2019")


def tag(name: str, inside: str = "", **attributes: str) -> str:
    """An element. `inside` is HTML already, attributes are text; `class_` is class, `aria_label` is aria-label."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    return f"<{name}{given}>{inside}</{name}>"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in a box that scrolls where it is too wide. A row's first cell names it."""
    top = tag("tr", "".join(tag("th", cell, scope="col") for cell in head))
    body = "\n".join(
        tag("tr", tag("th", row[0], scope="row") + "".join(tag("td", cell) for cell in row[1:])) for row in rows
    )
    said = tag("caption", tag("span", caption))
    whole = tag("table", f"{said}\n{tag('thead', top)}\n{tag('tbody', body)}")
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label="table, scrolls sideways")


def cell(measure: Measure | None, mark: str = "", sign: bool = False) -> str:
    """A value with its interval below."""
    if measure is None:
        return words.UNKNOWN
    return f"{words.number(measure.value, sign=sign)}{mark}{tag('small', words.bounds(measure, sign=sign))}"


def unedited(study: Study) -> str:
    """The model before any edit, a row per task."""
    rows = []
    for panel in study.panels:
        base = panel.baseline()
        if base:
            known = base.metrics
            score = cell(known[base.headline])
            parts = [cell(known.get(name)) for name in ("trivial", CHOICE, "answered")]
            rows.append(
                [text(panel.title), words.metric(base.headline), f"{base.n:,}", score, *parts, _published(base)]
            )
    head = ["task", "metric", "records", "score", "trivial", "choice accuracy", "answered", "published"]
    return table("The unedited model", head, rows) if rows else tag("p", "There is no result of the unedited model.")


def _published(result: Result) -> str:
    found = (result.content.get("published") or {}).get("as_released", [])
    return " or ".join(words.number(score) for score in found) or words.UNKNOWN


def scores(points: Sequence[Point], names: Names) -> str:
    """A row per number of edits and setting, a column per task; falls and rises that are significant are marked."""
    panels = list(dict.fromkeys(point.panel for point in points))
    start = [head_cell("unedited", 0), *(cell(_base(panel, points)) for panel in panels)]
    rows = [[first, *(_score(found.get(panel)) for panel in panels)] for first, found in _rows(points, names)]
    caption = "Scores with 95 % intervals. ▼ significantly below the unedited model, ▲ above."
    return table(caption, ["", *(text(panel.title) for panel in panels)], [start, *rows])


def head_cell(name: str, edits: int, runs: int = 1) -> str:
    """What a row is about: the regulariser, and below it the number of edits."""
    repeats = f", {words.counted(runs, 'run')}" if runs > 1 else ""
    return text(name) + tag("small", f"{words.counted(edits, 'edit')}{repeats}")


def _base(panel: Panel, points: Sequence[Point]) -> Measure | None:
    base = panel.baseline()
    metric = next(point.metric for point in points if point.panel is panel)
    return base.metrics.get(metric) if base else None


def _score(point: Point | None) -> str:
    if point is None:
        return words.UNKNOWN
    return cell(point.measure, "" if not point.significant else " ▼" if point.fall else " ▲")


def differences(points: Sequence[Point], names: Names, to: str = "unedited score") -> str:
    """The same rows: difference to what the points are compared with, its interval, p before and after correction."""
    panels = list(dict.fromkeys(point.panel for point in points))
    rows = [[first, *(_difference(found.get(panel)) for panel in panels)] for first, found in _rows(points, names)]
    caption = f"Score minus {to}, its 95 % interval, p, and p after Holm's correction."
    return table(text(caption), ["", *(text(panel.title) for panel in panels)], rows)


def _difference(point: Point | None) -> str:
    if point is None or point.difference is None or point.p_holm is None:
        return words.UNKNOWN
    p = [words.p_value(point.difference.p), f"Holm {words.p_value(point.p_holm)}"]
    return cell(point.difference.measure, sign=True) + "".join(tag("small", text(part)) for part in p)


def _rows(points: Sequence[Point], names: Names) -> Iterable[tuple[str, dict[Panel, Point]]]:
    """(first cell, point by panel), by edits and then by setting."""
    settings = list(dict.fromkeys(point.setting for point in points))
    for count in sorted({point.edits for point in points}):
        for setting in settings:
            found = {p.panel: p for p in points if (p.edits, p.setting) == (count, setting)}
            if found:
                yield head_cell(names[setting], count, max(len(p.results) for p in found.values())), found


def edit_quality(study: Study, names: Names) -> str:
    """A row per number of edits and setting: how the edits took and how far the weights moved."""
    rows = []
    stages = [("own", "reliability"), *(("after", name) for name in edits.NAMES)]
    for count in sorted({n for setting in names for n in study.counts(setting)}):
        for setting, name in names.items():
            runs = study.runs(setting, count)
            if runs:
                moved = edits.moved(runs)
                change = words.number(moved.value, 4) if moved else words.UNKNOWN
                measured = [cell(edits.quality(runs, *stage)) for stage in stages]
                rows.append([head_cell(name, count, len(runs)), *measured, change])
    head = ["", "reliability, own", "reliability, last", "generalisation", "locality", "‖ΔW‖ / ‖W‖"]
    return table("Quality of the edits with 95 % intervals, and relative change of the edited weights.", head, rows)


def trade_off(trades: Sequence[Trade], names: Names) -> str:
    rows = [
        [head_cell(names[t.setting], t.edits), text(words.group(t.setting.group)), cell(t.success), cell(t.ability)]
        for t in sorted(trades, key=lambda trade: trade.edits)
    ]
    head = ["", "method", "reliability, last", "relative ability"]
    return table("Edit success and what is left of the abilities, with 95 % intervals.", head, rows)


KINDS = {"empty": "empty", "repeating": "repeating", "not_finite": "not finite"}


def degenerate(study: Study, group: Group, names: Names) -> str:
    """How many completions were empty, repeat themselves or came from logits that are not finite; "" if none did."""
    panels = [panel for panel in study.panels if any(setting.group == group for setting in panel.runs)]
    asked = [("unedited", 0, [panel.unedited[:1] for panel in panels])]
    for count in sorted({n for setting in names for n in study.counts(setting)}):
        for setting, name in names.items():
            asked.append((name, count, [panel.runs.get(setting, {}).get(count, []) for panel in panels]))
    rows = [
        [head_cell(name, count), *map(_degenerate, runs)]
        for name, count, runs in asked
        if any(_counts(run) for part in runs for run in part)
    ]
    caption = "Degenerate completions: empty, the same over and over, or from logits that are not finite."
    return table(caption, ["", *(text(panel.title) for panel in panels)], rows) if rows else ""


def _counts(run: Result) -> dict[str, int]:
    return {kind: n for kind, n in (run.content.get("degenerate") or {}).items() if n}


def _degenerate(runs: Sequence[Result]) -> str:
    if not any(run.content.get("degenerate") for run in runs):
        return words.UNKNOWN
    total = sum((Counter(_counts(run)) for run in runs), Counter[str]())
    whole = sum(run.content.get("completions", run.n) for run in runs)
    found = "".join(tag("small", f"{n:,} {KINDS.get(kind, kind)}") for kind, n in sorted(total.items()))
    return f"{total.total():,} of {whole:,}{found}" if total else "0"


def refused(study: Study, names: Names) -> str:
    """Updates that were not applied, and why; "" if all were."""
    rows = [
        [head_cell(name, count), text(words.listed(list(map(str, part["edits"])))), text(str(part["reason"]))]
        for setting, name in names.items()
        for count in study.counts(setting)
        for run in study.runs(setting, count)
        for part in run.content.get("refused") or ()
    ]
    return table("Updates that were refused.", ["", "edits refused", "reason"], rows) if rows else ""
