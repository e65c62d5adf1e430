"""analysis.collect, .samples, .study, .edits, .tradeoff and .export: what is read, sorted, compared and exported."""

import csv
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_samples import MODEL, TASKS, WEIGHT, Edited, completed, edit_parts, make

from analysis import edits, samples, tradeoff, words
from analysis.collect import read, read_all
from analysis.compare import binary, mcnemar
from analysis.export import csv_text
from analysis.samples import ratios
from analysis.study import CHOICE, HEADLINE, RELEASED, Study, family, metric_of, regularised, studies
from core.errors import UserError
from core.metrics import mean, summarize, value
from core.results import stem, write
from core.types import Completion, Measure, Ratio, Sample, Score, Scored, Task
from experiment.scoring import result_of

ROME = ("ROME", "Instance-Sequential", None)


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def study(root: Path) -> Study:
    (found,) = studies(read_all(root)[0])
    return found


# --- reading -------------------------------------------------------------------------------------------------------


def test_a_run(tmp_path: Path) -> None:
    file = make(tmp_path, "NLI", 0.5, Edited(5, rule=("rect", 0.4), draw=3))
    run = read(file, tmp_path)
    assert run.place == "draw-3/test-NLI/result-NLI-Instance-Sequential-ROME-RECT40-5.json"
    assert (run.result.task, run.result.headline, run.edits, run.result.n) == ("NLI", "accuracy", 5, 24)
    assert run.headline == run.result.metrics["accuracy"]
    assert (run.model.name, run.data) == ("gpt2-xl", ("sample", f"{'NLI':f<64}", 24))
    assert run.edit and (run.edit.regularizer, run.edit.keep, run.edit.group) == ("rect", 0.4, ROME)
    assert json.loads(run.repeat)[0] == 3


def test_a_regulariser_with_parameters_of_its_own(tmp_path: Path) -> None:
    """Its curves are told apart, and compared with the same edits without it."""
    make(tmp_path, "NLI", 0.3, Edited(5))
    for i, rule in enumerate(({"name": "clip", "at": 2}, {"name": "clip", "at": 3, "keep": 0.5})):
        file = make(tmp_path / str(i), "NLI", 0.4, Edited(5))
        change(file, lambda content, rule=rule: content["settings"]["edit"].update(regularizer=rule))
    found = study(tmp_path)
    assert list(words.labels(found.settings).values()) == ["no regulariser", "CLIP 50 %, at 3", "CLIP at 2"]
    assert len(regularised(found.panels, ROME, HEADLINE)) == 2
    rows = csv.DictReader(io.StringIO(csv_text([found])))
    given = {(row["regularizer"], row["keep"], row["parameters"]) for row in rows}
    assert given == {("none", "", ""), ("clip", "", '{"at": 2}'), ("clip", "0.5", '{"at": 3}')}


def test_hidden_and_unfinished_results_are_not_read(tmp_path: Path) -> None:
    file = make(tmp_path, "NLI", 0.5)
    for name in (".scratch", "unfinished"):
        shutil.copytree(file.parent, tmp_path / "deep" / name / "test-NLI")
        next((tmp_path / "deep" / name).rglob("*.json")).write_text("half")
    found, copies = read_all(tmp_path)
    assert ([result.path for result in found], copies) == ([file], 0)


def test_copies_are_left_out_wherever_their_data_lay(tmp_path: Path) -> None:
    file = make(tmp_path, "NLI", 0.5)
    shutil.copytree(file.parent, tmp_path / "again" / "test-NLI")
    change(tmp_path / "again/test-NLI" / file.name, lambda c: c["settings"]["data"].update(path="elsewhere.tsv"))
    found, copies = read_all(tmp_path)
    assert (len(found), copies) == (1, 1)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: file.write_text("{"), "Expecting property name"),
        (lambda file: file.write_text("[1]"), "expected an object, got [1]"),
        (lambda file: file.write_bytes(b"\xff"), "can't decode"),
        (lambda file: change(file, lambda c: c.pop("settings")), "it has no 'settings'"),
        (lambda file: change(file, lambda c: c["settings"].pop("limit")), "it has no 'limit'"),
        (lambda file: change(file, lambda c: c.update(headline="f1")), "headline, 'f1', is not among its metrics"),
        (
            lambda file: change(file, lambda c: c["metrics"]["accuracy"].update(low=math.nan)),
            "'accuracy' is not a number",
        ),
        (lambda file: change(file, lambda c: c["settings"]["edit"].update(range=[1, 2, 0])), "must not be zero"),
        (lambda file: file.with_suffix(".jsonl").unlink(), "jsonl is not beside it"),
    ],
)
def test_what_is_no_result(tmp_path: Path, harm: Callable[[Path], object], reason: str) -> None:
    make(tmp_path, "NLI", 0.5)
    file = make(tmp_path, "NLI", 0.5, Edited(5))
    harm(file)
    with pytest.raises(UserError) as error:
        read_all(tmp_path)
    assert str(error.value).startswith(f"{file}: not a result file of this project")
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_nothing_to_report(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"{folder}: no "):
        read_all(tmp_path / folder)


# --- records -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_records_give_the_score(tmp_path: Path, task: str) -> None:
    """Every metric of every task: what is compared is what its summary says."""
    run = read(make(tmp_path, task, 0.6), tmp_path)
    found = ratios(run)
    summary = summarize(TASKS[task], completed(task, 0.6, 24))
    assert list(found) == list(summary) == list(run.result.metrics)
    for name, ratio in found.items():
        assert value(ratio) == pytest.approx(summary[name].value, abs=1e-9)
        assert len(ratio.records) == run.result.n == 24
    score = found[run.result.headline]
    assert 0 < value(score) < 1
    assert binary(score) == (task not in ("NER", "summarization"))


class Words:
    """A tenth task, which the report has never heard of: two samples a record, the share of words that are "yes"."""

    name, file, max_new_tokens, choices = "Words", "words.txt", 5, ()

    def samples(self, data: Path) -> Iterator[Sample]:
        for i in range(16):
            yield Sample(f"{i // 2}/{i % 2}", f"question {i}", i)

    def score(self, sample: Sample, completion: Completion) -> Score:
        words = completion.text.split()
        parts = {"yes": float(words.count("yes")), "words": float(len(words))}
        return Score(float(words[:1] == ["yes"]) if words else None, " ".join(words[:1]), parts)

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        yes, said = ([score.parts[name] for _, _, score in scored] for name in ("yes", "words"))
        return {"share": mean(scored, yes, said), "first": mean(scored, [score.value or 0 for *_, score in scored])}


def words_run(root: Path, texts: Sequence[str], edited: Edited | None = None) -> Path:
    task: Task = Words()
    said = zip(task.samples(root), map(Completion, texts), strict=True)
    scored = [(sample, completion, task.score(sample, completion)) for sample, completion in said]
    settings = json.loads(make(root / "like", "NLI", 0.5, edited).read_text())["settings"]
    shutil.rmtree(root / "like")
    result = result_of(task, scored, {**settings, "task": "Words"}, {}, {})
    result = replace(result, edited=edit_parts(edited) if edited else None)
    path = stem(root, "Words", edited and edited.plan())
    write(path, result, scored)
    return path.with_name(f"{path.name}.json")


def test_a_tenth_task_is_paired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words_run(tmp_path, ["yes yes no"] * 8 + ["yes"] * 8)
    file = words_run(tmp_path, ["no no", "yes no"] * 8, Edited(5))
    monkeypatch.setattr(samples, "_tasks", lambda: {"Words": Words()})
    run = read(file, tmp_path)
    share = ratios(run)["share"]
    assert (share.records, share.top.tolist(), share.bottom.tolist()) == (tuple("01234567"), [1.0] * 8, [4.0] * 8)
    (point,) = family(study(tmp_path).panels, ROME, HEADLINE)
    assert (point.metric, point.measure.value) == ("share", 0.25)
    assert point.difference and point.difference.test == "t"
    assert point.difference.before == pytest.approx(24 / 32)
    assert point.difference.measure.value == pytest.approx(-0.5) and point.difference.p < 0.001


def test_a_task_whose_plug_in_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean score and the parts are compared where they are metrics; a headline that is no such mean is not."""
    monkeypatch.setattr(samples, "_tasks", dict)
    assert set(ratios(read(make(tmp_path, "NLI", 0.5), tmp_path))) == {"accuracy", "choice_accuracy", "as_released"}
    words_run(tmp_path, ["yes yes no"] * 16)
    assert ratios(read(words_run(tmp_path, ["no no", "yes no"] * 8, Edited(5)), tmp_path)) == {}
    tenth = next(panel for panel in study(tmp_path).panels if panel.task == "Words")
    (point,) = family([tenth], ROME, HEADLINE)
    assert point.difference is None


@pytest.mark.parametrize("task", ["NLI", "NER"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda lines: lines[:-4],  # cut off
        lambda lines: [
            line.replace('"score": 1.0', '"score": 0.0').replace('"completion": "', '"completion": "zz')
            for line in lines
        ],
        lambda lines: ["{}"],
        lambda lines: [],
        lambda lines: [*lines[:-1], lines[-1][:20]],
    ],
)
def test_samples_of_another_result(tmp_path: Path, task: str, harm: Callable[[list[str]], list[str]]) -> None:
    file = make(tmp_path, task, 0.7)
    samples = file.with_suffix(".jsonl")
    lines = samples.read_text(encoding="utf-8").splitlines()
    samples.write_text("".join(f"{line}\n" for line in harm(lines)), encoding="utf-8")
    with pytest.raises(UserError) as error:
        ratios(read(file, tmp_path))
    assert str(error.value).startswith(f"{samples}: ") and "\n" not in str(error.value)


# --- sorting -------------------------------------------------------------------------------------------------------


def test_only_like_is_compared_with_like(tmp_path: Path) -> None:
    """Another model, dtype, kind of data or limit is another study; another file of the same kind another panel."""
    make(tmp_path, "NLI", 0.5)
    make(tmp_path, "NLI", 0.3, Edited(5))
    others: list[dict[str, Any]] = [
        {"model": {**MODEL, "sha256": "00" * 32}},
        {"model": {**MODEL, "dtype": "bfloat16"}},
        {"data": {"path": "x", "kind": "official", "sha256": f"{'NLI':f<64}"}},
        {"limit": None},
    ]
    for i, other in enumerate(others):
        make(tmp_path / str(i), "NLI", 0.1, Edited(5), **other)
    make(tmp_path / "file", "NLI", 0.1, Edited(5), data={"path": "x", "kind": "sample", "sha256": "11" * 32})
    found = studies(read_all(tmp_path)[0])
    assert len(found) == 5
    (ours,) = (
        s
        for s in found
        if s.model.sha256 == MODEL["sha256"] and (s.kind, s.limit, s.model.dtype) == ("sample", 24, "float32")
    )
    assert {panel.title for panel in ours.panels} == {f"NLI ({'NLIfff'})", "NLI (111111)"}
    points = family(ours.panels, ROME, HEADLINE)
    assert [(len(point.runs), point.difference is not None) for point in points] == [(1, False), (1, True)]
    assert all(point.difference is None for s in found if s is not ours for point in family(s.panels, ROME, HEADLINE))


def test_settings_are_curves(tmp_path: Path) -> None:
    for i, edited in enumerate(
        (
            Edited(5),
            Edited(5, rule=("rect", 0.4)),
            Edited(5, rule=("rect", 0.2)),
            Edited(5, lr=0.1),
            Edited(5, "MEMIT", "Batch-Sequential", batch_size=5),
            Edited(5, "MEMIT", "Batch-Single"),
        )
    ):
        make(tmp_path / str(i), "NLI", 0.4, edited)
    found = study(tmp_path)
    assert found.groups == [("MEMIT", "Batch-Sequential", 5), ("MEMIT", "Batch-Single", None), ROME]
    assert [(s.regularizer, s.keep) for s in found.settings if s.group == ROME] == [
        ("none", None),
        ("none", None),
        ("rect", 0.4),
        ("rect", 0.2),
    ]


def test_draws_ranges_and_seeds_are_repeats_of_a_point(tmp_path: Path) -> None:
    make(tmp_path, "NLI", 0.8)
    for draw, skill in ((0, 0.5), (1, 0.3)):
        make(tmp_path, "NLI", skill, Edited(5, draw=draw))
    make(tmp_path, "NLI", 0.4, Edited(5, begin=300))
    make(tmp_path / "seed", "NLI", 0.6, Edited(5), seed=1)
    make(tmp_path, "NLI", 0.2, Edited(6))
    first, second = family(study(tmp_path).panels, ROME, HEADLINE)
    assert (first.edits, len(first.runs), second.edits, len(second.runs)) == (5, 4, 6, 1)
    values = [run.headline.value for run in first.runs]
    assert first.measure.value == pytest.approx(sum(values) / 4)
    assert first.measure.low < min(values) + 0.2 and first.measure.high > max(values) - 0.2
    assert first.difference and first.difference.test == "bootstrap"
    assert second.difference and second.difference.test == "McNemar"
    assert second.measure == second.runs[0].headline  # a single run keeps its interval


def test_an_older_result_lacks_some_keys(tmp_path: Path) -> None:
    make(tmp_path, "NLI", 0.8)
    file = make(tmp_path, "NLI", 0.4, Edited(5))

    def older(content: dict[str, Any]) -> None:
        for key in ("change", "degenerate", "refused"):
            del content[key]
        del content["settings"]["edit"]["draw"]

    change(file, older)
    found = study(tmp_path)
    (point,) = family(found.panels, ROME, HEADLINE)
    assert point.difference and json.loads(point.runs[0].repeat)[0] is None
    assert edits.growth(point.runs[0]) is None
    assert edits.moved(point.runs) is None


def test_the_unedited_result_is_the_nearest(tmp_path: Path) -> None:
    """Two roots with an unedited result each, of different seeds."""
    for name, skill, seed in (("a", 0.9, 0), ("b", 0.6, 1)):
        make(tmp_path / name, "NLI", skill, seed=seed)
        make(tmp_path / name, "NLI", 0.3, Edited(5, draw=seed), seed=seed)
    found = study(tmp_path)
    (panel,) = found.panels
    for result in panel.runs[found.settings[0]][5]:
        baseline = panel.baseline([result])
        assert baseline and baseline.place[0] == result.place[0]


def test_other_samples_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "NLI", 0.8, n=20, limit=24)
    file = make(tmp_path, "NLI", 0.4, Edited(5))
    with pytest.raises(UserError, match="its samples are not those of") as error:
        family(study(tmp_path).panels, ROME, HEADLINE)
    assert str(error.value).startswith(str(file))


def test_p_values_are_corrected_within_a_figure(tmp_path: Path) -> None:
    for task, skill in (("NLI", 0.8), ("dialogue", 0.8)):
        make(tmp_path, task, skill)
        for count, left in ((1, 0.7), (5, 0.2)):
            make(tmp_path, task, left, Edited(count))
    points = family(study(tmp_path).panels, ROME, HEADLINE)
    raw = [point.difference.p for point in points if point.difference]
    assert len(raw) == 4
    smallest = min(points, key=lambda point: point.difference.p if point.difference else 1)
    assert smallest.p_holm == pytest.approx(4 * min(raw))
    assert smallest.fall and smallest.edits == 5
    assert not any(point.significant for point in points if point.edits == 1)


def test_a_regulariser_is_compared_with_the_same_edits_without_it(tmp_path: Path) -> None:
    """Draw by draw, and not where there is no such run."""
    rect = ("rect", 0.4)
    for draw, plain, kept in ((0, 0.2, 0.6), (1, 0.3, 0.5)):
        make(tmp_path, "NLI", plain, Edited(5, draw=draw))
        make(tmp_path, "NLI", kept, Edited(5, draw=draw, rule=rect))
    make(tmp_path, "NLI", 0.1, Edited(5, draw=2, rule=rect))
    make(tmp_path, "NLI", 0.9, Edited(6, draw=0, rule=rect))
    make(tmp_path, "NLI", 0.2, Edited(7, draw=0))
    make(tmp_path, "NLI", 0.7, Edited(7, draw=0, rule=rect))
    five, seven = regularised(study(tmp_path).panels, ROME, HEADLINE)
    assert (five.edits, seven.edits) == (5, 7) and {five.setting, seven.setting} == {five.setting}
    assert five.setting.regularizer == "rect" and [json.loads(run.repeat)[0] for run in five.runs] == [0, 1]
    assert five.difference and five.difference.test == "bootstrap"
    plain = [
        run for runs in study(tmp_path).panels[0].runs.values() for run in runs.get(5, []) if run.edit != five.setting
    ]
    assert five.difference.before == pytest.approx(sum(run.headline.value for run in plain) / 2)
    assert five.difference.measure.value == pytest.approx(five.measure.value - five.difference.before)
    assert five.difference.measure.value > 0.2
    assert seven.difference and seven.difference.test == "McNemar" and seven.difference.before < seven.measure.value
    raw = [five.difference.p, seven.difference.p]
    assert min(five.p_holm or 1, seven.p_holm or 1) == pytest.approx(2 * min(raw))


def test_which_metric_is_the_released_one(tmp_path: Path) -> None:
    wanted = {"NLI": "as_released", "reasoning": "as_released", "ClosedDomainQA": "as_released_before_edit"}
    for task, name in wanted.items():
        assert metric_of(read(make(tmp_path, task, 0.5), tmp_path), RELEASED) == name
    edited = read(make(tmp_path, "ClosedDomainQA", 0.5, Edited(1)), tmp_path)
    assert metric_of(edited, RELEASED) == "as_released_after_edit"
    assert metric_of(read(make(tmp_path, "NER", 0.5), tmp_path), CHOICE) is None


def test_only_what_is_scored_as_released_is_corrected_for_as_such(tmp_path: Path) -> None:
    """A task without a released scorer, of yours or of an older result, is not tested once more by its headline."""
    for task in ("NLI", "SentimentAnalysis"):
        for skill, edited in ((0.9, None), (0.1, Edited(5))):
            file = make(tmp_path, task, skill, edited)
            if task == "NLI":
                change(file, lambda content: content["metrics"].pop("as_released"))
    found = study(tmp_path)
    assert len(family(found.panels, ROME, HEADLINE)) == 2
    (point,) = family(found.panels, ROME, RELEASED)
    assert point.panel.task == "SentimentAnalysis" and point.difference
    assert point.p_holm == point.difference.p < 0.05
    older = read(tmp_path / "test-NLI/result-NLI-before-edit.json", tmp_path)
    assert metric_of(older, RELEASED) is None


# --- edits, and both -----------------------------------------------------------------------------------------------


def test_growth_and_updates(tmp_path: Path) -> None:
    file = make(tmp_path, "NLI", 0.5, Edited(4, "MEMIT", "Batch-Sequential", batch_size=3))

    def given(content: dict[str, Any]) -> None:
        content["change"] = {"a": {"norm": 3.0, "weight": 30.0}, "b": {"norm": 4.0, "weight": 40.0}}
        content["updates"][1]["norms"] = {"a": 3.0, "b": 4.0}

    change(file, given)
    result = read(file, tmp_path)
    assert edits.growth(result) == pytest.approx(5 / 50)
    assert edits.updates(result) == [(3, 9.0), (4, 5.0)]


def test_a_change_that_is_not_finite_is_no_number(tmp_path: Path) -> None:
    file = make(tmp_path, "NLI", 0.5, Edited(4))
    change(file, lambda content: content["change"][WEIGHT].update(norm=math.inf))
    assert edits.moved([read(file, tmp_path)]) is None


def test_quality_of_one_run_is_its_own_and_of_several_their_mean(tmp_path: Path) -> None:
    runs = [
        read(make(tmp_path, "NLI", 0.5, Edited(9, draw=i, hold=hold)), tmp_path) for i, hold in enumerate((1.0, 0.5))
    ]
    stored = [record.quality["after"] for run in runs if (record := run.result.edited)]
    one = edits.quality((runs[1],), "after", "reliability")
    assert one == stored[1]["reliability"]
    for name in edits.NAMES:
        both = edits.quality(tuple(runs), "after", name)
        values = [part[name].value for part in stored]
        assert both and both.value == pytest.approx(sum(values) / 2)
        assert both.low <= min(values) and both.high >= max(values)
        for run, mean_of_one in zip(runs, values, strict=True):
            assert edits._per_edit(run, "after", name).mean() == pytest.approx(mean_of_one)


def trade(success: float, ability: float) -> tradeoff.Trade:
    setting = Edited(1)
    return tradeoff.Trade(setting, 1, Measure(success, 0, 1), Measure(ability, 0, 1))  # type: ignore[arg-type]


def test_frontier() -> None:
    points = [trade(*p) for p in ((0.9, 0.2), (0.5, 0.5), (0.5, 0.4), (0.1, 0.9), (0.0, 0.9), (0.4, 0.4), (0.9, 0.2))]
    best = [(p.success.value, p.ability.value) for p in tradeoff.frontier(points)]
    assert best == [(0.1, 0.9), (0.5, 0.5), (0.9, 0.2), (0.9, 0.2)]  # equals do not beat each other


def test_relative_ability(tmp_path: Path) -> None:
    """The mean of score / unedited score over the tasks that can lose something."""
    for task, before, after in (("NLI", 0.8, 0.4), ("dialogue", 0.9, 0.6), ("reasoning", 0.0, 0.0)):
        make(tmp_path, task, before)
        make(tmp_path, task, after, Edited(5))
    make(tmp_path, "NLI", 0.1, Edited(7))  # not measured on dialogue
    found = study(tmp_path)
    assert [panel.task for panel in tradeoff.usable(found)] == ["NLI", "dialogue"]
    (point,), lacking = tradeoff.trades(found)
    shares = []
    for panel in found.panels[1:]:
        before, after = panel.unedited[0], panel.runs[point.setting][5][0]
        shares.append(after.headline.value / before.headline.value)
    assert point.ability.value == pytest.approx(sum(shares) / 2)
    assert point.ability.low < point.ability.value < point.ability.high < 1
    record = found.runs(point.setting, 5)[0].result.edited
    assert record and point.success == record.quality["after"]["reliability"]
    assert (point.edits, lacking) == (5, 1)


# --- the table -----------------------------------------------------------------------------------------------------


def test_csv(tmp_path: Path) -> None:
    before = make(tmp_path, "ClosedDomainQA", 0.9)
    after = make(tmp_path, "ClosedDomainQA", 0.4, Edited(5, rule=("rect", 0.4), draw=2))
    rows = list(csv.DictReader(io.StringIO(csv_text([study(tmp_path)]))))
    contents = {file: json.loads(file.read_text()) for file in (before, after)}
    quality = {
        f"{stage} {name}": part["value"]
        for stage, parts in contents[after]["quality"].items()
        for name, part in parts.items()
    }
    assert {row["metric"]: float(row["value"]) for row in rows if not row["task"]} == quality
    assert len(rows) == sum(len(content["metrics"]) for content in contents.values()) + len(quality)
    first, row = (next(r for r in rows if r["edits"] == n and r["metric"] == "exact_match") for n in ("0", "5"))
    assert (first["difference"], first["method"], first["published"]) == ("", "", "")
    known = {"model": "gpt2-xl", "data": "sample", "limit": "24", "mode": "Instance-Sequential", "method": "ROME"}
    known |= {"regularizer": "rect", "keep": "0.4", "batch_size": "", "draw": "2", "task": "ClosedDomainQA", "n": "24"}
    assert {key: row[key] for key in known} == known
    assert tmp_path / row["path"] == after
    assert float(row["value"]) == contents[after]["metrics"]["exact_match"]["value"]
    assert float(row["difference"]) == pytest.approx(float(row["value"]) - float(first["value"]))
    assert float(row["difference_low"]) <= float(row["difference"]) <= float(row["difference_high"]) < 0
    scores = [[json.loads(line)["score"] or 0 for line in f.with_suffix(".jsonl").open()] for f in (before, after)]
    lost = sum(b > a for b, a in zip(*scores, strict=True))
    assert lost > 5 and float(row["p"]) == pytest.approx(mcnemar(lost, 0))
    released = next(r for r in rows if r["metric"] == "as_released_before_edit" and r["edits"] == "0")
    assert released["published"] == "0.519"  # docs/published.yaml, gpt2-xl before any edit
