"""core.lm.likelihood: each measure is what log-softmax of the model's logits gives by hand."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import FAMILIES, WINDOWS, tiny
from torch import Tensor

from core.lm import likelihood, pieces
from core.lm.generate import complete, expected, first_tokens
from core.lm.likelihood import Asked, Expected
from core.lm.model import LM
from core.lm.tokens import Row, continuation, encode
from core.lm.weights import weight_of

START = "Say yes or no. "
PROMPTS = [f"{START}{text}" for text in ("Is London big? answer:", "Rome? answer:", "It", "Is Tom Hill a man of")]
ANSWERS = [(" yes", " no at all"), (" no",), (), (" the world, and he is", " him", " a")]
RIGHT = [0, 1, 0, None]


def full(lm: LM, row: Row) -> Tensor:
    """Log-probabilities of the next token at every place of a row: (tokens, vocabulary)."""
    with torch.no_grad():
        logp: Tensor = lm.model(torch.tensor([row]), use_cache=False).logits[0].float().log_softmax(-1)
    return logp


def questions(lm: LM, unedited: list[Expected] | None = None, most: int = 3) -> list[Asked]:
    """With so many reference answers at most: with one, and one new token, that is run with its prompt."""
    return [
        Asked(
            text=True,
            references=tuple(continuation(lm, answer) for answer in answers[:most]),
            best=True,
            right=right,
            unedited=unedited[i] if unedited else None,
        )
        for i, (answers, right) in enumerate(zip(ANSWERS, RIGHT, strict=True))
    ]


def first_answers(lm: LM) -> list[Row]:
    return [continuation(lm, answers[0]) if answers else [] for answers in ANSWERS]


def disturb(lm: LM, size: float = 0.3) -> None:
    weight = weight_of(lm.model, f"{lm.mlp_out(2)}.weight")
    with torch.no_grad():
        weight += size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[*FAMILIES, *(f"{family} with a window" for family in WINDOWS)])
def lm(request: pytest.FixtureRequest) -> LM:
    family, _, window = request.param.partition(" ")
    return tiny(family, **(WINDOWS[family] if window else {}))


WAYS = pytest.mark.parametrize(("new_tokens", "most"), [(3, 3), (1, 1)])
"""Reference answers behind their prompts, and run with them."""


@WAYS
@pytest.mark.parametrize("piece", [16, 1024])
@pytest.mark.parametrize("prompts", [PROMPTS, [prompt.removeprefix(START) for prompt in PROMPTS]])
def test_likelihoods_by_hand(
    lm: LM, prompts: list[str], piece: int, new_tokens: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pieces.PIECE, "cpu", piece)
    words = first_tokens(lm, ("yes", "no"))
    found = complete(lm, prompts, new_tokens, ("yes", "no"), asked=questions(lm, most=most))
    for prompt, answers, right, completion in zip(prompts, ANSWERS, RIGHT, found, strict=True):
        row = encode(lm, prompt)
        own = full(lm, row)
        wanted = {}
        if len(row) > 1:
            wanted["text_logprob"] = float(own[:-1].gather(1, torch.tensor(row[1:])[:, None]).mean())
        means = []
        for text in (continuation(lm, answer) for answer in answers[:most]):
            logp = full(lm, row + text)[len(row) - 1 : -1]
            means.append(float(logp.gather(1, torch.tensor(text)[:, None]).mean()))
        if means:
            wanted |= {"reference_logprob": means[0], "reference_logprob_best": max(means)}
        if right is not None:
            wanted["choice_probability"] = float(own[-1].exp()[words[right]] / own[-1].exp()[words].sum())
        assert completion.measures == pytest.approx(wanted, abs=1e-4)


@WAYS
@pytest.mark.parametrize("top", [64, 10_000])
def test_drift_is_kl_of_grouped_outcomes_and_at_most_that_of_all(
    lm: LM, top: int, new_tokens: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "TOP", top)
    rows = [encode(lm, prompt) for prompt in PROMPTS]
    joined = [row + text for row, text in zip(rows, first_answers(lm), strict=True)]
    before = [full(lm, both)[len(row) - 1 :] for row, both in zip(rows, joined, strict=True)]
    known = expected(lm, PROMPTS, new_tokens, first_answers(lm))
    disturb(lm)
    after = [full(lm, both)[len(row) - 1 :] for row, both in zip(rows, joined, strict=True)]
    found = complete(lm, PROMPTS, new_tokens, asked=questions(lm, known, most))
    for completion, p, q in zip(found, before, after, strict=True):
        whole = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(1)
        order = p.topk(min(top, p.shape[1]), dim=1).indices
        pairs = [
            torch.cat([x.gather(1, order), 1 - x.gather(1, order).sum(1, keepdim=True)], 1) for x in (p.exp(), q.exp())
        ]
        terms = pairs[0] * (pairs[0].clamp(min=1e-30) / pairs[1].clamp(min=1e-30)).log()
        drift = completion.measures["drift"]
        assert 0.001 < drift <= float(whole.mean()) + 1e-5
        assert drift == pytest.approx(float(terms.sum(1).mean()), abs=1e-4)
        if top > p.shape[1]:
            assert drift == pytest.approx(float(whole.mean()), abs=1e-5)


def test_a_broken_model_has_no_drift(lm: LM) -> None:
    """NaN on either side says nothing of how far it is; an outcome that never was costs nothing."""
    never = torch.tensor([[0.0, -math.inf, -math.inf]])
    sure, broken = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.full((1, 3), math.nan)
    assert Expected.of(never).drift(sure).tolist() == pytest.approx([math.log(2)])
    assert Expected.of(broken).drift(sure).isnan().all() and Expected.of(sure).drift(broken).isnan().all()


def test_an_unedited_model_has_not_drifted(lm: LM) -> None:
    known = expected(lm, PROMPTS, 3, first_answers(lm))
    for completion in complete(lm, PROMPTS, 3, batch_tokens=1, asked=questions(lm, known)):
        assert 0 <= completion.measures["drift"] < 1e-6


@WAYS
def test_no_batch_changes_a_measure_and_no_measure_a_completion(
    lm: LM, new_tokens: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = expected(lm, PROMPTS, new_tokens, first_answers(lm))
    disturb(lm)
    asked = questions(lm, known, most)
    plain = complete(lm, PROMPTS, new_tokens, ("yes", "no"))
    together = complete(lm, PROMPTS, new_tokens, ("yes", "no"), asked=asked)
    assert [replace(completion, measures={}) for completion in together] == plain
    monkeypatch.setitem(pieces.PIECE, "cpu", 16)
    monkeypatch.setattr(likelihood, "AT_ONCE", 3 * lm.vocabulary)
    in_pieces = complete(lm, PROMPTS, new_tokens, ("yes", "no"), asked=asked)
    alone = [complete(lm, [PROMPTS[i]], new_tokens, ("yes", "no"), asked=[asked[i]])[0] for i in range(len(PROMPTS))]
    for one, two, three in zip(together, in_pieces, alone, strict=True):
        assert one.measures == pytest.approx(two.measures, abs=1e-4)
        assert one.measures == pytest.approx(three.measures, abs=1e-4)


def test_what_is_read_of_many_rows_is_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of a few states at a time would read the vocabulary's matrix for each row."""
    lm = tiny("gpt2")
    products, logits = [], LM.logits
    monkeypatch.setattr(LM, "logits", lambda self, states: products.append(len(states)) or logits(self, states))
    known = expected(lm, PROMPTS, 1, first_answers(lm))
    positions = len(PROMPTS) + sum(map(len, first_answers(lm)))
    assert products == [positions]
    products.clear()
    asked = [replace(each, text=False, references=each.references[:1]) for each in questions(lm, known)]
    complete(lm, PROMPTS, 1, ("yes", "no"), asked=asked)
    assert sorted(products) == sorted([positions, len(PROMPTS)]), "and the next tokens"


def test_texts_of_one_row_share_its_last_position() -> None:
    lm, rows = tiny("gpt2"), [[5, 6], [7, 8, 9]]
    asked = {3: (0, [4]), 1: (0, []), 7: (0, [8, 2]), 2: (1, [])}
    with torch.inference_mode():
        ((at, logp),) = likelihood.logp_behind(pieces.begin(lm, rows), asked)
    assert at == {3: [0, 1], 1: [0], 7: [0, 2, 3], 2: [4]} and len(logp) == 5
    for i, (row, text) in asked.items():
        torch.testing.assert_close(logp[at[i]], full(lm, rows[row] + text)[len(rows[row]) - 1 :], atol=1e-5, rtol=1e-4)


def test_what_was_expected_of_other_answers_is_refused() -> None:
    lm = tiny("gpt2")
    known = expected(lm, PROMPTS, 1, first_answers(lm))
    with pytest.raises(ValueError, match="unedited: what is expected of other prompts and answers than these"):
        complete(lm, PROMPTS, 1, asked=questions(lm, [known[0], known[0], *known[2:]]))


def test_what_is_not_finite_is_left_out() -> None:
    lm = tiny("gpt2")
    known = expected(lm, PROMPTS, 1, first_answers(lm))
    disturb(lm, math.inf)
    for completion in complete(lm, PROMPTS, 1, ("yes", "no"), asked=questions(lm, known)):
        assert completion.measures == {} and not completion.finite


def test_references_are_cut_to_what_is_read_and_to_the_context() -> None:
    lm = tiny("gpt2")
    long, row = "word " * 100, continuation(lm, " word" * 200, 64)
    assert len(row) == 64
    (said,) = complete(lm, [long], 2, asked=[Asked(references=(row,))])
    assert said.truncated and math.isfinite(said.measures["reference_logprob"])  # 2 tokens of it fit
    (short,) = complete(lm, [long], 2, asked=[Asked(references=(row[:2],))])
    assert said.measures == short.measures


def test_what_is_known_is_reported() -> None:
    (said,) = complete(tiny("gpt2"), ["a b"], 1, asked=[Asked(known={"drift": 0.0})])
    assert said.measures == {"drift": 0.0}
