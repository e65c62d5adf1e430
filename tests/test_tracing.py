"""Causal tracing: equals its naive twin in every family; what restoring, noise and windows are."""

import dataclasses

import pytest
import torch
from conftest import tiny
from reference import tracing as naive

from core.lm.generate import greedy
from core.lm.model import LM
from core.lm.tokens import encode
from experiment.quality import probe
from inputs.tracing import Plan, asked, draw, fact_of, plan_for, sigma, traced

PLAN = Plan(0.3, window=2, samples=3)


@pytest.mark.parametrize("window", [1, 3])
def test_equals_the_naive_twin(any_lm: LM, edits, unchanged, window: int) -> None:
    plan = Plan(0.3, window, samples=3)
    check, facts = unchanged(any_lm), [fact_of(any_lm, edit) for edit in edits]
    found = traced(any_lm, facts, plan)
    for fact, told in zip(facts, found, strict=True):
        wanted = naive.traced(any_lm, fact, plan)
        assert told.clean == pytest.approx(wanted.clean, rel=1e-4)
        assert told.corrupted == pytest.approx(wanted.corrupted, rel=1e-4)
        torch.testing.assert_close(told.restored, wanted.restored, rtol=1e-4, atol=0.0)
        assert len({*told.restored.tolist(), told.corrupted, told.clean}) > 3  # there is something to compare
    check()
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in any_lm.model.modules())


def test_the_subjects_tokens(lm: LM, edits) -> None:
    for edit in edits:
        fact = fact_of(lm, edit)
        text = lm.tokenizer.decode(fact.prompt[fact.first : fact.last + 1])
        assert text.strip() == edit.subject
        assert lm.tokenizer.decode(fact.answer).strip() == edit.old


def test_asked_is_what_greedy_decoding_and_the_probe_say(lm: LM, edits) -> None:
    """With what the model itself says as the answer, and with something else."""
    says = [lm.tokenizer.decode(greedy(lm, [encode(lm, edit.prompt)], 2, past_end=True)[0]) for edit in edits]
    cases = [dataclasses.replace(edit, old=said) for edit, said in zip(edits, says, strict=True)] + edits
    facts = [fact_of(lm, edit) for edit in cases]
    found = asked(lm, facts)
    assert [said for said, _ in found] == [
        greedy(lm, [f.prompt], len(f.answer), past_end=True)[0] == f.answer for f in facts
    ]
    assert {said for said, _ in found} == {True, False}
    told = probe(lm, [dataclasses.replace(edit, target=edit.old) for edit in cases])
    assert [chance for _, chance in found] == pytest.approx([probed.probability for probed in told], rel=1e-4)


def test_without_noise_nothing_is_lost(lm: LM, edits) -> None:
    (told,) = traced(lm, [fact_of(lm, edits[0])], Plan(0.0, 3, 2))
    assert told.corrupted == pytest.approx(told.clean, rel=1e-4)
    torch.testing.assert_close(told.restored, torch.full((4,), told.clean), rtol=1e-4, atol=0.0)


def test_noise_is_a_facts_own(lm: LM, edits) -> None:
    """Not that of its place in a batch; with the standard deviation asked for."""
    first, second = (fact_of(lm, edit) for edit in edits[:2])
    assert torch.equal(draw(second, PLAN, 32), draw(second, PLAN, 32))
    assert not torch.equal(draw(first, PLAN, 32)[:, :1], draw(second, PLAN, 32)[:, :1])
    assert float(draw(first, Plan(0.3, 1, 200), 32).std()) == pytest.approx(0.3, rel=0.02)
    alone, together = traced(lm, [second], PLAN)[0], traced(lm, [first, second], PLAN)[1]
    torch.testing.assert_close(alone.restored, together.restored, rtol=1e-4, atol=0.0)


def test_sigma_is_that_of_the_subjects_embeddings(edits) -> None:
    lm = tiny("gpt2")
    facts = [fact_of(lm, edit) for edit in edits]
    rows = [lm.model.get_input_embeddings().weight[token] for f in facts for token in f.prompt[f.first : f.last + 1]]
    assert sigma(lm, facts) == pytest.approx(float(torch.stack(rows).std()), rel=1e-5)


def test_windows(edits) -> None:
    """As the authors have them, cut off at the ends; 10 layers of 48, which is one of a tiny model's four."""
    plan = Plan(1.0, 10)
    assert [plan.around(layer, 48) for layer in (17, 1, 46)] == [range(12, 22), range(0, 6), range(41, 48)]
    assert [list(Plan(1.0, 1).around(layer, 4)) for layer in range(4)] == [[0], [1], [2], [3]]
    lm = tiny("gpt2")
    facts = [fact_of(lm, edit) for edit in edits]
    assert plan_for(lm, facts) == Plan(3 * sigma(lm, facts), 1)
