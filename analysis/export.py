"""results.csv: a row per result and metric."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

from analysis.collect import Result
from analysis.study import RELEASED, Panel, Study, differs, metric_of

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
        "batch_size",
        "edits",
    ),
    *("first_edit", "draw", "seed", "task", "metric", "value", "low", "high", "n"),
    *("difference", "difference_low", "difference_high", "p", "test", "published", "path"),
)


def csv_text(studies: Sequence[Study]) -> str:
    """The table as text: plain decimal numbers, nothing where there is nothing to say."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for study in studies:
        for panel in study.panels:
            for result in [
                *panel.unedited,
                *(r for counts in panel.runs.values() for runs in counts.values() for r in runs),
            ]:
                writer.writerows(rows(panel, result))
    return buffer.getvalue()


def rows(panel: Panel, result: Result) -> Iterator[dict[str, Any]]:
    settings = result.content["settings"]
    edit = settings["edit"] or {}
    kind, _, limit = result.data
    common = {
        **{"model": result.model.name, "model_sha256": result.model.sha256, "dtype": result.model.dtype},
        **{"data": kind, "limit": limit, "edits": result.edits, "seed": settings["seed"], "task": result.task},
        **{key: edit.get(key) for key in ("mode", "method", "batch_size", "draw")},
        **{"first_edit": edit["range"][0] if edit else None, "n": result.n, "path": result.place},
    }
    if result.edit:
        common |= {"regularizer": result.edit.regularizer, "keep": result.edit.keep}
    published = (result.content.get("published") or {}).get("as_released", [])
    for name, measure in result.metrics.items():
        row = {**common, "metric": name, "value": measure.value, "low": measure.low, "high": measure.high}
        difference = differs([panel.baseline([result])], [result], name) if result.edit else None
        if difference:
            m = difference.measure
            row |= {"difference": m.value, "difference_low": m.low, "difference_high": m.high}
            row |= {"p": difference.p, "test": difference.test}
        if name == metric_of(result, RELEASED):
            row["published"] = " ".join(map(str, published))
        yield row
