"""The editor of docs/editors.md: it learns the fact, and keeps the promises of an editor."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from conftest import ROOT, edit_model, tiny

from core.errors import UserError
from core.lm.model import LM
from core.types import Edit
from experiment.editing import editor_of
from experiment.quality import probe


@pytest.fixture
def kind() -> Any:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/editors.md").read_text(encoding="utf-8"), re.DOTALL)
    space: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "docs/editors.md", "exec"), space)
    return space["EDITOR"]


def test_it_learns_and_leaves_the_model_alone(
    kind: Any, lm: LM, edits: list[Edit], unchanged: Callable[[LM], Callable[[], None]]
) -> None:
    editor, check = editor_of(kind, lm, kind.hparams(layer=2, steps=20, lr=0.01)), unchanged(lm)
    deltas, notes = editor.deltas(edits)
    ((name, delta),) = deltas.items()
    check()
    assert not any(p.requires_grad or p.grad is not None for p in lm.model.parameters())
    assert delta.shape == lm.model.get_parameter(name).shape and delta.any()
    assert notes["losses"][-1] < notes["losses"][0] - 1
    before = probe(lm, edits)
    edit_model(lm, editor, [edits])
    assert all(now.probability > was.probability for now, was in zip(probe(lm, edits), before, strict=True))


def test_a_layer_that_is_not_there_is_one_line(kind: Any) -> None:
    with pytest.raises(UserError, match=r"^layer: 9: 'tiny-gpt2' has layers 0 to 3; --hparams names other settings$"):
        editor_of(kind, tiny("gpt2"), kind.hparams(layer=9))
