"""results.csv: a row per result and metric."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from analysis.collect import Run
from analysis.study import DRIFT, RELEASED, Panel, Study, differs, metric_of

COLUMNS = (
    *(
        "model",
        "model_sha256",
        "dtype",
        "data",
        "limit",
        "mode",
        "method",
        "regularizer",
        "keep",
        "parameters",
        "batch_size",
        "edits",
    ),
    *("first_edit", "draw", "seed", "task", "metric", "value", "low", "high", "n"),
    *("difference", "difference_low", "difference_high", "p", "test", "published", "path"),
)


def csv_text(studies: Sequence[Study]) -> str:
    """The table as text: plain decimal numbers, nothing where there is nothing to say.

    `parameters` are those of the regulariser but `keep`, as JSON.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for study in studies:
        for panel in study.panels:
            writer.writerows(row for run in panel.all_runs() for row in rows(panel, run))
    return buffer.getvalue()


def rows(panel: Panel, run: Run) -> Iterator[dict[str, Any]]:
    settings, (kind, _, limit) = run.result.settings, run.data
    edit = settings["edit"] or {}
    common = {
        **{"model": run.model.name, "model_sha256": run.model.sha256, "dtype": run.model.dtype},
        **{"data": kind, "limit": limit, "edits": run.edits, "seed": settings["seed"], "task": run.result.task},
        **{key: edit.get(key) for key in ("mode", "method", "batch_size", "draw")},
        **{"first_edit": edit["range"][0] if edit else None, "n": run.result.n, "path": run.place},
    }
    if run.edit:
        common |= {"regularizer": run.edit.regularizer, "keep": run.edit.keep}
        common |= {"parameters": run.edit.parameters} if run.edit.parameters != "{}" else {}
    for name, measure in run.result.metrics.items():
        row = {**common, "metric": name, "value": measure.value, "low": measure.low, "high": measure.high}
        difference = differs([panel.baseline([run])], [run], name) if run.edit else None
        if difference:
            m = difference.measure
            row |= {"difference": m.value, "difference_low": m.low, "difference_high": m.high}
            row |= {} if name == DRIFT else {"p": difference.p, "test": difference.test}  # above 0 after any change
        if name == metric_of(run, RELEASED):
            row["published"] = " ".join(map(str, run.released))
        yield row
