"""analysis.collect, .samples, .study, .edits, .tradeoff and .export: what is read, sorted, compared and exported."""

import ast
import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from report_samples import MODEL, TASKS, WEIGHT, Edited, completed, make

from analysis import edits, tradeoff
from analysis.collect import read, results
from analysis.compare import mcnemar
from analysis.export import csv_text
from analysis.samples import ratios
from analysis.study import CHOICE, HEADLINE, RELEASED, Study, family, metric_of, regularised, studies
from core.errors import UserError
from core.types import Measure

ROME = ("ROME", "Instance-Sequential", None)


def change(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    edit(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def study(root: Path) -> Study:
    (found,) = studies(results(root)[0])
    return found


# --- reading -------------------------------------------------------------------------------------------------------


def test_a_result(tmp_path: Path) -> None:
    file = make(tmp_path, "NLI", 0.5, Edited(5, rule=("rect", 0.4), draw=3))
    result = read(file, tmp_path)
    assert result.place == "draw-3/test-NLI/result-NLI-Instance-Sequential-ROME-RECT40-5.json"
    assert (result.task, result.headline, result.edits, result.draw, result.n) == ("NLI", "accuracy", 5, 3, 24)
    assert (result.model.name, result.data) == ("gpt2-xl", ("sample", f"{'NLI':f<64}", 24))
    assert result.edit and (result.edit.regularizer, result.edit.keep, result.edit.group) == ("rect", 0.4, ROME)


def test_hidden_and_unfinished_results_are_not_read(tmp_path: Path) -> None:
    file = make(tmp_path, "NLI", 0.5)
    for name in (".scratch", "unfinished"):
        shutil.copytree(file.parent, tmp_path / "deep" / name / "test-NLI")
        next((tmp_path / "deep" / name).rglob("*.json")).write_text("half")
    found, copies = results(tmp_path)
    assert ([result.path for result in found], copies) == ([file], 0)


def test_copies_are_left_out_wherever_their_data_lay(tmp_path: Path) -> None:
    file = make(tmp_path, "NLI", 0.5)
    shutil.copytree(file.parent, tmp_path / "again" / "test-NLI")
    change(tmp_path / "again/test-NLI" / file.name, lambda c: c["settings"]["data"].update(path="elsewhere.tsv"))
    found, copies = results(tmp_path)
    assert (len(found), copies) == (1, 1)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: file.write_text("{"), "Expecting property name"),
        (lambda file: file.write_text("[1]"), "list indices"),
        (lambda file: file.write_bytes(b"\xff"), "can't decode"),
        (lambda file: change(file, lambda c: c.pop("settings")), "it has no 'settings'"),
        (lambda file: change(file, lambda c: c["settings"].pop("limit")), "it has no 'limit'"),
        (lambda file: change(file, lambda c: c.update(headline="f1")), "headline, f1, is none of its metrics"),
        (
            lambda file: change(file, lambda c: c["metrics"]["accuracy"].update(low=math.nan)),
            "accuracy is not a number",
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
        results(tmp_path)
    assert str(error.value).startswith(f"{file}: not a result file of this project")
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_nothing_to_report(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"{folder}: no "):
        results(tmp_path / folder)


# --- records -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_records_give_the_score(tmp_path: Path, task: str) -> None:
    """Of every task, NER's F1 included: what is compared is what its summary says."""
    result = read(make(tmp_path, task, 0.6), tmp_path)
    found = ratios(result)[result.headline]
    summary = TASKS[task].summarize(completed(task, 0.6, 24))
    assert found.value == pytest.approx(summary[result.headline].value, abs=1e-9)
    assert len(found.ids) == result.n == 24
    assert 0 < found.value < 1
    assert found.binary == (task not in ("NER", "summarization"))
    assert (CHOICE in ratios(result)) == bool(TASKS[task].choices)


def test_a_score_that_is_no_ratio_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task with a headline of its own kind: the task confirms it, and there is no difference to report."""
    summarize = TASKS["NLI"].summarize
    monkeypatch.setattr(type(TASKS["NLI"]), "summarize", lambda self, scored: squared(summarize(scored)))
    file = make(tmp_path, "NLI", 0.5)
    assert "accuracy" not in ratios(read(file, tmp_path))


def squared(metrics: dict[str, Measure]) -> dict[str, Measure]:
    return {**metrics, "accuracy": Measure(metrics["accuracy"].value ** 2, 0, 1)}


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
    found = studies(results(tmp_path)[0])
    assert len(found) == 5
    (ours,) = (
        s
        for s in found
        if s.model.sha256 == MODEL["sha256"] and (s.kind, s.limit, s.model.dtype) == ("sample", 24, "float32")
    )
    assert {panel.title for panel in ours.panels} == {f"NLI ({'NLIfff'})", "NLI (111111)"}
    points = family(ours.panels, ROME, HEADLINE)
    assert [(len(point.results), point.difference is not None) for point in points] == [(1, False), (1, True)]
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
    assert (first.edits, len(first.results), second.edits, len(second.results)) == (5, 4, 6, 1)
    values = [result.metrics["accuracy"].value for result in first.results]
    assert first.measure.value == pytest.approx(sum(values) / 4)
    assert first.measure.low < min(values) + 0.2 and first.measure.high > max(values) - 0.2
    assert first.difference and first.difference.test == "bootstrap"
    assert second.difference and second.difference.test == "McNemar"
    assert second.measure == second.results[0].metrics["accuracy"]  # a single run keeps its interval


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
    assert point.difference and point.results[0].draw is None
    assert edits.growth(point.results[0]) is None
    assert edits.moved(point.results) is None


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
    assert five.setting.regularizer == "rect" and [run.draw for run in five.results] == [0, 1]
    assert five.difference and five.difference.test == "bootstrap"
    plain = [
        run for runs in study(tmp_path).panels[0].runs.values() for run in runs.get(5, []) if run.edit != five.setting
    ]
    assert five.difference.before == pytest.approx(sum(run.metrics["accuracy"].value for run in plain) / 2)
    assert five.difference.measure.value == pytest.approx(five.measure.value - five.difference.before)
    assert five.difference.measure.value > 0.2
    assert seven.difference and seven.difference.test == "McNemar" and seven.difference.before < seven.measure.value
    raw = [five.difference.p, seven.difference.p]
    assert min(five.p_holm or 1, seven.p_holm or 1) == pytest.approx(2 * min(raw))


def test_which_metric_is_the_released_one(tmp_path: Path) -> None:
    wanted = {"NLI": "accuracy", "reasoning": "as_released", "ClosedDomainQA": "as_released_before_edit"}
    for task, name in wanted.items():
        assert metric_of(read(make(tmp_path, task, 0.5), tmp_path), RELEASED) == name
    edited = read(make(tmp_path, "ClosedDomainQA", 0.5, Edited(1)), tmp_path)
    assert metric_of(edited, RELEASED) == "as_released_after_edit"
    assert metric_of(read(make(tmp_path, "NER", 0.5), tmp_path), CHOICE) is None


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
    stored = [run.content["quality"]["after"] for run in runs]
    one = edits.quality((runs[1],), "after", "reliability")
    assert one == Measure(**stored[1]["reliability"])
    for name in edits.NAMES:
        both = edits.quality(tuple(runs), "after", name)
        values = [part[name]["value"] for part in stored]
        assert both and both.value == pytest.approx(sum(values) / 2)
        assert both.low <= min(values) and both.high >= max(values)
        for run, value in zip(runs, values, strict=True):
            assert edits._per_edit(run, "after", name).mean() == pytest.approx(value)


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
        shares.append(after.metrics[after.headline].value / before.metrics[before.headline].value)
    assert point.ability.value == pytest.approx(sum(shares) / 2)
    assert point.ability.low < point.ability.value < point.ability.high < 1
    assert (
        point.success.value
        == study(tmp_path).runs(point.setting, 5)[0].content["quality"]["after"]["reliability"]["value"]
    )
    assert (point.edits, lacking) == (5, 1)


# --- the table -----------------------------------------------------------------------------------------------------


def test_csv(tmp_path: Path) -> None:
    before = make(tmp_path, "ClosedDomainQA", 0.9)
    after = make(tmp_path, "ClosedDomainQA", 0.4, Edited(5, rule=("rect", 0.4), draw=2))
    rows = list(csv.DictReader(io.StringIO(csv_text([study(tmp_path)]))))
    contents = {file: json.loads(file.read_text()) for file in (before, after)}
    assert len(rows) == sum(len(content["metrics"]) for content in contents.values())
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
    assert lost > 5 and float(row["p"]) == mcnemar(lost, 0)
    released = next(r for r in rows if r["metric"] == "as_released_before_edit" and r["edits"] == "0")
    assert released["published"] == "0.519"  # docs/published.yaml, gpt2-xl before any edit


def test_layers() -> None:
    """Nothing that runs an experiment knows the report."""
    for package in ("core", "editors", "tasks"):
        for path in (ROOT / package).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not any(name.split(".")[0] == "analysis" for name in names), path
