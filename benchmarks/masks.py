"""What a mask over updates writes for ordinary tokens, held against how far the model drifts (the study's question 5).

    python -m benchmarks.masks [--edits 200 230] [--data DIR] [--tasks NLI ...] [--limit 40] [--table FILE]

MEMIT's update D (d, f) is small where C, the second moments of ordinary keys, is large. A mask over its entries does
not know C. With C scaled to trace f, tr(D C D^T) / |D|^2 is 1 for a D that lies anyhow to the ordinary keys, and
tr(D C D^T) is what D writes for an ordinary token, squared. D is all change of a layer after the last update.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import experiment as ex
from benchmarks._common import embedded, hparams_file, new_file, parser, printed
from core import hparams
from core.lm.model import orient
from core.lm.moments import second_moments
from core.lm.weights import weight_of
from core.script import positive
from editors.memit import MEMITSettings

RECT = ("rect:keep=0.4", "rect:keep=0.2", "rect:keep=0.2,feedback=true")
RULES = ("none", *RECT, "random:keep=0.4", "magnitude:keep=0.4", "scale:keep=0.8", "scale:keep=0.6")
TASKS = ("NLI", "SentimentAnalysis", "dialogue", "ClosedDomainQA")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    p = parser("masks", "What a mask writes for other tokens.")
    p.add_argument("--edits", type=int, nargs=2, default=(200, 230), metavar=("BEGIN", "END"))
    p.add_argument("--batch", type=positive, default=10, help="edits of an update (default: 10)")
    p.add_argument("--data", type=Path, metavar="DIR", help="as of test-task.py")
    p.add_argument("--rules", nargs="+", default=RULES, help="as --regularizer takes them")
    p.add_argument("--tasks", nargs="+", default=TASKS, help="whose drift is measured")
    p.add_argument("--limit", type=positive, default=40, help="records of each (default: 40)")
    p.add_argument("--table", type=new_file, metavar="FILE", help="write every number there, as CSV")
    return p.parse_args(argv)


@dataclass(frozen=True)
class Masked:
    """One regulariser: of each layer tr(D C D^T) / |D|^2 and tr(D C D^T), and what the model does with all D in."""

    rule: str
    ratio: Sequence[float]
    written: Sequence[float]
    held: float
    drift: Sequence[float]
    """Nats a token, of each task."""

    def __str__(self) -> str:
        ratio, written = (" ".join(f"{value:.2f}" for value in values) for values in (self.ratio, self.written))
        drift = " ".join(f"{value:.4f}" for value in self.drift)
        return f"{self.rule:28} held {self.held:.2f}  drift {drift}  ratio {ratio}  written {written}"


def run(args: argparse.Namespace | None = None) -> Iterator[str]:
    args = args or arguments([])
    lm, edits = embedded(), ex.edits("zsre", *args.edits, data=args.data)
    hp = hparams.load(MEMITSettings, hparams_file("MEMIT"))
    moments = [c.double() * len(c) / c.double().trace() for c in second_moments(lm, hp.layers, hp.corpus).values()]
    given = {"limit": args.limit, "data": args.data}
    unedited = {task: ex.expect(lm, task, **given) for task in args.tasks}
    yield f"{len(edits)} edits in updates of {args.batch}; drift of {', '.join(args.tasks)}; layers {hp.layers}"
    rows = []
    for rule in args.rules:
        ratio, written = list[float](), list[float]()
        with ex.edited(lm, "MEMIT", edits, batch_size=args.batch, regularizer=rule) as record:
            for c, (name, was) in zip(moments, record.editing.unedited.items(), strict=True):
                change = weight_of(lm.model, name).detach() - was
                d = orient(lm.module(name.removesuffix(".weight")), change).double()  # (d, f)
                written.append(float(((d @ c) * d).sum()))
                ratio.append(written[-1] / float(d.square().sum()))
            scores = [ex.score(lm, task, **given, unedited=known) for task, known in unedited.items()]
            held = record.quality()["after"]["reliability"].value
        rows.append(Masked(rule, ratio, written, held, [score.metrics["drift"].value for score in scores]))
        if args.table:  # after each, as they take minutes
            tabulated(rows, hp.layers, args.tasks, args.table)
        yield str(rows[-1])


def tabulated(rows: Sequence[Masked], layers: Sequence[int], tasks: Sequence[str], file: Path) -> None:
    """A row for each number: of the edits (reliability), of a layer (ratio, written) or of a task (drift)."""
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(("rule", "measure", "of", "value"))
        for row in rows:
            writer.writerow((row.rule, "reliability", "edits", row.held))
            for measure, places in (("ratio", layers), ("written", layers), ("drift", tasks)):
                values = zip(places, getattr(row, measure), strict=True)
                writer.writerows((row.rule, measure, place, value) for place, value in values)


if __name__ == "__main__":
    printed(lambda: run(arguments()))
