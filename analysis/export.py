"""results.csv: a row per result and metric. comparisons.csv: a row per difference that the page is written from."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from analysis import words
from analysis.collect import Run, Setting
from analysis.findings import Findings
from analysis.harm import Equal
from analysis.study import DRIFT, RELEASED, Panel, Point, Study, differs, metric_of

COLUMNS = (
    *(
        "model",
        "model_sha256",
        "dtype",
        "data",
        "limit",
        "mode",
        "method",
        "setting",
        "regularizer",
        "keep",
        "parameters",
        "batch_size",
        "edit_data",
        "edits",
    ),
    *("first_edit", "draw", "seed", "task", "metric", "value", "low", "high", "n"),
    *("difference", "difference_low", "difference_high", "p", "test", "published", "path"),
)
COMPARED = (
    *("model", "model_sha256", "dtype", "data", "limit", "method", "mode", "batch_size", "setting"),
    *("regularizer", "keep", "parameters", "edit_data", "against", "edits", "facts", "task", "metric"),
    *("value", "other"),
    *("difference", "low", "high", "p", "p_holm", "test", "n", "runs"),
)
UNEDITED, PLAIN, EQUAL = "unedited", "no regulariser", "equal success"
"""What `against` says: the unedited model; the same edits without a regulariser; editing less, where as many hold."""


def csv_text(studies: Sequence[Study]) -> str:
    """The table as text: plain decimal numbers, nothing where there is nothing to say.

    `setting` is what figures call it, `parameters` are those of the regulariser but `keep`, as JSON. How the edits
    themselves fared has no task: metrics are "before reliability", "own reliability", "after reliability" and so on.
    """
    return _table(COLUMNS, (row for study in studies for row in _results(study)))


def comparisons_text(found: Sequence[Findings]) -> str:
    """The table of differences as text: means over runs of the same setting, with 95 % intervals.

    `p_holm` is corrected as on the page: over the rows of one method, metric and `against`. Harm at equal success is of
    a regulariser, whatever its parameters, and a mean over tasks; `facts` are those that hold.
    """
    return _table(COMPARED, (row for f in found for row in _compared(f)))


def _table(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _results(study: Study) -> Iterator[dict[str, Any]]:
    names = words.labels(study.settings)
    for panel in study.panels:
        for run in panel.all_runs():
            name = {"setting": names[run.edit]} if run.edit else {}
            yield from (row | name for row in rows(panel, run))
    for setting in study.settings:
        for count in study.counts(setting):
            for run in study.runs(setting, count):
                yield from (row | {"setting": names[setting]} for row in _quality(run))


def _quality(run: Run) -> Iterator[dict[str, Any]]:
    """How the edits fared: the same in the results of all tasks."""
    edited = run.result.edited
    for stage, parts in (edited.quality if edited else {}).items():
        for name, measure in parts.items():
            row = {"task": None, "n": len(edited.edits) if edited else None, "metric": f"{stage} {name}"}
            yield {**_made(run), **row, "value": measure.value, "low": measure.low, "high": measure.high}


def _made(run: Run) -> dict[str, Any]:
    """What tells a run from others."""
    settings, (kind, _, limit) = run.result.settings, run.data
    edit = settings["edit"] or {}
    made = {
        **{"model": run.model.name, "model_sha256": run.model.sha256, "dtype": run.model.dtype},
        **{"data": kind, "limit": limit, "edits": run.edits, "seed": settings["seed"], "task": run.result.task},
        **{key: edit.get(key) for key in ("mode", "method", "batch_size", "draw")},
        **{"first_edit": edit["range"][0] if edit else None, "n": run.result.n, "path": run.place},
    }
    return made | (_setting(run.edit) if run.edit else {})


def rows(panel: Panel, run: Run) -> Iterator[dict[str, Any]]:
    """One for each metric of a result."""
    for name, measure in run.result.metrics.items():
        row = {**_made(run), "metric": name, "value": measure.value, "low": measure.low, "high": measure.high}
        difference = differs([panel.baseline([run])], [run], name) if run.edit else None
        if difference:
            m = difference.measure
            row |= {"difference": m.value, "difference_low": m.low, "difference_high": m.high}
            row |= {} if name == DRIFT else {"p": difference.p, "test": difference.test}  # above 0 after any change
        if name == metric_of(run, RELEASED):
            row["published"] = " ".join(map(str, run.released))
        yield row


def _compared(f: Findings) -> Iterator[dict[str, Any]]:
    study, (method, mode, batch) = f.study, f.group
    common = {
        **{"model": study.model.name, "model_sha256": study.model.sha256, "dtype": study.model.dtype},
        **{"data": study.kind, "limit": study.limit, "method": method, "mode": mode, "batch_size": batch},
    }
    for against, families in ((UNEDITED, {**f.families, DRIFT: f.drift}), (PLAIN, f.rescued)):
        for points in families.values():
            for point in points:
                row = {**common, **_setting(point.setting), "setting": f.names[point.setting], "against": against}
                yield row | _of_point(point)
    for equal in f.equals:
        yield common | _setting(equal.rule) | {"setting": f.rule_names[equal.rule], "against": EQUAL} | _of_equal(equal)


def _setting(setting: Setting) -> dict[str, Any]:
    parameters = {} if setting.parameters == "{}" else {"parameters": setting.parameters}
    return {"regularizer": setting.regularizer, "keep": setting.keep, **parameters, "edit_data": setting.source}


def _of_point(point: Point) -> dict[str, Any]:
    row = {"edits": point.edits, "task": point.panel.title, "metric": point.metric, "value": point.measure.value}
    row |= {"n": point.runs[0].result.n, "runs": len(point.runs)}
    if difference := point.difference:
        m = difference.measure
        row |= {"other": difference.before, "difference": m.value, "low": m.low, "high": m.high}
        row["n"] = difference.records
        if point.metric != DRIFT:
            row |= {"p": difference.p, "p_holm": point.p_holm, "test": difference.test}
    return row


def _of_equal(equal: Equal) -> dict[str, Any]:
    row = {"facts": equal.facts, "metric": equal.measure, "value": equal.own, "other": equal.control}
    if m := equal.difference:
        row |= {"difference": m.value, "low": m.low, "high": m.high, "p": equal.p, "p_holm": equal.p_holm}
    return row
