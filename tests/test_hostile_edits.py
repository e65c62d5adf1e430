"""Every editor on hostile edits: a finite update, or one UserError of one line, or a refused update."""

import dataclasses
import random
from pathlib import Path
from typing import Any

import hostile as h
import pytest
import torch
from conftest import in_soak, tiny
from tiny_settings import TARGET

from core.errors import EditRefused, UserError
from core.lm.weights import add_, preserved
from core.types import Edit
from editors.kn import KN, KNSettings
from editors.memit import MEMIT, MEMITSettings
from editors.mend import MEND
from editors.mend import archive as archive
from editors.mend.settings import BEST, MENDSettings
from editors.mend.training import Records, Training
from editors.rome import ROME, ROMESettings
from experiment.quality import probe

GOOD = Edit("Where was Tom Hill born?", "Tom Hill", "Rome", "Paris", "Tom Hill was born in", "what is a class", "an", 2)
TEXTS = (
    " ",
    "\n",
    "\0",
    "\u200b",
    "\u00a0",
    "{}",
    "{0}%s",
    "</s>",
    "<|endoftext|>",
    "word " * 1000,
    "\U0001f600" * 40,
    ".",
)
FIELDS = ("prompt", "subject", "target", "old", "rephrase", "locality", "locality_answer")


def edits() -> list[Edit]:
    """Each field replaced by each text (36 of them; all in a soak). The subject is in the prompt: the reader checks."""
    found = []
    for field in FIELDS:
        for text in TEXTS:
            edit = dataclasses.replace(GOOD, **{field: text})
            if field == "subject":
                edit = dataclasses.replace(edit, prompt=f"Where was {text}x born?", subject=f"{text}x")
            if field == "prompt":
                edit = dataclasses.replace(edit, prompt=f"{text}Tom Hill{text}")
            if edit.target.strip() and edit.subject.strip() and edit.subject in edit.prompt:
                found.append(edit)
    return found if h.TOTAL > h.STANDING else random.Random(0).sample(found, 36)


def editor_of(name: str, folder: Path) -> Any:
    lm = tiny("gpt2" if name in ("ROME", "MEND") else "llama")
    if name == "ROME":
        return lm, ROME(lm, ROMESettings(layers=(1,), mom2_adjustment=False, **TARGET))
    if name == "KN":
        return lm, KN(lm, KNSettings(steps=2, batch_size=2, adaptive_threshold=0.2, grow_prompt=True))
    if name == "MEMIT":
        moments = dict(mom2_adjustment=True, mom2_dataset="self-generated", mom2_n_samples=4, stats_dir=str(folder))
        return lm, MEMIT(lm, MEMITSettings(layers=(0, 1), mom2_update_weight=10.0, **TARGET, **moments))
    hp = MENDSettings(inner_params=("transformer.h.3.mlp.c_fc.weight",), rank=2, archive_dir=str(folder), silent=True)
    training = Training(lm, hp, Records([GOOD], [GOOD]), hp.archive(lm.name))
    training._step([[GOOD], [GOOD]])
    archive.save(hp.archive(lm.name) / BEST, training.net.state_dict(), training.header)
    return lm, MEND(lm, hp)


@pytest.mark.parametrize("name", ["ROME", "MEND", *in_soak("MEMIT", "KN")])
def test_an_update_or_a_refusal(name: str, tmp_path: Path) -> None:
    lm, editor = editor_of(name, tmp_path)
    done = 0
    for edit in edits():
        try:
            with h.soon():
                probe(lm, [edit, GOOD])
                deltas = editor.deltas([edit])[0]
                with preserved(lm.model, deltas):
                    add_(lm.model, deltas)
                    probe(lm, [edit])
        except (UserError, EditRefused) as error:
            message = str(error)
            assert len(message.splitlines()) == 1 and len(message) < 1000, message
            continue
        assert all(torch.isfinite(delta).all() for delta in deltas.values()), edit
        done += 1
    assert done > 0.6 * len(edits())  # most are odd, not impossible


def test_a_training_step_of_mend(tmp_path: Path) -> None:
    """One token in all, say, is too little for statistics."""
    lm = tiny("llama")
    hp = MENDSettings(inner_params=(f"{lm.mlp_in(3)}.weight",), rank=2, archive_dir=str(tmp_path), silent=True)
    training = Training(lm, hp, Records([GOOD], [GOOD]), tmp_path)
    for edit in edits():
        try:
            with h.soon():
                assert training._step([[edit], [GOOD]])
        except UserError as error:
            assert len(str(error).splitlines()) == 1
    assert all(torch.isfinite(parameter).all() for parameter in training.net.parameters())
