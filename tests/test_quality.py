"""experiment.quality: probabilities and answers against a plain computation; the table of means worked out by hand."""

import math

import pytest
import torch
from conftest import tiny
from tokenizers import normalizers

from core.errors import UserError
from core.lm.generate import greedy
from core.lm.model import LM
from core.lm.tokens import continuation, encode, target_ids
from core.types import Edit
from experiment import quality
from experiment.quality import Probe, probe, summarize, table


def chance(lm: LM, prompt: str, target: str) -> float:
    """P(target | prompt), a token at a time through the whole model."""
    row, product = encode(lm, prompt), 1.0
    for token in target_ids(lm, target):
        with torch.no_grad():
            product *= float(lm.model(torch.tensor([row])).logits[0, -1].softmax(-1)[token])
        row = [*row, token]
    return product


def test_probe(lm: LM, edits: list[Edit]) -> None:
    probes = probe(lm, edits)
    for edit, found in zip(edits, probes, strict=True):
        count = len(target_ids(lm, edit.target))
        ids = greedy(lm, [encode(lm, edit.prompt)], count)[0]
        assert found.said == lm.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert found.probability == pytest.approx(chance(lm, edit.prompt, edit.target), rel=1e-3)
        assert not found.success
        if edit.rephrase is None:
            assert (found.rephrase_said, found.rephrase_success, found.rephrase_probability) == (None, None, None)
            assert found.locality_ids is None
        else:
            assert found.rephrase_probability == pytest.approx(chance(lm, edit.rephrase, edit.target), rel=1e-3)
            answer = len(target_ids(lm, edit.locality_answer or ""))
            assert found.locality_ids == tuple(greedy(lm, [encode(lm, edit.locality or "")], answer)[0])
    for edit, found in zip(edits, probes, strict=True):  # its neighbours play no part
        alone = probe(lm, [edit])[0]
        assert (alone.said, alone.rephrase_said, alone.locality_ids) == (
            *(found.said, found.rephrase_said),
            found.locality_ids,
        )


def test_success_needs_the_whole_target() -> None:
    """Targets of one to four words that greedy decoding yields, and the same with the last word changed."""
    lm, prompt, tried = tiny("gpt2"), "Peter Lane works as a", 0
    for words in range(1, 5):
        ids = greedy(lm, [encode(lm, prompt)], words)[0]
        text = lm.tokenizer.decode(ids)
        if target_ids(lm, text.strip()) == ids:
            right = Edit(prompt, "Peter Lane", text.strip(), "x", rephrase=prompt)
            wrong = Edit(prompt, "Peter Lane", f"{text.strip()} not", "x", rephrase=prompt)
            found = probe(lm, [right, wrong])
            assert [(p.success, p.rephrase_success) for p in found] == [(True, True), (False, False)]
            tried += 1
    assert tried > 2  # else choose another prompt


def test_success_does_not_depend_on_unicodes_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that composes accents (as those of Qwen and Pythia), and a target that is written with them apart."""
    lm, prompt = tiny("gpt2"), "Peter Lane works as a"
    lm.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    apart, composed = "e\u0301", "\u00e9"
    ids = target_ids(lm, apart)
    assert ids == target_ids(lm, composed)
    monkeypatch.setattr(quality, "answered", lambda lm, rows, answers: [(ids, torch.zeros(1)) for _ in rows])
    found = probe(lm, [Edit(prompt, "Peter Lane", target, "x") for target in (apart, composed, "e")])
    assert [one.success for one in found] == [True, True, False]
    lm = tiny("gpt2")  # without it the ids differ, the text does not
    assert target_ids(lm, apart) != ids
    assert quality._alike(" caf" + apart, "caf" + composed + "\n") and not quality._alike("e", composed)


def test_an_over_long_target_names_its_record() -> None:
    with pytest.raises(UserError, match=r"^edit 7: .* tokens long, all of the 128"):
        probe(tiny("gpt2"), [Edit("A", "A", "b", "x"), Edit("A", "A", "word " * 200, "x", index=7)])
    lm = tiny("gpt2")
    for count in (126, 127):
        target = " a" * count
        assert len(continuation(lm, target)) == count
        if count == 126:
            probe(lm, [Edit("A", "A", target, "x", index=7)])
            continue
        with pytest.raises(UserError, match=r"^edit 7: .* 127 tokens long, too long for a prompt and it in 128"):
            probe(lm, [Edit("A", "A", target, "x", index=7)])


def test_an_over_long_prompt_is_cut_not_refused(lm: LM) -> None:
    long = "word " * 200 + "London is in"
    (found,) = probe(lm, [Edit(long, "London", "Italy", "x", rephrase=long, locality=long, locality_answer="a b")])
    assert 0 < found.probability < 1


def of(success: bool, chance: float, rephrased: bool | None, ids: tuple[int, ...] | None) -> Probe:
    return Probe("s", success, chance, None if rephrased is None else "r", rephrased, 0.5 if rephrased else None, ids)


BEFORE = [of(False, 0.0, False, (1, 2, 3, 4)), of(False, 0.25, None, (5, 6)), of(True, 0.5, True, None)]
OWN = [of(True, 0.75, True, (1, 2, 3, 4)), of(True, 1.0, None, (5, 6)), of(True, 1.0, True, None)]
AFTER = [of(True, 0.5, False, (1, 9, 3, 9)), of(False, 0.25, None, (5, 6)), of(True, 0.75, True, None)]


def test_summary_by_hand() -> None:
    found = summarize(BEFORE, OWN, AFTER)
    values = {stage: {name: m.value for name, m in part.items()} for stage, part in found.items()}
    assert values["before"]["reliability"] == pytest.approx(1 / 3)
    assert values["own"]["reliability"] == 1
    assert values["after"]["reliability"] == pytest.approx(2 / 3)
    assert values["after"]["probability"] == pytest.approx(0.5)
    assert values["after"]["generalisation"] == 0.5  # of the two that have a rephrased prompt
    assert values["before"]["locality"] == values["before"]["locality_tokens"] == 1
    assert values["after"]["locality"] == 0.5  # of the two that have an unrelated question: all tokens the same
    assert values["after"]["locality_tokens"] == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert all(m.low <= m.value <= m.high for part in found.values() for m in part.values())


def test_locality_compares_ended_answers_too() -> None:
    numbers = quality._numbers(of(True, 1, None, (1, 2)), of(True, 1, None, (1, 2, 3, 4)))
    assert numbers["locality_tokens"] == 0.5
    assert numbers["locality"] == 0
    assert quality._numbers(of(True, 1, None, ()), of(True, 1, None, ()))["locality"] == 1


def test_table_and_records(edits: list[Edit]) -> None:
    text = table(summarize(BEFORE, OWN, AFTER))
    assert text.splitlines()[1].split()[:4] == ["reliability", "0.333", "1.000", "0.667"]
    assert len({len(line) for line in text.splitlines()[1:]}) == 1
    lines = quality.records(edits[:3], {"before": BEFORE, "own": OWN, "after": AFTER})
    assert [line["target"] for line in lines] == [edit.target for edit in edits[:3]]
    assert lines[0]["after"]["locality_ids"] == (1, 9, 3, 9)
    assert not math.isnan(lines[1]["own"]["probability"])
