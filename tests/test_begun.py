"""core.lm.begun: rows that go on, in pieces and behind a prefix, say what the whole model says of each alone."""

import weakref
from typing import Any

import pytest
import torch
from conftest import CONFIGS, OTHERS, WINDOWS, tiny
from torch import Tensor

from core.lm import begun as module
from core.lm.begun import Prefix, begin, shared_prefix
from core.lm.model import LM
from core.lm.tokens import Row, encode

TEXTS = ("Is London big? answer:", "Rome? answer:", "Is Tom Hill a man of the world", "it is", "so")
MORE = ("yes and no", "no", "the man of the world is")


@pytest.fixture(params=[*CONFIGS, *OTHERS, *(f"{family} with a window" for family in WINDOWS)])
def lm(request: pytest.FixtureRequest) -> LM:
    family, _, window = request.param.partition(" ")
    return tiny(family, **(WINDOWS[family] if window else {}))


def alone(lm: LM, row: Row) -> Tensor:
    """Final hidden states of a row by itself, (tokens, d)."""
    with torch.no_grad():
        states: Tensor = lm.model.base_model(torch.tensor([row]), use_cache=False).last_hidden_state[0]
    return states


def assert_close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start", ["", "Say yes or no, and nothing else at all. "])
@pytest.mark.parametrize("piece", [1, 24, 10_000])
def test_begun_rows_go_on_as_if_alone(lm: LM, start: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.PIECE, "cpu", piece)
    rows = sorted((encode(lm, start + text) for text in TEXTS), key=len)
    prefix = shared_prefix(lm, rows, 8)
    assert bool(prefix.ids) == ((lm.window or 99) > 50 and (bool(start) or rows[0][0] == lm.tokenizer.bos_token_id))
    own, seen = [row[prefix.length :] for row in rows], []
    begun = begin(lm, own, prefix, lambda rows, states: seen.append((rows, states)))
    assert [i for some, _ in seen for i in some] == list(range(len(rows)))
    assert all(len(some) == 1 or states.shape[0] * states.shape[1] <= piece for some, states in seen)
    for i, states in ((i, row) for some, block in seen for i, row in zip(some, block, strict=True)):
        assert_close(states[-len(own[i]) :], alone(lm, rows[i])[prefix.length :])
    if prefix.states is not None:
        assert_close(prefix.states, alone(lm, prefix.ids))

    answers = [encode(lm, text) for text in MORE]
    for index, texts in (([3, 0, 3], answers), (list(range(len(rows))), [*answers, *answers][: len(rows)])):
        for i, text, states in zip(index, texts, begun.behind(index, texts), strict=True):
            assert_close(states[: len(text)], alone(lm, rows[i] + text)[len(rows[i]) :])

    for token in (5, 9):  # what was put behind some of them has left no trace
        rows = [[*row, token] for row in rows]
        begun.step(torch.full((len(rows), 1), token))
        assert_close(begun.last, torch.stack([alone(lm, row)[-1] for row in rows]))
        with torch.no_grad():
            assert_close(begun.logits[2], lm.model(torch.tensor([rows[2]])).logits[0, -1])


def test_no_prefix_where_a_window_would_count_the_padding() -> None:
    lm = tiny("mistral", sliding_window=20)
    rows = [encode(lm, f"Say yes or no. {text}") for text in TEXTS[:2]]
    longest = max(map(len, rows))
    assert shared_prefix(lm, rows, 20 - longest).ids and not shared_prefix(lm, rows, 21 - longest).ids
    assert shared_prefix(tiny("mistral", sliding_window=None), rows, 100).ids


def test_one_row_shares_nothing() -> None:
    assert shared_prefix(tiny("gpt2"), [[5, 6, 7]], 1) == Prefix()


def test_pieces_are_let_go_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory never holds all keys and values twice."""
    lm, alive, stacked, rectangle = tiny("gpt2"), [], module._stacked, module._rectangle
    layers: list[list[weakref.ref[Any]]] = []

    def followed(parts: Any) -> Any:
        layers.extend([weakref.ref(layer) for layer in part.cache.layers] for part in parts)
        return stacked(parts)

    def counted(*of: Any) -> Any:
        alive.append([sum(layer() is not None for layer in part) for part in layers])
        return rectangle(*of)

    monkeypatch.setattr(module, "_stacked", followed)
    monkeypatch.setattr(module, "_rectangle", counted)
    monkeypatch.setitem(module.PIECE, "cpu", 1)
    begun = begin(lm, [[5, 6], [7, 8, 9]])
    assert alive[::2] == alive[1::2] == [[n, n] for n in range(lm.n_layers, 0, -1)]
    assert len(begun.last) == 2 and begun.last.untyped_storage().nbytes() == begun.last.nbytes
