"""The edits of a run that was stopped, on the disk, so that the next one goes on from there."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.disk.lock import beside, held
from core.disk.whole import clear, whole
from core.errors import UserError
from core.lm.weights import weight_of
from core.types import Edit
from experiment.editing import Editing, Update
from experiment.quality import Probe

logger = logging.getLogger(__name__)
RECORD = "record/json"
"""A tensor of bytes: a header holds 100 MB, too little for what is said about 60,000 facts of CounterFact."""
UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError)


class Checkpoint:
    """An Editing on the disk: one safetensors file with the edited weights, what the editor and the regulariser keep
    beside them, and as JSON the record and what the unedited model said.

    The weights themselves and not their sum of deltas, so that a run that goes on has every bit of the one before.
    Runs whose edits begin alike share a file. It names the `results` of all of them, so that none removes what another
    one can go on from. `count` is how many updates this run would go on from.
    """

    def __init__(self, folder: Path, key: Any, environment: Any, results: Sequence[str]) -> None:
        self.key, self.results, self.count = _hash([key, environment]), list(results), 0
        self.file = folder / f"{_hash(key)[:16]}.safetensors"

    @cached_property
    def before(self) -> dict[tuple[int, ...], list[Probe]]:
        """By the edits of an update, what the unedited model said about each: what a stopped run has left, to add to.

        `write` keeps it, as a run that goes on would else ask for minutes before it edits.
        """
        there = self._state()
        try:
            known = there["before"] if there.get("key") == self.key else []
            return {tuple(edits): [Probe.restored(told) for told in said] for edits, said in known}
        except UNREADABLE:
            return {}

    def write(self, editing: Editing) -> None:
        """Replace what is there, unless a longer run has left it further on."""
        record = {name: getattr(editing, name) for name in ("refused", "updates", "own")}
        weights = {name: weight_of(editing.lm.model, name).detach().contiguous() for name in editing.unedited}
        rest = _behind("state", editing.editor.state()) | _behind("memory", editing.memory)
        with self._alone():
            there = self._state()
            if there.get("key") != self.key:
                there = {}
            known = there.get("results", [])
            results = list(dict.fromkeys([*known, *self.results]))
            if there and len(_done(there)) > editing.position:
                self._rename(there, results)
                return
            before = list(self.before.items())
            self._save(weights | rest, {"key": self.key, "results": results, "before": before, **record})
        self.count = editing.position

    def read(self, editing: Editing, batches: Sequence[Sequence[Edit]]) -> int:
        """Bring a fresh Editing to where the file is; returns how many of `batches` are in. 0 if it is of no use."""
        if not self.file.is_file():
            return 0
        try:
            with safe_open(self.file, framework="pt") as file:
                state = _record(file)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            done = _done(state)
            planned = [[edit.index for edit in batch] for batch in batches[: len(done)]]
            if state["key"] != self.key:
                logger.warning("%s: of other versions or another device; editing starts again", self.file)
                return 0
            if sorted(done) != sorted(planned):
                return 0
            updates = [Update(**update) for update in state["updates"]]
            own = [Probe.restored(told) for told in state["own"]]
        except UNREADABLE as error:
            logger.warning("%s: not usable (%s); editing starts again", self.file, error)
            self.file.unlink(missing_ok=True)
            return 0
        weights = {name: tensor for name, tensor in tensors.items() if "/" not in name}
        editing.updates, editing.refused, editing.own = updates, state["refused"], own
        editing.editor.load_state(_of("state", tensors))
        editing.memory = _of("memory", tensors)
        editing.unedited = {name: weight_of(editing.lm.model, name).detach().cpu().clone() for name in weights}
        with torch.no_grad():
            for name, weight in weights.items():
                weight_of(editing.lm.model, name).copy_(weight)
        editing.settle()
        self.count = len(done)
        return self.count

    def remove(self) -> None:
        """The results are written: nothing to go on with, unless the file is for others too."""
        if not self.file.parent.is_dir():
            return
        with self._alone():
            clear(self.file)
            there = self._state()
            others = [name for name in there.get("results", ()) if name not in self.results]
            if others:
                with suppress(UserError):  # no room: with more names in it, it serves them as well
                    self._rename(there, others)
            else:
                self.file.unlink(missing_ok=True)
        with suppress(OSError):
            self.file.parent.rmdir()  # if it is empty

    def _save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        record = torch.frombuffer(bytearray(json.dumps(state, default=asdict).encode()), dtype=torch.uint8)
        with whole(self.file, "--results DIR names another place", locked=True) as new:
            save_file({**tensors, RECORD: record}, new)

    def _rename(self, state: Mapping[str, Any], results: Sequence[str]) -> None:
        """Let the file be for these results; its edits stay as they are."""
        if state["results"] != results:
            self._save(load_file(self.file), {**state, "results": results})

    def _alone(self) -> AbstractContextManager[None]:
        return held([beside(self.file)], wait=True)

    def _state(self) -> dict[str, Any]:
        """What the file says of itself; empty if there is none that can be read."""
        try:
            with safe_open(self.file, framework="pt") as file:
                state = _record(file)
                return state if isinstance(_done(state), list) else {}
        except UNREADABLE:
            return {}


def _record(file: Any) -> dict[str, Any]:
    """Of an open file."""
    state: dict[str, Any] = json.loads(bytes(file.get_tensor(RECORD).numpy()))
    return state


def _done(state: dict[str, Any]) -> list[list[int]]:
    """The edits of each update that was tried."""
    return [entry["edits"] for entry in (*state["updates"], *state["refused"])]


def _behind(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under names that no parameter has: "state/keys"."""
    return {f"{part}/{name}": tensor.detach().contiguous() for name, tensor in tensors.items()}


def _of(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `_behind` put there."""
    return {name.removeprefix(f"{part}/"): t for name, t in tensors.items() if name.startswith(f"{part}/")}


def _hash(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
