"""The six glue tasks: the released reading and its F1 restated, the right ones, their intervals, how they are named."""

import json
import pickle
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from fake_hub import FakeHub, serving
from reference import glue as reference
from sklearn.metrics import f1_score, matthews_corrcoef

from analysis.compare import difference, t_test
from core.errors import UserError
from core.metrics import difference as paired
from core.metrics import mean, mean_ratio, summarize, value
from core.registry import discover
from core.types import Completion, Sample, Scored
from experiment.asked import Experiment, checked, task_names
from inputs import datasets as gathering
from inputs.converters import EXAMPLES, TESTS, GluePickle, plain
from inputs.official import FACTS, GLUE, SETS, DataSet, Web
from tasks import EIGHT, GROUPS, SIX
from tasks.glue import cola, mmlu, mrpc, nli, rte, sst
from tasks.glue._agreement import agreement

TASKS = {name: discover("tasks", "TASK")[name] for name in SIX}
assert [*TASKS.values()] == [module.TASK for module in (cola, mmlu, mrpc, nli, rte, sst)]
SAMPLES = {name: list(task.samples(ROOT / "data/sample/task-data" / task.file)) for name, task in sorted(TASKS.items())}
NUMBER = {"glue_mmlu": {"A": 0, "B": 1, "C": 2, "D": 3}, "glue_rte": {"True": 0, "False": 1}}
"""A label word's number in the files; in those of the others it is 1 for the first of these words."""
POSITIVE = {"positive", "Yes", "True"}
PIECES = (
    *(" yes", "Yes", " no", "know", " True", "untrue", "False", " positive", "Negative", " A", "b\n", "(C)", "la\n"),
    *(" D", "\n", ".", " the", " Answer:", " answer:", "True or False? Answer:", "Sentiment :", "\u0130", " not"),
)


def number(name: str, word: str) -> int:
    """As the data write it."""
    return NUMBER[name][word] if name in NUMBER else int(word in POSITIVE)


def scored(name: str, said: Sequence[str]) -> Scored:
    pairs = zip(SAMPLES[name][: len(said)], map(Completion, said), strict=True)
    return [(sample, completion, TASKS[name].score(sample, completion)) for sample, completion in pairs]


def drawn(rng: random.Random) -> str:
    return "".join(rng.choices(PIECES, k=rng.randint(0, 4)))


@pytest.mark.parametrize("name", SIX)
def test_as_released_against_the_rule_restated(name: str) -> None:
    """The answer read off each of 2,000 completions, and the F1 of a dozen runs over the sample; ours as by sklearn."""
    rng, task = random.Random(name), TASKS[name]
    for _ in range(2000):
        text, sample = drawn(rng), rng.choice(SAMPLES[name])
        read = task.as_released(sample.prompt, text)
        # RTE's number of a word is the data's for its references and the other one for what was said: the defect.
        ours = -1 if read == "-1" else number(name, task.taught(read))
        assert ours == reference.answer(name, sample.prompt, text), text
    for i in range(12):
        likely = [f" {sample.reference}" for sample in SAMPLES[name]]
        found = scored(name, [one if rng.random() < i / 16 else drawn(rng) for one in likely])
        labels = [number(name, sample.reference) for sample, _, _ in found]
        answers = [reference.answer(name, sample.prompt, said.text) for sample, said, _ in found]
        ratios = task.ratios(found)
        assert value(ratios["as_released"]) == pytest.approx(reference.f1(labels, answers), abs=1e-12)
        right = [sample.reference for sample, _, _ in found], [score.answer for _, _, score in found]
        assert value(ratios["f1"]) == pytest.approx(f1_score(*right, average="weighted", zero_division=0), abs=1e-12)
        assert value(ratios["mcc"]) == pytest.approx(matthews_corrcoef(*right), abs=1e-12)


def test_the_rule_restated_is_sklearns() -> None:
    rng = random.Random(0)
    for _ in range(8):
        labels, answers = rng.choices((0, 1, 2), k=20), rng.choices((-1, 0, 1, 2), (1, 4, 4, 1), k=20)
        ours = f1_score(labels, answers, average="weighted", zero_division=0)
        assert reference.f1(labels, answers) == pytest.approx(ours, abs=1e-12)
        assert reference.mcc(labels, answers) == pytest.approx(matthews_corrcoef(labels, answers), abs=1e-12)


def test_labels_of_rte_are_inverted_in_the_released_score(tmp_path: Path) -> None:
    """GLUE's 0 is entailment; the released code counts "True" as right where the label is 1."""
    rows = [
        ("The Nile flows through Egypt.", "The Nile flows.", 0),
        ("Ida sold her boat to Per.", "Per sold a boat.", 1),
        ("All of the eggs were broken.", "Some eggs were broken.", 0),
        ("It may rain on Sunday.", "It rained on Sunday.", 1),
    ]
    file = tmp_path / "rte.jsonl"
    file.write_text("".join(json.dumps({"sentence1": a, "sentence2": b, "label": c}) + "\n" for a, b, c in rows))
    task = TASKS["glue_rte"]
    samples = list(task.samples(file))
    assert samples[0].prompt == "The Nile flows through Egypt.\nquestion: The Nile flows. True or False?\nanswer:"
    assert [sample.reference for sample in samples] == ["True", "False", "True", "False"]

    def measures(*said: str) -> dict[str, float]:
        found = [(s, Completion(t), task.score(s, Completion(t))) for s, t in zip(samples, said, strict=True)]
        return {
            name: round(one.value, 6)
            for name, one in summarize(task, found).items()
            if name in ("accuracy", "f1", "mcc", "as_released")
        }

    right, wrong = (" True", " False") * 2, (" False", " True") * 2
    assert measures(*right) == {"accuracy": 1, "f1": 1, "mcc": 1, "as_released": 0}
    assert measures(*wrong) == {"accuracy": 0, "f1": 0, "mcc": -1, "as_released": 1}
    always = {"accuracy": 0.5, "f1": 0.333333, "mcc": 0, "as_released": 0.333333}
    assert measures(*[" True"] * 4) == always
    # three right; there, one: label 0 once said of two that are 0 there ("False"), F1 0.5, and of "True" F1 0
    assert measures(" True", " True", " True", " False") == {
        **{"accuracy": 0.75, "f1": round((0.8 + 2 / 3) / 2, 6), "mcc": round(1 / 3**0.5, 6)},
        "as_released": round(reference.f1([0, 1, 0, 1], [1, 1, 1, 0]), 6),
    }


@pytest.mark.parametrize(
    ("name", "text", "answer", "released"),
    [
        ("glue_sst", " Positive.\nIt", "positive", "positive"),
        ("glue_sst", " not positive", "", "positive"),
        ("glue_mrpc", " I know", "", "No"),
        ("glue_mrpc", " Yes, no", "", "Yes"),
        ("glue_mrpc", "\n\n The answer is no.\nYes", "No", "Yes"),
        ("glue_cola", "no.", "No", "No"),
        ("glue_cola", " maybe", "", "-1"),
        ("glue_rte", " true, not false", "", "False"),
        ("glue_rte", " True\nanswer: no", "True", "-1"),
        ("glue_nli", " False, untrue", "False", "True"),
        ("glue_nli", " It is not true", "", "True"),
        ("glue_nli", " True or False? Answer: False", "", "False"),
        ("glue_mmlu", " B", "B", "-1"),
        ("glue_mmlu", " (B)\n", "B", "-1"),
        ("glue_mmlu", " B\n", "B", "B"),
        ("glue_mmlu", " b\n", "", "B"),
        ("glue_mmlu", " The answer is (C)", "C", "-1"),
        ("glue_mmlu", "\nBerlin is a\n", "", "A"),
    ],
)
def test_two_readings(name: str, text: str, answer: str, released: str) -> None:
    sample = SAMPLES[name][0]
    assert TASKS[name].score(sample, Completion(text)).answer == answer
    assert TASKS[name].as_released(sample.prompt, text) == released


def test_no_constant_answer_wins() -> None:
    for name, samples in SAMPLES.items():
        words = [sample.reference for sample in samples]
        assert len(words) == 48
        assert {words.count(choice) for choice in TASKS[name].choices} == {48 // len(TASKS[name].choices)}


# --- statistics ----------------------------------------------------------------------------------------------------


def of(golds: str, said: str) -> Any:
    samples = [(Sample(str(i), "", gold), Completion(""), None) for i, gold in enumerate(golds)]
    return agreement(samples, ("x", "y"), list(golds), list(said))  # type: ignore[arg-type]


def test_intervals_are_those_of_the_statistic_over_resampled_records() -> None:
    """Of f1 and mcc: resampled by hand, records and all, and computed by the definition."""
    rng = np.random.default_rng(1)
    golds, said = "xy" * 30, "".join(rng.choice(list("xy?"), 30, p=[0.6, 0.3, 0.1])) + "xy" * 15
    draws = [rng.integers(0, 60, 60) for _ in range(400)]
    for name, by_hand in (("f1", reference.f1), ("mcc", reference.mcc)):
        values = [by_hand([golds[i] for i in draw], [said[i] for i in draw]) for draw in draws]
        found = difference([of(golds, golds)[name]], [of(golds, said)[name]]).measure
        assert found.value == pytest.approx(by_hand(list(golds), list(said)) - 1)
        np.testing.assert_allclose((found.low + 1, found.high + 1), np.percentile(values, [2.5, 97.5]), atol=0.03)
        assert paired(of(golds, golds)[name], of(golds, said)[name]).value == pytest.approx(found.value)


def test_the_jackknife_tests_as_the_ratios_do() -> None:
    """Of a mean, the shares by leaving out are the records' values; and a difference of nothing has p = 1."""
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 40))
    plain_of = [mean([(Sample(str(i), "", ""), Completion(""), None) for i in range(40)], v) for v in (before, after)]  # type: ignore[misc]
    other = [replace(ratio, mean=mean_ratio) for ratio in plain_of]
    assert t_test(*other) == pytest.approx(t_test(*plain_of), rel=1e-9)
    one = of("xyxyxy", "xyxxyy")["mcc"]
    assert t_test(one, one) == 1
    assert t_test(of("xy" * 40, "xy" * 40)["mcc"], of("xy" * 40, "xx" * 10 + "xy" * 30)["mcc"]) < 0.05


# --- named -----------------------------------------------------------------------------------------------------------


def test_glue_stands_for_the_six() -> None:
    assert task_names(("glue",)) == SIX == tuple(sorted(TASKS)) and GROUPS["all"] == EIGHT
    assert task_names(("GLUE_RTE", "glue", "NER")) == ("glue_rte", *(n for n in SIX if n != "glue_rte"), "NER")
    assert checked(Experiment(tasks=SIX)).tasks == ("glue",) == checked(Experiment(tasks=("glue",))).tasks
    assert checked(Experiment(tasks=("glue_rte",))).tasks == ("glue_rte",)


# --- fetched ---------------------------------------------------------------------------------------------------------

ROWS = [{"sentence": f"It rained {i} times.", "label": i % 2, "idx": i} for i in range(EXAMPLES + TESTS + 5)]


def fetched(content: bytes, folder: Path) -> list[str]:
    with serving(FakeHub(plain={"sst2.pkl": content})) as server:
        (dataset,) = gathering.chosen(SETS, ["glue_sst"], (*FACTS, *GLUE))
        source = Web((f"{server.url}/sst2.pkl",), None, convert=GluePickle(("sentence", "label")))
        new = DataSet(dataset.name, dataset.file, dataset.n, source)
        return list(gathering.Gatherer(folder, TASKS, {}).gather([new]))


def test_the_released_rows_are_fetched(tmp_path: Path) -> None:
    """The hundred behind those kept for examples; without a name none of the six is fetched."""
    assert [dataset.name for dataset in GLUE] == list(SIX)
    assert all(dataset.file == f"task-data/{TASKS[dataset.name].file}" and dataset.n == 100 for dataset in GLUE)
    assert gathering.chosen(SETS, [], GLUE) == list(SETS)
    assert fetched(pickle.dumps(ROWS), tmp_path) == [f"{tmp_path}/task-data/test-glue_sst.jsonl: 100 records"]
    samples = list(TASKS["glue_sst"].samples(tmp_path / "task-data/test-glue_sst.jsonl"))
    assert samples[0].prompt == "Review :It rained 10 times.\nSentiment :" and samples[1].reference == "positive"
    assert len(samples) == 100 and [path.name for path in (tmp_path / "task-data").iterdir()] == ["test-glue_sst.jsonl"]


class Payload:
    def __reduce__(self) -> Any:
        return open, ("mark", "w")


NESTED: list[Any] = []
for _ in range(40):
    NESTED = [NESTED, NESTED]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([Payload()] * 110), "it asks for '"),
        (pickle.dumps(np.arange(3)), "it asks for 'numpy"),
        (pickle.dumps(ROWS)[:-9], "expected a pickle, it cannot be read ("),
        (b"not a pickle", "expected a pickle, it cannot be read ("),
        (pickle.dumps({"a": 1}), "expected a pickled list of at least 110 records, got {'a': 1}"),
        (pickle.dumps(ROWS[:100]), "expected a pickled list of at least 110 records, got one of 100"),
        (pickle.dumps([*ROWS[:12], 7, *ROWS]), "record 12: expected an object with keys, got 7"),
        (pickle.dumps([*ROWS[:12], {"label": 0}, *ROWS]), "record 12: expected the key 'sentence'"),
        (
            pickle.dumps([*ROWS[:12], {**ROWS[0], "label": NESTED}, *ROWS]),
            "record 12: expected a text, a number or a list of texts in 'label'",
        ),
        (
            pickle.dumps([*ROWS[:12], {**ROWS[0], "label": 1 << 9999}, *ROWS]),
            "record 12: expected a text, a number or a list of texts in 'label'",
        ),
        (
            pickle.dumps([*ROWS[:12], {**ROWS[0], "label": 2}, *ROWS]),
            "test-glue_sst.jsonl:3: expected a label among 0, 1, got '2'",
        ),
        (
            pickle.dumps([*ROWS[:12], {**ROWS[0], "sentence": 5}, *ROWS]),
            "test-glue_sst.jsonl:3: expected a string in 'sentence', got 5",
        ),
    ],
)
def test_other_pickles_are_refused_and_nothing_is_run(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"1 of 1 are missing: task-data/test-glue_sst\.jsonl"):
        fetched(content, tmp_path / "data")
    (line,) = caplog.messages
    assert message in line and len(line.splitlines()) == 1
    assert not list(tmp_path.rglob("mark")) and not list(tmp_path.rglob("*.jsonl"))


def test_plain_data_is_read() -> None:
    assert plain(pickle.dumps([{"a": [1, "x"]}, None, 2.5, True])) == [{"a": [1, "x"]}, None, 2.5, True]
