"""core.lm.begun and .pieces: rows that go on, in pieces and behind what they share, are what the model says of each."""

import math
import weakref
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from conftest import CONFIGS, OTHERS, WINDOWS, tiny
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import Cache

from benchmarks import _random
from core.lm import begun as joining
from core.lm import pieces as module
from core.lm.cached import stored
from core.lm.model import LM
from core.lm.pieces import Prefix, begin, passed, shared_prefix
from core.lm.tokens import Padded, Row, encode

TEXTS = (
    *("Is London big? answer:", "Rome? answer:", "Is Tom Hill a man of the world", "it is", "so"),
    *(f"Is Tom Hill a man of the world? answer: {word}" for word in ("yes", "no", "yes or no")),
    "Is Tom Hill a man of the world? answer: yes or no, and nothing else at all. it is so",
)
"""The last ones start alike, two of them with what the others start with and more."""
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


class Seen:
    """What `begin` shows of `rows`, held against what the model says of each alone."""

    def __init__(self, lm: LM, rows: list[Row], piece: int) -> None:
        self.wanted, self.piece = [alone(lm, row) for row in rows], piece
        self.ids: list[Row] = [[] for _ in rows]
        self.tokens = 0

    def look(
        self, each: Sequence[Sequence[int]], texts: Sequence[Row], states: Sequence[Tensor], last: Tensor | None
    ) -> None:
        assert len(texts) * max(map(len, texts)) <= self.piece or len(texts) == 1
        self.tokens += sum(map(len, texts))
        for j, (members, text) in enumerate(zip(each, texts, strict=True)):
            for i in members:
                start, end = len(self.ids[i]), len(self.ids[i]) + len(text)
                assert_close(states[j], self.wanted[i][start:end])
                if last is not None:
                    assert_close(last[j], self.wanted[i][start - 1])
                assert (last is None) == (start == 0)
                self.ids[i] += text


@pytest.mark.parametrize("start", ["", "Say yes or no, and nothing else at all. "])
@pytest.mark.parametrize("piece", [1, 24, 10_000])
def test_begun_rows_go_on_as_if_alone(lm: LM, start: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.PIECE, "cpu", piece)
    rows = [encode(lm, start + text) for text in TEXTS]
    prefix = shared_prefix(lm, rows, 8)
    assert prefix.may_share == ((lm.window or 99) > 50)
    assert bool(prefix.ids) == (prefix.may_share and (bool(start) or rows[0][0] == lm.tokenizer.bos_token_id))
    own, seen = [row[prefix.length :] for row in rows], Seen(lm, rows, piece)
    begun = begin(lm, own, prefix, seen.look)
    assert seen.ids == rows and len(begun.last) == len(rows)
    shared = sum(map(len, rows)) - seen.tokens - prefix.length * (len(rows) - 1)
    assert (shared > 20) == (piece < 100 and prefix.may_share), "what few rows share is not worth a pass"
    assert_close(begun.last, torch.stack([alone(lm, row)[-1] for row in rows]))

    answers = [encode(lm, text) for text in MORE]
    for index, texts in (([3, 0, 3], answers), (list(range(len(rows))), (answers * 3)[: len(rows)])):
        for i, text, states in zip(index, texts, begun.behind(index, texts), strict=True):
            assert_close(states[: len(text)], alone(lm, rows[i] + text)[len(rows[i]) :])

    for token in (5, 9):  # what was put behind some of them has left no trace
        rows = [[*row, token] for row in rows]
        begun.step(torch.full((len(rows), 1), token))
        assert_close(begun.last, torch.stack([alone(lm, row)[-1] for row in rows]))
        with torch.no_grad():
            assert_close(begun.logits[2], lm.model(torch.tensor([rows[2]])).logits[0, -1])


@pytest.mark.parametrize("start", ["", "Say yes or no, and nothing else at all. "])
@pytest.mark.parametrize("piece", [1, 24, 10_000])
def test_rows_that_nobody_goes_on_behind(lm: LM, start: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their tails, which are as if put behind each row alone; two equal rows have different ones."""
    monkeypatch.setitem(module.PIECE, "cpu", piece)
    texts = [*TEXTS, TEXTS[-1]]
    rows, tails = [encode(lm, start + text) for text in texts], [encode(lm, text) for text in MORE]
    tails = [[], *tails, [], *tails, *tails[:2]]
    prefix = shared_prefix(lm, rows, 8)
    seen, read = Seen(lm, rows, piece), dict[int, Tensor]()

    def looked(numbers: Sequence[int], states: Sequence[Tensor]) -> None:
        read.update(zip(numbers, states, strict=True))

    last = passed(lm, [row[prefix.length :] for row in rows], prefix, seen.look, tails, looked)
    assert seen.ids == rows
    assert_close(last, torch.stack([alone(lm, row)[-1] for row in rows]))
    for i, (row, tail) in enumerate(zip(rows, tails, strict=True)):
        assert_close(read[i], alone(lm, row + tail)[len(row) - 1 :])


@pytest.mark.parametrize("family", CONFIGS)
def test_no_more_is_held_than_keys_and_values(family: str) -> None:
    """A family's projection may make queries, keys and values at once."""
    for keys, values in stored(begin(tiny(family), [[5, 6, 7], [7, 8, 9]]).cache):
        assert keys.untyped_storage().nbytes() == keys.nbytes and values.untyped_storage().nbytes() == values.nbytes


def test_nothing_is_held_of_rows_that_nobody_goes_on_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece's keys and values are gone when the next is run, what they start with among them."""
    lm, run, held, alive = tiny("gpt2"), module.states_behind, list[weakref.ref[Any]](), list[int]()

    def followed(lm: LM, tokens: Padded, cache: Cache | None) -> Tensor:
        alive.append(sum(each() is not None for each in held))
        if cache is not None:
            held.append(weakref.ref(cache))
        return run(lm, tokens, cache)

    monkeypatch.setattr(module, "states_behind", followed)
    monkeypatch.setitem(module.PIECE, "cpu", 4)
    for rows in ([[5, 6, 7], [7, 8, 9]], [[*range(20), i] for i in range(30, 39)]):
        alive.clear()
        passed(lm, rows, Prefix(may_share=True))
        starts = len(rows) > 2  # they go on in their rows
        assert len(alive) > 1 and max(alive) <= starts


def test_no_prefix_where_a_window_would_count_the_padding() -> None:
    lm = tiny("mistral", sliding_window=20)
    rows = [encode(lm, f"Say yes or no. {text}") for text in TEXTS[:2]]
    longest = max(map(len, rows))
    assert shared_prefix(lm, rows, 20 - longest).ids and not shared_prefix(lm, rows, 21 - longest).ids
    assert shared_prefix(tiny("mistral", sliding_window=None), rows, 100).ids


@pytest.mark.parametrize("family", WINDOWS)
def test_no_families_where_a_window_would_count_the_padding(family: str) -> None:
    """A long start stands in front of a short row, and of a long row behind it stands a short one."""
    rows = [[*range(3, 63), 70 + i, 7] for i in range(2)] + [[*range(80, 92), *range(i, i + 40)] for i in range(4)]
    for window, shares in ((66, False), (2 * 62 + 4, True)):
        lm = tiny(family, **WINDOWS[family] | {"sliding_window": window})
        prefix = shared_prefix(lm, rows, 4)
        assert prefix.may_share == shares and not prefix.ids
        assert_close(begin(lm, rows, prefix).last, torch.stack([alone(lm, row)[-1] for row in rows]))


def test_one_row_shares_nothing() -> None:
    assert shared_prefix(tiny("gpt2"), [[5, 6, 7]], 1) == Prefix(may_share=True)


def test_pieces_are_let_go_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory never holds all keys and values twice."""
    lm, alive, stacked, moved = tiny("gpt2"), [], module.stacked, joining._moved
    layers: list[list[weakref.ref[Any]]] = []

    def followed(parts: Any) -> Any:
        layers.extend([weakref.ref(layer) for layer in part.cache.layers] for _, part in parts)
        return stacked(parts)

    def counted(*of: Any) -> Any:
        alive.append([sum(layer() is not None for layer in part) for part in layers])
        return moved(*of)

    monkeypatch.setattr(module, "stacked", followed)
    monkeypatch.setattr(joining, "_moved", counted)
    monkeypatch.setitem(module.PIECE, "cpu", 1)
    begun = begin(lm, [[5, 6], [7, 8, 9]])
    assert alive[::2] == alive[1::2] == [[n, n] for n in range(lm.n_layers, 0, -1)]
    assert len(begun.last) == 2 and begun.last.untyped_storage().nbytes() == begun.last.nbytes


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9), st.integers(1, 31), st.integers(0, 5), st.integers(0, 20))
def test_pieces_take_least(lengths: list[int], size: int, more: int, least: int) -> None:
    """Of all ways of cutting the rows into neighbours that fit."""
    rows = [[0] * n for n in lengths]

    def takes(cuts: Sequence[int]) -> float:
        parts = [lengths[a:b] for a, b in pairwise([0, *cuts, len(rows)])]
        tokens = [len(part) * max(part) for part in parts]
        fits = all(n <= size or len(part) == 1 for n, part in zip(tokens, parts, strict=True))
        return sum(max(n, least) + more for n in tokens) if fits else math.inf

    found = module._pieces(rows, size, more, least)
    assert [i for piece in found for i in piece] == [*range(len(rows))]
    inner = range(1, len(rows))
    fewest = min(takes(cuts) for k in range(len(rows)) for cuts in combinations(inner, k))
    assert takes([piece.start for piece in found[1:]]) == fewest < math.inf


def test_pieces_of_a_small_model_are_larger_on_a_gpu() -> None:
    """Shapes alone, of a device that is no CPU."""
    small, large = (module._Way(_random.skeleton(name), False, None) for name in ("gpt2-xl", "llama-7b"))
    assert large.size == module.PIECE["cuda"] < small.size == 2 * small.least < module.MOST
    assert module._Way(tiny("gpt2"), False, None).least == 0


def test_what_rows_share_is_let_go_before_they_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[weakref.ref[Any]] = []
    held: list[list[bool]] = []
    stacked = module.stacked

    def joined(parts: Any) -> Any:
        held.append([start() is not None for start in starts])
        begun = stacked(parts)
        starts.append(weakref.ref(begun))
        return begun

    monkeypatch.setattr(module, "stacked", joined)
    monkeypatch.setitem(module.PIECE, "cpu", 24)
    begin(tiny("gpt2"), [[*range(20), i] for i in range(30, 34)], Prefix(may_share=True))
    assert held == [[], [False]]
