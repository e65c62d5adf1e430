"""Tasks of lm-evaluation-harness: our engine says what its own HFLM says, and its scores are results like the others.

What needs the harness is skipped where it is not installed; the rest is not.
"""

import importlib.util
import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, tiny
from tiny_settings import ROME, ROME_YAML

import experiment as ex
from analysis import words
from analysis.collect import read_all
from analysis.study import HEADLINE, family, studies
from core import folders
from core.errors import UserError
from core.lm.model import LM
from core.metrics import BELOW, by_parts, value
from core.results import read, read_samples
from core.script import script
from core.types import Completion, Sample, Score
from experiment import cli
from experiment.harness import installed
from experiment.harness.found import Yardsticks
from experiment.harness.member import GEN_TOKENS, Member
from experiment.harness.metrics import RATIOS, named
from experiment.harness.replies import completion, reply_to
from experiment.harness.seeded import seeded
from experiment.harness.yardstick import Yardstick
from experiment.stopped.journal import Journal

pytestmark = pytest.mark.xdist_group("lm-eval")  # which takes seconds to import
HARNESS = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed: pip install -r requirements-lm-eval.txt",
)
FOLDER = ROOT / "tests/data/lm_eval"
TWO = ("my_choice", "my_generation")
CONTEXTS = ["The capital of France is", "a", "Question: who ran?  ", "", "Anna Bell paints, and is known for " * 20]
CONTINUATIONS = [" Paris", " the river Rhine and more", " Rome", "x"]
GENERATION = [
    {"until": ["\n", "e"], "max_gen_toks": 20},
    {"until": "or", "max_gen_toks": 9},
    {"until": [], "max_gen_toks": 5},
]
CHOICE: dict[str, Any] = {"output_type": "multiple_choice", "doc_to_target": "label", "doc_to_choice": ["no", "yes"]}
MORE: dict[str, dict[str, Any]] = {
    "yes_no": {**CHOICE, "metric_list": [{"metric": name} for name in ("acc", "f1", "mcc", "brier_score")]},
    "rolling": {"output_type": "loglikelihood_rolling", "doc_to_target": "{{text}}", "doc_to_text": ""},
    "last_word": {"output_type": "loglikelihood", "doc_to_target": " {{word}}"},
    "drawn": {"doc_to_target": "{{word}}", "generation_kwargs": {"until": ["x"], "do_sample": True, "temperature": 1}},
    "only_mcc": {**CHOICE, "metric_list": [{"metric": "mcc"}]},
    "no_file": {**CHOICE, "dataset_kwargs": {"data_files": {"test": "no/such/file.jsonl"}}},
}
"""Further tasks, on texts with a last word and a label."""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tasks' files name their data from the project's root."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The two tasks of tests/data/lm_eval, those of MORE, and a group in which two count the same."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    texts = ["It is so", "Peter ran to the river", "A dog barks", "London is large", "who ran", "one more line"]
    rows = [{"text": text, "word": text.split()[-1], "label": i % 3 == 0} for i, text in enumerate(texts)]
    (tasks / "texts.jsonl").write_text("".join(json.dumps({**row, "label": int(row["label"])}) + "\n" for row in rows))
    for file in FOLDER.glob("*.yaml"):
        (tasks / file.name).write_text(file.read_text())
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tasks / "texts.jsonl")}},
        "test_split": "test",
        "doc_to_text": "Text: {{text}}\nSo:",
    }
    for name, own in MORE.items():
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **common, **own}))
    mean = {"metric": "acc", "aggregation": "mean", "weight_by_size": False}
    group = {"group": "both", "task": ["my_choice", "yes_no"], "aggregate_metric_list": [mean]}
    (tasks / "both.yaml").write_text(yaml.safe_dump(group))
    (tasks / "some.yaml").write_text(yaml.safe_dump({"group": "some", "task": ["rolling", "last_word"]}))
    return tasks


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, 0) for each in arguments]  # type: ignore[arg-type]


def hflm(lm: LM) -> Any:
    from lm_eval.models.huggingface import HFLM

    if lm.tokenizer.pad_token is None:
        lm.tokenizer.pad_token = lm.tokenizer.eos_token
    return HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=3)


# --- the engine ----------------------------------------------------------------------------------------------------


@HARNESS
@pytest.mark.parametrize("budget", [None, 40])
def test_it_says_what_the_harness_own_model_says(lm: LM, budget: int | None) -> None:
    """Contexts too long, empty and with blanks at the end; continuations of one token, of several, and of none."""
    from experiment.harness.engine import Engine

    ours, theirs = Engine(lm, budget), hflm(lm)
    asked = requests("loglikelihood", [(a, b) for a in CONTEXTS for b in CONTINUATIONS])
    for own, other in zip(ours.loglikelihood(asked, True), theirs.loglikelihood(asked, True), strict=True):
        assert own == (pytest.approx(other[0], abs=1e-4), other[1])
    asked = requests("loglikelihood_rolling", [(text,) for text in CONTEXTS])
    assert ours.loglikelihood_rolling(asked) == pytest.approx(
        theirs.loglikelihood_rolling(asked, True), abs=1e-4, rel=1e-6
    )
    texts = [text for text in CONTEXTS if text]  # theirs knows no beginning of an empty one
    asked = requests("generate_until", [(text, dict(options)) for options in GENERATION for text in texts])
    said = ours.generate_until(asked)
    assert said == theirs.generate_until(asked, True) and len(set(said)) > 4
    assert "" not in ours.generate_until(requests("generate_until", [("", {"until": [], "max_gen_toks": 3})]))


@HARNESS
def test_a_greedy_continuation_is_known_for_one(lm: LM) -> None:
    from experiment.harness.engine import Engine

    engine = Engine(lm)
    prompts = ["Peter ran to", "who is it"]
    rows = [engine.tok_encode(text) for text in prompts]
    with torch.no_grad():
        best = [int(lm.model(torch.tensor([row])).logits[0, -1].argmax()) for row in rows]
    pairs = [(row, [token]) for row, token in zip(rows, best, strict=True)]
    assert [greedy for _, greedy in engine.replies([*pairs, (rows[0], [(best[0] + 1) % 50])])] == [True, True, False]


@HARNESS
def test_what_does_not_fit_the_model_is_one_line() -> None:
    from experiment.harness.engine import Engine

    engine = Engine(tiny("gpt2"))
    with pytest.raises(UserError, match="'tiny-gpt2' takes 128"):
        engine.loglikelihood(requests("loglikelihood", [("a", " word of it" * 80)]), True)
    with pytest.raises(UserError, match="too few for 128 new ones"):
        engine.generate_until(requests("generate_until", [("a", {"until": [], "max_gen_toks": 128})]))


# --- scores --------------------------------------------------------------------------------------------------------


@HARNESS
def test_scores_are_those_of_the_harness(folder: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    lm, manager = tiny("gpt2"), TaskManager(include_path=str(folder), include_defaults=False)
    names = ["both", "rolling", "last_word", "my_generation"]
    with seeded():
        found = simple_evaluate(model=hflm(lm), tasks=names, task_manager=manager, limit=5, bootstrap_iters=0)
    theirs = found["results"]
    ours = {
        yardstick.name: {name: m.value for name, m in ex.score(lm, yardstick, limit=5).metrics.items()}
        for yardstick in ex.yardsticks(*names, *TWO, "yes_no", tasks=folder)
    }
    assert {name: set(own) for name, own in ours.items()} == {
        "both": {"acc"},
        "rolling": {"logprob_per_word", "logprob_per_byte"},
        "last_word": {"logprob", "acc"},
        "my_choice": {"acc", "acc_norm"},
        "my_generation": {"exact_match,first-number", "exact_match,as-said"},
        "yes_no": {"acc", "f1", "brier_score"},  # mcc is no ratio over records
    }
    for name in ("my_choice", "yes_no", "both", "my_generation"):
        for metric, own in ours[name].items():
            key = metric if "," in metric else f"{metric},none"
            assert own == pytest.approx(theirs[name][key], abs=1e-5), (name, metric)
    assert math.exp(-ours["rolling"]["logprob_per_word"]) == pytest.approx(theirs["rolling"]["word_perplexity,none"])
    assert -ours["rolling"]["logprob_per_byte"] / math.log(2) == pytest.approx(theirs["rolling"]["bits_per_byte,none"])
    assert math.exp(-ours["last_word"]["logprob"]) == pytest.approx(theirs["last_word"]["perplexity,none"])


@HARNESS
def test_a_group_with_a_score_is_one_and_any_other_is_its_members(folder: Path) -> None:
    both, *some = ex.yardsticks("both", "some", "rolling", tasks=folder)
    assert [each.name for each in (both, *some)] == ["both", "rolling", "last_word"]
    ids = [sample.id for sample in both.first(2)]
    assert ids == ["my_choice:0", "my_choice:1", "yes_no:0", "yes_no:1"]
    assert len(both.first(None)) == 12 + 6 and both.source(2) != both.source(None)


@HARNESS
def test_a_limit_takes_the_first_records_and_hashes_what_is_asked(folder: Path) -> None:
    (one,), (two,) = (Yardsticks().of(["my_choice"], place) for place in (folder, FOLDER))
    assert one.first(3) == one.first(None)[:3] == list(one.samples())[:3]
    assert one.source(3).describe() == two.source(3).describe()  # wherever its file is
    assert one.first(1)[0].prompt == "Question: What is the capital of France?\nAnswer:"
    assert one.first(1)[0].reference == {"target": 0, "requests": [[" Paris"], [" Rome"], [" the river Rhine"]]}
    text = (folder / "my_choice.yaml").read_text().replace("Answer:", "Reply:")
    (folder / "my_choice.yaml").write_text(text)
    (changed,) = Yardsticks().of(["my_choice"], folder)
    assert changed.source(3).sha256 != one.source(3).sha256


@HARNESS
@pytest.mark.parametrize(("name", "kind"), zip(TWO, ("loglikelihood", "texts"), strict=True))
def test_an_interrupted_one_goes_on_to_the_bit(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiment.harness.engine import Engine

    lm, (yardstick,) = tiny("llama"), ex.yardsticks(name, tasks=FOLDER)
    samples, real, asked = yardstick.first(None), getattr(Engine, kind), []
    whole = yardstick.complete(lm, samples, 150)

    def counted(self: Engine, some: Any, **more: Any) -> Any:
        asked.append(len(some))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(self, some, **more)

    monkeypatch.setattr(Engine, kind, counted)
    journal = Journal(tmp_path / "journal", "key")
    with pytest.raises(KeyboardInterrupt):
        yardstick.complete(lm, samples, 150, journal)
    assert 0 < len(journal) < len(samples)
    again = Journal(tmp_path / "journal", "key")
    assert again.data == journal.data
    assert yardstick.complete(lm, samples, 150, again) == whole
    assert sum(asked[3:]) < sum(asked)


@HARNESS
def test_everything_is_afterwards_as_it_was(folder: Path, unchanged: Callable[[LM], Callable[[], None]]) -> None:
    """The generators of Python, NumPy and torch, the tokenizer's padding, gradients, tied weights, and the weights."""

    def state() -> tuple[Any, ...]:
        needs = [p.requires_grad for p in lm.model.parameters()]
        tied = lm.model.get_output_embeddings().weight is lm.model.get_input_embeddings().weight
        drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        return (*drawn, lm.tokenizer.padding_side, lm.tokenizer.pad_token, needs, tied, lm.model.training)

    lm = tiny("gpt2")
    check, before = unchanged(lm), state()
    for yardstick in ex.yardsticks("both", "rolling", "my_generation", tasks=folder):
        assert ex.score(lm, yardstick, limit=3).n == (6 if yardstick.name == "both" else 3)
    assert state() == before
    check()


def test_seeded_puts_back_even_after_an_error() -> None:
    before = random.getstate(), torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), seeded():
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
            raise ZeroDivisionError
    assert drawn[0] == drawn[1]
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


@HARNESS
def test_a_broken_model_is_said_to_be_one() -> None:
    lm = tiny("gpt2")
    with torch.no_grad():
        lm.model.transformer.ln_f.weight.fill_(math.nan)
    for yardstick in ex.yardsticks(*TWO, tasks=FOLDER):
        scores = ex.score(lm, yardstick, limit=2)
        assert not any(completion.finite for _, completion, _ in scores.samples)


def test_replies_are_read_back_from_a_completion() -> None:
    """But for numbers that are none, of which only that is kept; the likeliest continuation is the text."""
    kinds = ("loglikelihood", "loglikelihood", "loglikelihood_rolling")
    asked = [SimpleNamespace(request_type=kind, args=("", text)) for kind, text in zip(kinds, "abc", strict=True)]
    said: list[Any] = [(-2.0, False), (-1.5, True), -7.0]
    made = completion(asked, said, cut=True)
    assert (made.text, made.truncated, made.finite, made.ended) == ("b", True, True, None)
    assert [reply_to(request, i, made) for i, request in enumerate(asked)] == said
    broken = completion(asked, [(math.nan, False), *said[1:]], cut=False)
    assert not broken.finite and math.isnan(reply_to(asked[0], 0, broken)[0])
    text = SimpleNamespace(request_type="generate_until", args=("", {}))
    made = completion([text], [("so", False)], cut=False)
    assert (made.text, made.finite, reply_to(text, 0, made)) == ("so", False, "so")


@HARNESS
def test_how_many_new_tokens_a_task_asks_for(folder: Path) -> None:
    text = (folder / "my_generation.yaml").read_text().replace("  max_gen_toks: 8\n", "")
    (folder / "long.yaml").write_text(text.replace("task: my_generation", "task: long"))
    yardsticks = ex.yardsticks(*TWO, "long", tasks=folder)
    assert [each.max_new_tokens for each in yardsticks] == [0, 8, GEN_TOKENS]
    (member,) = yardsticks[0].members
    assert isinstance(member, Member) and list(member.requests(2)) == [0, 1]
    assert [len(requests) for requests in member.requests(4).values()] == [3, 3, 3, 2]


def test_parts_are_summed_over_what_they_are_a_share_of() -> None:
    """By hand: (1 + 2) / (4 + 2), (1 + 0) / 2, and 3 / 1 of the one sample that has it."""
    parts = [{"a": 1.0, "a" + BELOW: 4.0, "b": 1.0}, {"a": 2.0, "a" + BELOW: 2.0, "b": 0.0, "c": 3.0}]
    scored = [(Sample(str(i), "", None), Completion(""), Score(0.0, "", part)) for i, part in enumerate(parts)]
    assert {name: value(ratio) for name, ratio in by_parts(scored).items()} == {"a": 0.5, "b": 0.5, "c": 3.0}


@pytest.mark.parametrize(
    ("aggregation", "said", "part"),
    [
        ("mean", True, (1.0, 1.0)),
        ("mean", (1, 2), None),
        ("nanmean", math.nan, None),
        ("nanmean", 0.5, (0.5, 1.0)),
        ("weighted_perplexity", (-6.0, 3), (-6.0, 3.0)),
        ("f1", (1, 1), (2.0, 2.0)),
        ("f1", (0, 1), (0.0, 1.0)),
        ("f1", (0, 0), (0.0, 0.0)),
        ("brier_score", (1, [0.5, 0.25, 0.25]), (0.25 + 0.5625 + 0.0625, 1.0)),
    ],
)
def test_a_record_in_a_ratio(aggregation: str, said: Any, part: tuple[float, float] | None) -> None:
    assert RATIOS[aggregation](said) == part


def test_names_of_metrics() -> None:
    assert [named("acc", "none"), named("exact_match", "strict"), named("word_perplexity", "none")] == [
        *("acc", "exact_match,strict", "logprob_per_word")
    ]


# --- the scripts ---------------------------------------------------------------------------------------------------

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """A script in this process, with the tiny model and results in `out`: exit code, what it says, its error."""
    (tmp_path / "rome.yaml").write_text(ROME_YAML)

    def run(main: Callable[[], None], *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, words)])
        code = 0
        try:
            script(main)
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, "\n".join(line for line in err.splitlines() if line.startswith("error: "))

    yield run


def flags(tmp_path: Path, tiny_folder: Path, *more: object) -> tuple[object, ...]:
    data = ("--data", ROOT / "data/sample", "--limit", 3, "--device", "cpu", "--measures", "none")
    return ("--model", tiny_folder, "--results", tmp_path / "out", *data, *more)


@HARNESS
def test_before_and_after_edits(call: Call, tmp_path: Path, tiny_folder: Path) -> None:
    """Results, at every checkpoint, that are compared with those before, and are not made again."""
    common = flags(tmp_path, tiny_folder, "--lm-eval", ",".join(TWO), "--lm-eval-tasks", "tests/data/lm_eval")
    edit = ("NLI", "Instance-Sequential", "ROME", 0, 2, 1, "--checkpoints", 1, "--hparams", tmp_path / "rome.yaml")
    assert call(cli.test_task, "NLI", *common)[::2] == (0, "")
    code, out, error = call(cli.test_task_after, *edit, *common)
    assert (code, error) == (0, "")
    assert out.count("my_choice acc 0.") == 2 and "my_choice: 3 records from lm-eval/my_choice" in out
    root = tmp_path / "out" / tiny_folder.name
    for name in TWO:
        files = sorted(path.name for path in (root / f"test-{name}").iterdir())
        tails = ("Instance-Sequential-ROME-1", "Instance-Sequential-ROME-2", "before-edit")
        assert files == [f"result-{name}-{tail}.{ending}" for tail in tails for ending in ("json", "jsonl")]
        before, after = (root / f"test-{name}" / f"result-{name}-{tail}.json" for tail in tails[2:0:-1])
        one, other = read(before), read(after)
        assert one.settings == {**other.settings, "edit": None} and one.n == other.n == 3
        assert one.settings["data"]["kind"] == installed.KIND and other.edited is not None
        pairs = [[sample for sample, _, _ in read_samples(file.with_suffix(".jsonl"))] for file in (before, after)]
        assert pairs[0] == pairs[1]
    times = {path: path.stat().st_mtime_ns for path in root.rglob("result-*")}
    assert call(cli.test_task_after, *edit, *common)[1].count("already there") == 6
    assert {path: path.stat().st_mtime_ns for path in root.rglob("result-*")} == times


@HARNESS
def test_in_a_sweep_with_a_report(
    call: Call, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten edits; the report pairs the records without the harness, in a study of their own."""
    (tmp_path / "hparams/ROME").mkdir(parents=True)
    (tmp_path / "rome.yaml").rename(tmp_path / "hparams/ROME" / f"{tiny_folder.name}.yaml")
    monkeypatch.setattr(folders, "HPARAMS", tmp_path / "hparams")
    grid = {
        **{"models": [str(tiny_folder)], "tasks": ["NLI"], "lm_eval": list(TWO), "lm_eval_tasks": str(FOLDER)},
        **{"checkpoints": [0, 10], "grid": [{"methods": ["ROME"], "modes": ["Instance-Sequential"]}], "limit": 8},
        **{"data": "data/sample", "results": str(tmp_path / "out"), "device": "cpu", "measures": ["none"], "begin": 0},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    code, out, error = call(cli.sweep, tmp_path / "grid.yaml", "--dry-run")
    assert (code, error) == (0, "") and out.count("--lm-eval my_choice,my_generation --lm-eval-tasks ") == 2
    code, out, error = call(cli.sweep, tmp_path / "grid.yaml")
    assert (code, error) == (0, "") and "2 cells, 6 new results, 0 failed" in out
    eight, further = sorted(studies(read_all(tmp_path / "out")[0]), key=lambda study: study.kind == installed.KIND)
    assert [panel.task for panel in eight.panels] == ["NLI"] and words.study(further).startswith(
        "tiny-gpt2 on tasks of"
    )
    assert [panel.task for panel in further.panels] == [*TWO]
    for point in family(further.panels, further.groups[0], HEADLINE):
        assert point.edits == 10 and point.difference is not None and point.difference.records == 8
        assert point.difference.test == "McNemar"


@HARNESS
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("my_choise", "unknown task 'my_choise': did you mean 'my_choice'?"),
        ("drawn", "drawn asks for texts that are drawn or searched for; ours are greedy"),
        ("only_mcc", "only_mcc has no metric that is a mean or a ratio over records (mcc)"),
        ("no_file", "no_file: cannot be read (FileNotFoundError: "),
    ],
)
def test_what_cannot_be_asked_is_one_line(word: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yardsticks = Yardsticks()
    if word == "my_choise":  # without the harness's own 14,000, which take seconds to read
        from lm_eval.tasks import TaskManager

        monkeypatch.setitem(
            yardsticks._managers, (folder, True), TaskManager(include_path=str(folder), include_defaults=False)
        )
    with pytest.raises(UserError) as error:
        yardsticks.of([word], folder)
    assert said in str(error.value) and "\n" not in str(error.value)


@HARNESS
def test_a_name_of_ours_is_refused(call: Call, tmp_path: Path, tiny_folder: Path, folder: Path) -> None:
    text = (folder / "my_choice.yaml").read_text().replace("task: my_choice", "task: NLI")
    (folder / "mine.yaml").write_text(text)
    common = flags(tmp_path, tiny_folder, "--lm-eval", "NLI", "--lm-eval-tasks", folder)
    assert "NLI is the name of a task here" in call(cli.test_task, "NER", *common)[2]


def test_without_the_harness_a_line_says_what_to_install(
    call: Call, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiment.harness.installed.find_spec", lambda name: None)
    code, _, error = call(cli.test_task, "NLI", *flags(tmp_path, tiny_folder, "--lm-eval", "mmlu"))
    assert code == 2 and error.endswith("is not installed: pip install -r requirements-lm-eval.txt")
    with pytest.raises(UserError, match=r"requirements-lm-eval\.txt"):
        ex.yardsticks("mmlu")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--lm-eval-tasks", "tests/data"), "--lm-eval NAME,NAME says which of them"),
        (("--lm-eval", "x", "--lm-eval-tasks", "tests/reference"), "no such folder, or no *.yaml of a task in it"),
        (("--lm-eval", "x", "--lm-eval-tasks", "no/such"), "no such folder, or no *.yaml of a task in it"),
    ],
)
def test_a_folder_without_tasks_is_refused(
    more: tuple[str, ...], said: str, call: Call, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiment.harness.installed.find_spec", lambda name: object())
    code, _, error = call(cli.test_task, "NLI", *flags(tmp_path, tiny_folder, *more))
    assert code == 2 and said in error


@HARNESS
def test_in_a_notebook_around_edits() -> None:
    lm = tiny("gpt2")
    (yardstick,) = ex.yardsticks("my_choice", tasks=FOLDER)
    assert isinstance(yardstick, Yardstick)
    before = ex.score(lm, yardstick)
    facts = ex.edits("zsre", 200, 202, data=ROOT / "data/sample")
    with ex.edited(lm, "ROME", facts, settings=ROME):
        during = ex.score(lm, yardstick)
    assert ex.score(lm, yardstick).samples == before.samples != during.samples
