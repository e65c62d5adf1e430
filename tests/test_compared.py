"""CounterFact's scores, by hand and off a tiny model token by token; portability and several prompts of an edit."""

import json
import math
from dataclasses import asdict, replace
from statistics import fmean
from statistics import harmonic_mean as harmonic
from typing import Any

import pytest
import torch
from conftest import ROOT, tiny

from core.lm.generate import greedy
from core.lm.model import LM
from core.lm.tokens import encode, target_ids
from core.metrics import harmonic_mean, measure
from core.types import Edit, Question
from edit_sets.counterfact import EDIT_SET as COUNTERFACT
from experiment import quality
from experiment.quality import Probe, compared, probe, summarize
from experiment.quality.compared import Compared, Pair

EDIT = Edit(
    *("The mother tongue of Anna Bell is", "Anna Bell", "Dutch, or so they say", "the French language"),
    *("Anna Bell speaks", "The mother tongue of Tom Hill is", "the French language", 3),
    more_rephrases=("It rained. Anna Bell grew up speaking",),
    more_localities=(("Peter Lane speaks", "the French language"),),
    neighbours=True,
)
LN = math.log


def nll(lm: LM, prompt: str, answer: str) -> float:
    """The mean of -log p over the answer's tokens, a token at a time through the whole model."""
    row, terms = encode(lm, prompt), []
    for token in target_ids(lm, answer):
        with torch.no_grad():
            terms.append(-float(lm.model(torch.tensor([row])).logits[0, -1].log_softmax(-1)[token]))
        row = [*row, token]
    return fmean(terms)


def test_what_is_compared(lm: LM) -> None:
    """Both answers after every prompt, of edits with neighbours alone; edits beside it play no part."""
    plain = replace(EDIT, neighbours=False)
    (nothing, found) = compared.compare(lm, [plain, EDIT])
    assert nothing is None and found is not None
    for prompts, pairs in (
        ([EDIT.prompt], found.rewrite),
        (EDIT.rephrases, found.paraphrase),
        ([prompt for prompt, _ in EDIT.localities], found.neighbourhood),
    ):
        wanted = [(nll(lm, prompt, EDIT.target), nll(lm, prompt, EDIT.old)) for prompt in prompts]
        assert [value for pair in pairs for value in pair] == pytest.approx(
            [v for pair in wanted for v in pair], rel=1e-4
        )
    assert len(target_ids(lm, EDIT.target)) != len(target_ids(lm, EDIT.old))
    assert compared.compare(lm, []) == [] and compared.compare(lm, [plain]) == [None]


def test_scores_of_a_tiny_model() -> None:
    """Facts of the sample on a random model, against the definitions applied to `nll` one by one."""
    lm = tiny("gpt2")
    edits = COUNTERFACT.edits(ROOT / "data/sample/edited-data/counterfact.json", 5, 8, 1)
    wanted: dict[str, list[float]] = {}
    for edit in edits:
        kinds = {"E": [edit.prompt], "P": edit.rephrases, "N": [prompt for prompt, _ in edit.localities]}
        for kind, prompts in kinds.items():
            losses = [(nll(lm, prompt, edit.target), nll(lm, prompt, edit.old)) for prompt in prompts]
            right = [(true, new) if kind == "N" else (new, true) for new, true in losses]
            wanted.setdefault(f"{kind}S", []).append(sum(good < bad for good, bad in right) / len(right))
            wanted.setdefault(f"{kind}M", []).append(sum(math.exp(-a) - math.exp(-b) for a, b in right) / len(right))
    probes = probe(lm, edits)
    found = summarize(probes, probes, probes)["after"]
    means = {name: fmean(values) for name, values in wanted.items()}
    assert {name: found[name].value for name in means} == pytest.approx(means, rel=1e-3, abs=1e-7)
    score = harmonic(means[name] for name in ("ES", "PS", "NS"))
    assert found["ES_PS_NS_score"].value == pytest.approx(score)
    assert 0 < score < 1  # else choose other facts


def pairs(*chances: Pair) -> tuple[Pair, ...]:
    """(L_new, L_true) where the mean token probabilities are these."""
    return tuple((-LN(new), -LN(true)) for new, true in chances)


FIRST = Compared(
    pairs((0.5, 0.25)),  # ES 1, EM 1/4
    pairs((0.5, 0.25), (0.25, 0.5)),  # PS 1/2, PM 0
    pairs((0.25, 0.5), (0.25, 0.25), (0.5, 0.125), (0.125, 0.25)),  # NS 2/4, NM (1/4 + 0 - 3/8 + 1/8) / 4 = 0
)
SECOND = Compared(
    pairs((0.25, 0.25)),  # a tie: ES 0, EM 0
    pairs((0.75, 0.25)),  # PS 1, PM 1/2
    pairs((0.25, 0.5)),  # NS 1, NM 1/4
)


def test_scores_by_hand() -> None:
    first, second = compared.numbers(FIRST), compared.numbers(SECOND)
    assert first == pytest.approx({"ES": 1, "EM": 0.25, "PS": 0.5, "PM": 0, "NS": 0.5, "NM": 0})
    assert second == pytest.approx({"ES": 0, "EM": 0, "PS": 1, "PM": 0.5, "NS": 1, "NM": 0.25})
    means = {name: found.value for name, found in compared.means([first, second]).items()}
    assert means == pytest.approx(
        {
            "ES": 0.5,
            "PS": 0.75,
            "NS": 0.75,
            "EM": 0.125,
            "PM": 0.25,
            "NM": 0.125,
            "ES_PS_NS_score": 3 / (2 + 4 / 3 + 4 / 3),
        }
    )
    assert compared.means([second])["ES_PS_NS_score"].value == 0  # the harmonic mean with a 0


def test_scores_of_edits_without_some_prompts() -> None:
    """A mean is over the edits that have the prompts: PS over the first here; no score without one of its parts."""
    bare = compared.numbers(replace(SECOND, paraphrase=()))
    assert bare.keys() == {"ES", "EM", "NS", "NM"}
    means = compared.means([compared.numbers(FIRST), bare])
    assert (means["ES"].value, means["PS"].value, means["NS"].value) == (0.5, 0.5, 0.75)
    assert means["ES_PS_NS_score"].value == pytest.approx(3 / (2 + 2 + 4 / 3))
    assert "ES_PS_NS_score" not in compared.means([bare]) and compared.means([]) == {}


def test_the_score_is_resampled_with_its_edits_whole() -> None:
    """Where ES, PS and NS of an edit are equal, so is their harmonic mean in every resample."""
    numbers = [dict.fromkeys(("ES", "PS", "NS", "EM", "PM", "NM"), value) for value in (0.0, 1.0, 1.0, 0.5, 1.0)]
    found = compared.means(numbers)
    for part in ("value", "low", "high"):
        assert getattr(found["ES_PS_NS_score"], part) == pytest.approx(getattr(found["ES"], part))
    top = [[1.0, 0.5], [0.0, 0.5]]
    assert measure(top, mean=harmonic_mean).value == 0.5 == measure(top).value
    assert measure([[1.0, 0.25]], mean=harmonic_mean).value == pytest.approx(0.4)


def test_they_stand_beside_ours_and_apart(lm: LM) -> None:
    """After the greedy measures, under names of their own and below a line that says what they are."""
    probes = probe(lm, [EDIT, replace(EDIT, neighbours=False)])
    found = summarize(probes, probes, probes)
    assert [*found["after"]] == [*quality.OURS, "ES", "PS", "NS", "EM", "PM", "NM", "ES_PS_NS_score"]
    lines = quality.table(found).splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[0] == "ES")
    assert "which answer is likelier" in lines[at - 1] and lines[at - 2].startswith("locality_tokens")
    (one,) = [p.compared for p in probes if p.compared]
    assert found["after"]["ES"].value == float(one.rewrite[0][0] < one.rewrite[0][1])


# --- several prompts, portability, and what a record holds ---------------------------------------------------------


def test_several_prompts_of_one_edit(lm: LM) -> None:
    """Each is as if it were the only one, and an edit's number is their mean."""
    (found,) = probe(lm, [EDIT])
    singles = [replace(EDIT, rephrase=text, more_rephrases=()) for text in EDIT.rephrases]
    asked = [probe(lm, [single])[0] for single in singles]
    told = [found.rephrase_said, *(answer.said for answer in found.more_rephrases)]
    assert told == [one.rephrase_said for one in asked]
    numbers = quality._numbers(found, found)
    assert numbers["rephrase_probability"] == pytest.approx(fmean(one.rephrase_probability or 0.0 for one in asked))
    ids = [found.locality_ids, *found.more_locality_ids]
    for (prompt, answer), told_ids in zip(EDIT.localities, ids, strict=True):
        count = len(target_ids(lm, answer or ""))
        assert told_ids == tuple(greedy(lm, [encode(lm, prompt)], count)[0])
    changed = replace(found, more_locality_ids=((*ids[1][:-1], -1) if ids[1] else (-1,),))
    numbers = quality._numbers(found, changed)
    assert numbers["locality"] == 0.5 < numbers["locality_tokens"] < 1


def test_portability_takes_any_alias() -> None:
    lm, prompt = tiny("gpt2"), "Peter Lane works as a"
    ids = greedy(lm, [encode(lm, prompt)], 2)[0]
    said = lm.tokenizer.decode(ids).strip()
    assert target_ids(lm, said) == ids  # else choose another prompt
    asked = (
        Question("Reasoning", prompt, ("nothing at all", said)),
        Question("Reasoning", prompt, (f"{said} not",)),
        Question("Aliasing", prompt, ("nothing", "at all")),
    )
    (found,) = probe(lm, [replace(EDIT, portability=asked)])
    assert [(one.kind, one.success) for one in found.portability] == [
        ("Reasoning", True),
        ("Reasoning", False),
        ("Aliasing", False),
    ]
    assert found.portability[0].said == said
    numbers = quality._numbers(found, found)
    assert numbers["portability"] == pytest.approx(1 / 3)
    assert (numbers["portability_Reasoning"], numbers["portability_Aliasing"]) == (0.5, 0)


def test_a_record_of_one_prompt_of_each_kind_is_written_as_ever() -> None:
    edit = Edit("Anna speaks", "Anna", "Dutch", "French", "Anna says", "who ran", "a b", 4)
    told = Probe("a", True, 0.5, "b", False, 0.25, (1, 2))
    (record,) = quality.records([edit], {"own": [told]})
    assert [*record] == [
        *("prompt", "subject", "target", "old", "rephrase", "locality", "locality_answer", "index", "own"),
    ]
    assert [*record["own"]] == [
        *("said", "success", "probability", "rephrase_said", "rephrase_success", "rephrase_probability"),
        "locality_ids",
    ]


def test_a_probe_comes_back_from_json(lm: LM) -> None:
    question = Question("Reasoning", "Anna Bell eats", ("bread",))
    probes = probe(lm, [replace(EDIT, portability=(question,)), Edit("A is", "A", "b")])
    for one in probes:
        assert Probe.restored(json.loads(json.dumps(asdict(one)))) == one
    old: dict[str, Any] = {key: value for key, value in asdict(probes[1]).items() if key not in quality.LATER}
    assert Probe.restored(json.loads(json.dumps(old))) == probes[1]
