"""The models of one process: each found and hashed once, loaded once, and measured unedited once.

A grid runs many cells on one model. Every cell puts the weights back bit for bit, so what was measured of the unedited
model (an editor's templates and second moments, the answers to the edits' prompts) holds for the next one too.
"""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.lm.load import load
from core.lm.model import LM, TOKENIZER, hash_files, hash_folder
from core.provenance import environment
from core.types import Edit, Editor
from experiment.asked import Placement
from experiment.editing import editor_of
from experiment.harness.found import Yardsticks
from experiment.quality import Probe, probe
from inputs.sources import find_model


@dataclass(frozen=True)
class Model:
    """A model on the disk; `sha256` is of its configuration and weights, the others are of files beside them."""

    name: str
    folder: Path
    sha256: str
    tokenizer: str | None = None
    generation_config: str | None = None
    """generation_config.json names the tokens that end a completion. None where there is no such file."""

    def settings(self, dtype: str) -> dict[str, Any]:
        """The part "model" of a result's settings."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "dtype": dtype,
            "tokenizer": self.tokenizer,
            "generation_config": self.generation_config,
        }


@dataclass
class Bench:
    """An unedited model at hand, and what was measured of it."""

    lm: LM
    environment: dict[str, Any]
    _editor: tuple[Any, Editor] | None = None
    _answers: dict[tuple[Edit, ...], list[Probe]] = field(default_factory=dict)

    def editor(self, cls: type[Editor], hp: Any, seed: int, files: Mapping[str, str]) -> Editor:
        """The editor as new; `files` are the hashes of what it depends on. Only the last is kept: some are large."""
        key = (cls, hp, seed, dict(files))
        if self._editor is None or self._editor[0] != key:
            self._editor = None  # let go before the next one is made
            self._editor = (key, editor_of(cls, self.lm, hp, seed))
        self._editor[1].load_state({})
        return self._editor[1]

    def answers(
        self, updates: Sequence[Sequence[Edit]], known: MutableMapping[tuple[int, ...], list[Probe]]
    ) -> list[Probe]:
        """What the unedited model says about each edit. `known` has it of some updates, by their edits, then of all.

        By update, not all at once: a probability's last bits depend on the rows it shares a batch with, and a
        checkpoint is to be, to the last bit, what a run that ends there gives.
        """
        for batch in map(tuple, updates):
            edits = tuple(edit.index for edit in batch)
            if batch not in self._answers:
                self._answers[batch] = known.get(edits) or probe(self.lm, batch)
            known[edits] = self._answers[batch]
        return [answer for batch in updates for answer in self._answers[tuple(batch)]]


class Models:
    """See the module's docstring. One model is held at a time. `yardsticks` are read once for all of them."""

    def __init__(self) -> None:
        self._identified: dict[str | None, Model] = {}
        self._held: tuple[Any, Bench] | None = None
        self.yardsticks = Yardsticks()

    def identify(self, given: str | None) -> Model:
        """The model that `--model` names (None: the default), found and hashed. UserError if there is none."""
        if given not in self._identified:
            name, folder = find_model(given)
            tokenizer, generation = hash_files(folder, *TOKENIZER), hash_files(folder, "generation_config.json")
            self._identified[given] = Model(name, folder, hash_folder(folder), tokenizer, generation)
        return self._identified[given]

    def bench(self, model: Model, placement: Placement) -> Bench:
        """The model loaded there."""
        key = (model, placement)
        if self._held is None or self._held[0] != key:
            self._held = None  # memory for two need not be there
            p = placement
            lm = load(
                model.folder,
                model.name,
                p.device,
                p.dtype,
                device_map=p.device_map,
                attn=p.attn,
                fingerprint=model.sha256,
            )
            self._held = (key, Bench(lm, environment(str(lm.device))))
        return self._held[1]
