"""The words of a notebook: load, wrap, edits, edited, probe, expect, score, yardsticks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from core import hparams, results
from core.errors import UserError
from core.lm.likelihood import Expected
from core.lm.load import load as load_folder
from core.lm.model import LM
from core.metrics import summarize
from core.registry import discover, pick
from core.types import MODES, Edit, Editor, Measure, Sample, Scored, Task, per_update
from editors import regularizers
from experiment import measures, quality
from experiment.asked import batches
from experiment.editing import Editing, Rules, editor_of
from experiment.harness.found import Yardsticks
from experiment.harness.yardstick import Yardstick
from experiment.measures.asked import questions
from experiment.measures.unedited import measured
from experiment.plan import complete, limited
from experiment.quality import Probe
from experiment.quality import probe as probe
from experiment.scoring import score_model
from inputs.sources import find_data, find_edits, find_model, settings_file


def load(name: str | Path | None = None, **placement: Any) -> LM:
    """The model of that name in hugging_cache/, or in that folder; without one, what the scripts would take.

    `placement` is device, dtype, device_map, attn as on the command line. Raises UserError if it cannot be loaded.
    """
    found, folder = find_model(None if name is None else str(name))
    return load_folder(folder, found, **placement)


def wrap(model: PreTrainedModel, tokenizer: Any, name: str) -> LM:
    """A model in memory. `name` says whose settings (hparams/METHOD/NAME.yaml) it is edited with."""
    return LM(model, tokenizer, name)


def edits(
    source: Path | str,
    begin: int,
    end: int,
    step: int = 1,
    *,
    data: Path | str | None = None,
    draw: int | None = None,
    **reading: str | None,
) -> list[Edit]:
    """The edits range(begin, end, step) of an edit set or a file; with `draw`, a seed, as many drawn from `begin` on.

    `source` is the edit set's name, e.g. "zsre", whose file `data` names a folder for instead of data/; or the path of
    a file in any edit set's format. `reading` is edit_format and target, as on the command line. Raises UserError for a
    record that is no edit.
    """
    edit_set, found = find_edits(source, None if data is None else Path(data), find_data, **reading)
    if data is not None and found.path == Path(source):
        raise UserError(f"{source} is a file: data, a folder with files of edit sets, has no part in it")
    return edit_set.edits(found.path, begin, end, step, draw)


@dataclass
class Record:
    """What was done to a model: `editing` holds its updates, `before` what the unedited model said about each edit."""

    editing: Editing
    edits: Sequence[Edit]
    before: Sequence[Probe]

    def quality(self) -> dict[str, dict[str, Measure]]:
        """How well the edits took: stage ("before", "own", "after") -> metric -> mean with its interval.

        Asks the model as it is now. Raises ValueError outside the `with` block of `edited`, where the edits are undone.
        """
        if len(self.editing.own) < len(self.edits):
            raise ValueError("the edits are undone: ask for their quality inside the `with` block")
        return quality.summarize(self.before, self.editing.own, probe(self.editing.lm, self.edits))


@contextmanager
def edited(
    lm: LM,
    method: str,
    edits: Sequence[Edit],
    *,
    batch_size: int | None = None,
    regularizer: str = "none",
    settings: Mapping[str, Any] | Path | str | None = None,
    seed: int = 0,
    max_update: float = 1000.0,
    **options: Any,
) -> Iterator[Record]:
    """Let the model be edited inside the block; every weight is put back bit for bit at its end, however it ends.

    `batch_size` edits are one update; without one, all of them, or a single one for a method that takes them one by
    one. `settings` are those of the method: a mapping, or a file instead of hparams/METHOD/MODEL.yaml. `options` are
    the regulariser's, e.g. keep=0.4. Raises UserError for an update that is refused.
    """
    if not edits:
        raise UserError("there are no edits to make")
    editor: type[Editor] = pick("method", method, discover("editors", "EDITOR"))
    mode = "Batch-Sequential" if batch_size else next(mode for mode in MODES if mode in editor.modes)
    if mode not in editor.modes:
        raise UserError(f"{editor.name} takes its edits one by one: leave batch_size out")
    complete(editor, edits)
    rules = Rules(regularizers.make(regularizer, options), seed, max_update)
    if isinstance(settings, Mapping):
        hp = hparams.build(editor.hparams, dict(settings), "settings")
    else:
        hp = hparams.load(editor.hparams, settings_file(editor.name, lm.name, settings))
    updates = batches(edits, per_update(mode, len(edits), batch_size))
    before = [answer for batch in updates for answer in probe(lm, batch)]
    editing = Editing(lm, editor_of(editor, lm, hp, seed), rules)
    try:
        for batch in updates:
            editing.step(batch)
        with editing.scored():
            yield Record(editing, edits, before)
    finally:
        editing.undo()


@dataclass(frozen=True)
class Scores:
    """What a model scored on a task; as text, the table that the scripts show."""

    task: str
    metrics: Mapping[str, Measure]
    n: int
    """Records, of which a sample of NER is a fourth."""
    samples: Scored

    @property
    def headline(self) -> Measure:
        return next(iter(self.metrics.values()))

    def __str__(self) -> str:
        return results.table(self.metrics, self.n)


def yardsticks(*names: str, tasks: Path | str | None = None) -> list[Yardstick]:
    """Tasks of lm-evaluation-harness for `score`; `tasks` is a folder with *.yaml of further ones.

    A group that has a score is one, any other as many as it has members. Raises UserError as --lm-eval does.
    """
    return Yardsticks().of(names, None if tasks is None else Path(tasks))


def score(
    lm: LM,
    task: str | Yardstick,
    *,
    limit: int | None = None,
    data: Path | str | None = None,
    batch_tokens: int | None = None,
    unedited: Sequence[Expected] | None = None,
) -> Scores:
    """Score the model, as it is now, on the first `limit` records of a task. UserError for data it cannot read.

    `task` is a task's name, or one of `yardsticks`, of which no measures are taken beside the score.
    `unedited` is what `expect` returned of the same records before the edits: with it the drift is measured too.
    """
    chosen, samples = _samples(task, limit, data)
    wanted = () if isinstance(chosen, Yardstick) else _measures(unedited)
    asked = questions(lm, chosen, samples, wanted, unedited)
    scored = score_model(lm, chosen, samples, batch_tokens, asked=asked)
    return Scores(chosen.name, summarize(chosen, scored), len({sample.record for sample in samples}), scored)


def expect(lm: LM, task: str, *, limit: int | None = None, data: Path | str | None = None) -> list[Expected]:
    """What the model, as it is now, expects at the reference answers of a task: for `score` to measure a drift from."""
    chosen, samples = _samples(task, limit, data)
    return measured(lm, chosen, samples)


def _measures(unedited: Sequence[Expected] | None) -> set[str]:
    return {*measures.NAMES} if unedited is not None else {*measures.NAMES} - {"drift"}


def _samples(task: str | Yardstick, limit: int | None, data: Path | str | None) -> tuple[Task, list[Sample]]:
    if isinstance(task, Yardstick):
        return task, task.first(limit)
    chosen: Task = pick("task", task, discover("tasks", "TASK"))
    return chosen, limited(list(chosen.samples(_file(f"task-data/{chosen.file}", data))), limit)


def _file(name: str, data: Path | str | None) -> Path:
    return find_data(name, None if data is None else Path(data)).path
