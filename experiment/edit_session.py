"""A run that edits the model first, and scores it at one or more numbers of edits on the way."""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from core import hparams, readers, results
from core.errors import UserError
from core.lm.model import LM
from core.registry import pick
from core.types import Edit, Editor, Mode, Task
from experiment import quality
from experiment.checkpoint import Saved
from experiment.editing import Editing, Regularize, Rules
from experiment.export import export, exported
from experiment.run import Session, Wanted
from experiment.scoring import batches
from inputs.sources import Source, find_data

MODES: tuple[Mode, ...] = ("Instance-Sequential", "Batch-Single", "Batch-Sequential")


@dataclass(frozen=True)
class Plugins:
    """What the post-edit script wires together."""

    tasks: Mapping[str, Task]
    editors: Mapping[str, type[Editor]]
    regularizers: Sequence[str]
    regularizer: Callable[[str, float], Regularize]


class EditSession(Session):
    """Edits accumulate: the model is edited on from one checkpoint to the next, never again from the start."""

    def __init__(self, args: argparse.Namespace, plugins: Plugins) -> None:
        self.plugins = plugins
        self.editor: type[Editor] = pick("method", args.method, plugins.editors)
        self.mode: Mode = pick("mode", args.mode, {mode: mode for mode in MODES})
        self._check(args)
        super().__init__(args, plugins.tasks)
        if args.draw is not None:
            self.root /= f"draw-{args.draw}"
        self.source: Source = find_data("edited-data/zsre.json", args.data)
        self.edits: list[Edit] = readers.edits(self.source.path, args.begin, args.end, args.step, args.draw)
        self.batches = list(batches(self.edits, self.mode, args.batch_size))
        self.counts = checkpoints(args.checkpoints, self.batches)
        self.hparams_file = args.hparams or Path("hparams") / self.editor.name / f"{self.model_name}.yaml"
        self.hp = hparams.load(self.editor.hparams, self.hparams_file)
        if args.edit_batch is not None:
            if not hasattr(self.hp, "edit_batch"):
                raise UserError(f"--edit-batch: {self.editor.name} takes its edits one at a time")
            self.hp = replace(self.hp, edit_batch=args.edit_batch)
        self._edit = results.plain(self._edit_settings())
        # Whether there is a model to save; a folder in its place is refused here, before hours of editing.
        self.unsaved = bool(args.save_model) and not exported(args.save_model, self._edited())

    def _check(self, args: argparse.Namespace) -> None:
        if self.mode not in self.editor.modes:
            fitting = [mode for mode in MODES if mode in self.editor.modes]
            raise UserError(f"{self.editor.name} does not run in mode {self.mode}; its modes: {', '.join(fitting)}")
        if (args.batch_size is None) == (self.mode == "Batch-Sequential"):
            raise UserError(f"{self.mode} {'needs a' if args.batch_size is None else 'takes no'} BATCH_SIZE")
        pick("regularizer", args.regularizer, {name: name for name in ("none", *self.plugins.regularizers)})

    def _edit_settings(self) -> dict[str, Any]:
        args = self.args
        return {
            "mode": self.mode,
            "method": self.editor.name,
            "range": [args.begin, args.end, args.step],
            "draw": args.draw,
            "batch_size": args.batch_size,
            "hparams": asdict(self.hp),
            "files": {name: readers.sha256(path) for name, path in self.files().items()},
            "regularizer": None if args.regularizer == "none" else {"name": args.regularizer, "keep": args.keep},
            "max_update": args.max_update,
            "data": self.source.describe(),
        }

    def _edited(self) -> dict[str, Any]:
        """What decides the edited weights."""
        return {"model": self.settings(Wanted(self.tasks[0]))["model"], "seed": self.args.seed, "edit": self._edit}

    def files(self) -> dict[str, Path]:
        """What the settings depend on beside themselves, e.g. MEND's trained network. UserError if it is not there."""
        needed = getattr(self.hp, "files", None)
        return needed(self.model_name) if needed else {}

    def wanted(self) -> list[Wanted]:
        """Each task after each number of edits, as if the run had been asked for that many."""
        args = self.args
        label = "" if args.regularizer == "none" else f"-{args.regularizer.upper()}{100 * args.keep:g}"
        found = []
        for count in self.counts:
            plan = results.EditPlan(self.mode, self.editor.name + label, count, args.batch_size)
            edit = {**self._edit, "range": [args.begin, args.begin + count * args.step, args.step]}
            found += [Wanted(task, plan, edit) for task in self.tasks]
        return found

    def make(self, missing: Sequence[Wanted]) -> Iterator[Path]:
        if not missing and not self.unsaved:
            self._saved().remove()
            return
        lm = self.load()
        first = missing[0].plan if missing else None
        editing, saved = self.begin(lm, first.edits if first else len(self.edits))
        for count, group in itertools.groupby(missing, key=lambda wanted: wanted.plan.edits if wanted.plan else 0):
            self.advance(editing, saved, count)
            extra = self.told(editing, count)
            for wanted in group:
                yield self.score(lm, wanted, extra)
        if self.unsaved:
            self.advance(editing, saved, len(self.edits))
            note = {"settings": self._edited(), "refused": editing.refused, "environment": self.environment}
            export(lm, self.args.save_model, note)
            print(f"edited model -> {self.args.save_model}")
        saved.remove()

    def begin(self, lm: LM, count: int) -> tuple[Editing, Saved]:
        """The model with those of the first `count` edits that a stopped run has left, if there was one."""
        args = self.args
        with self.timed("prepare"):
            editor = self.editor(lm, self.hp)
        with self.timed("probe before"):
            # By update, not all at once: a probability's last bits depend on the rows it shares a batch with, and a
            # checkpoint is to be, to the last bit, what a run that ends there gives.
            self.before = [told for batch in self.batches for told in quality.probe(lm, batch)]
        rule = None if args.regularizer == "none" else self.plugins.regularizer(args.regularizer, args.keep)
        editing = Editing(lm, editor, Rules(rule, args.seed, args.max_update, args.on_error == "skip"))
        saved = self._saved()
        saved.read(editing, self.batches[: self._updates(count)])
        self._note_edits(saved)
        return editing, saved

    def _saved(self) -> Saved:
        args = self.args
        # Edits of a sequence are those of any longer one, so only what a single batch is made of knows its end.
        ends = self._edit["range"] if self.mode == "Batch-Single" else [args.begin, args.step]
        key = {**self._edited(), "edit": {**self._edit, "range": ends}}
        stems = [str(self.stem(wanted).relative_to(self.root)) for wanted in self.wanted()]
        return Saved(self.root / "unfinished", key, self.environment, stems)

    def _note_edits(self, saved: Saved) -> None:
        if saved.count:
            self.kept["updates"] = f"{saved.count} of {len(self.batches)} updates"

    def _updates(self, count: int) -> int:
        """How many updates make `count` edits."""
        return list(itertools.accumulate(map(len, self.batches))).index(count) + 1

    def advance(self, editing: Editing, saved: Saved, count: int) -> None:
        """Edit on until `count` edits are in, saving now and then."""
        start, last = editing.position, time.monotonic()
        todo = self.batches[start : self._updates(count)]
        if not todo:
            return
        try:
            for batch in tqdm(todo, desc=f"editing with {self.editor.name}", unit="update"):
                editing.step(batch)
                if time.monotonic() - last > self.args.save_every:
                    saved.write(editing)
                    last = time.monotonic()
        finally:
            if editing.whole and editing.position > start:
                saved.write(editing)
            self._note_edits(saved)

    def told(self, editing: Editing, count: int) -> results.EditRecord:
        """What a result file says about the first `count` edits, all of them in."""
        self.seconds["edit"] = round(editing.seconds, 3)
        with self.timed("probe after"):
            after = quality.probe(editing.lm, self.edits[:count])
        stages = {"before": self.before[:count], "own": editing.own, "after": after}
        summary = quality.summarize(*stages.values())
        print(f"\nedit quality: {count} edits in {editing.position} updates")
        print(quality.table(summary))
        return results.EditRecord(
            quality=summary,
            change=editing.change(),
            refused=editing.refused,
            updates=[asdict(update) for update in editing.updates],
            edits=quality.records(self.edits[:count], stages),
        )


def checkpoints(asked: Sequence[int], updates: Sequence[Sequence[Edit]]) -> list[int]:
    """The numbers of edits to score at: those asked for, and all. UserError for one at which no update ends."""
    ends = list(itertools.accumulate(map(len, updates)))
    for count in asked:
        if count not in ends:
            shown = ", ".join(map(str, ends[:5])) + (", ..." if len(ends) > 5 else "")
            raise UserError(f"--checkpoints: no update ends at {count} edits; they end at {shown}")
    return sorted({*asked, ends[-1]})
