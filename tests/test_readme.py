"""README and docs are true: commands parse, flags are described, links lead somewhere, examples run."""

import argparse
import dataclasses
import re
import runpy
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from conftest import EMBEDDED, ROOT, tiny

from core.errors import UserError
from core.registry import discover
from core.script import PACKAGES
from core.types import Change, Completion, Edit
from editors import regularizers
from inputs.sources import find_edits

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
FLAG = r"--[a-z][a-z-]*"

COMMAND = re.compile(
    r"^(?:    |\$ )?(?:\w+=\S+ )*(python \S.*?)(?: +#.*)?$"  # a line of a block
    r"|`(python [^`]+)`",  # within a sentence
    re.MULTILINE,
)
COMMANDS = sorted({" ".join((a or b).split()) for text in TEXTS.values() for a, b in COMMAND.findall(text)})

DESCRIBED = {
    "test-task.py": "usage.md",
    "test-task-after.py": "usage.md",
    "sweep.py": "sweeps.md",
    "report.py": "results.md",
    "train_MEND.py": "mend.md",
    **{f"prepare.py {name}": "usage.md" for name in ("model", "data", "stats", "suggest-hparams", "doctor")},
}
"""The page in docs/ that has the flags of a script."""


class Parsed(BaseException):
    """No Exception, so that no script takes it for an error of its own."""


def parse(argv: list[str], patch: pytest.MonkeyPatch) -> None:
    """Start a script as `python ARGV` does, and stop it when its arguments are parsed."""
    parse_args = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *args: Any, **more: Any) -> None:
        parse_args(self, *args, **more)
        raise Parsed

    patch.setattr("argparse.ArgumentParser.parse_args", stop)
    with pytest.raises(Parsed):
        start(argv, patch)


def start(argv: list[str], patch: pytest.MonkeyPatch) -> None:
    """What `python ARGV` does, but that errors are raised and signals are left to pytest."""
    patch.setattr("core.script.script", lambda main: main())
    patch.chdir(ROOT)
    if argv[0] == "-m":
        argv = [argv[1].replace(".", "/") + ".py", *argv[2:]]
    patch.setattr(sys, "argv", argv)
    runpy.run_path(str(ROOT / argv[0]), run_name="__main__")


def script_of(command: str) -> str:
    words = command.split()[1:]
    return " ".join(words[:2] if words[0] in ("prepare.py", "-m") else words[:1])


def test_commands_are_found_of_every_script() -> None:
    scripts = {script_of(command) for command in COMMANDS}
    benchmarks = {
        f"-m benchmarks.{name}"
        for name in ("alike", "attention", "gpu", "long", "masks", "memory", "mend_batches", "peers", "pieces")
    }
    assert scripts == {*DESCRIBED, "prepare.py check-data", "-m docs.reproduction"} | benchmarks


TAKE_NONE = ("-m benchmarks.memory", "-m docs.reproduction")


@pytest.mark.parametrize("command", [c for c in COMMANDS if not any(words in c for words in TAKE_NONE)])
def test_commands_parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = shlex.split(command.replace("$head", "HEAD"))[1:]
    parse(argv, monkeypatch)
    for file in (word for word in argv if word.startswith(("configs/", "data/"))):
        assert (ROOT / file).exists()


@pytest.mark.parametrize("command", [c for c in COMMANDS if script_of(c).startswith("test-task")])
def test_commands_are_right_up_to_the_model(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no-such-model"):
        start([*shlex.split(command)[1:], "--model", "no-such-model"], monkeypatch)


@pytest.mark.parametrize("script", DESCRIBED)
def test_every_flag_is_in_the_docs(
    script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        start([*script.split(), "--help"], monkeypatch)
    flags = set(re.findall(FLAG, capsys.readouterr().out)) - {"--help"}
    text = TEXTS[ROOT / "docs" / DESCRIBED[script]]
    assert flags and {flag for flag in flags if not re.search(rf"{flag}\b(?!-)", text)} == set()


def test_every_flag_in_the_docs_exists(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for script in DESCRIBED:
        with pytest.raises(SystemExit):
            start([*script.split(), "--help"], monkeypatch)
    known = set(re.findall(FLAG, capsys.readouterr().out))
    for page, text in TEXTS.items():
        spans = [span for span in re.findall(r"`([^`\n]+)`", text) if span.startswith("--")]
        assert set(re.findall(FLAG, " ".join(spans))) <= known, page.name


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page, text in TEXTS.items():
        assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE)) <= targets, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the project, and to a heading of it if they name one."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", TEXTS[page]):
        file = (page.parent / target).resolve() if target else page
        assert file.exists() and file.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, anchor


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {(ROOT / target).resolve() for target in re.findall(r"\]\(([^)#\s]+)", TEXTS[README])}
    assert set(PAGES) - {README} <= linked


def test_the_readme_says_what_is_installed() -> None:
    """Its tables of methods, modes, tasks and regularisers; the six glue tasks have a page of their own."""
    tables = re.findall(r"(?:^\|.*\n)+", TEXTS[README] + TEXTS[ROOT / "docs/glue.md"], re.MULTILINE)
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for table in tables for line in table.splitlines()]
    modes = next(row for row in rows if row[0] == "Method")
    for name, editor in discover("editors", "EDITOR").items():
        cells = dict(zip(modes, next(row for row in rows if row[0] == name), strict=True))
        assert {mode for mode in modes[1:4] if cells[mode] == "yes"} == editor.modes, name
    for name, task in discover("tasks", "TASK").items():
        _, _, tokens, metric, *_ = next(row for row in rows if row[0] == name)
        assert tokens.split(",")[0] == str(task.max_new_tokens), name
        assert not hasattr(task, "headline") or metric.startswith(task.headline), name
    assert {name for name in regularizers.REGULARIZERS if not any(row[0] == name for row in rows)} == set()


def test_the_five_facts_of_the_docs_are_edits(tmp_path: Path) -> None:
    """As a file for --edits; its table has every key that is read."""
    text = TEXTS[ROOT / "docs/usage.md"]
    (facts,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    (tmp_path / "facts.json").write_text(facts, encoding="utf-8")
    edit_set, source = find_edits(tmp_path / "facts.json", None)
    edits = edit_set.edits(source.path, 0, 5, 1)
    assert len(edits) == 5 and edits[0].rephrase and edits[0].locality
    table = text[text.index("| Key | Needed") : text.index("```json")]
    assert set(re.findall(r"`(\w+)`", table)) >= set(edit_set.keys.values())


def test_every_package_is_installed() -> None:
    """By the patterns in pyproject.toml, which Python 3.10 cannot parse."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (patterns,) = re.findall(r"packages.find.include = \[(.*)\]", text)
    assert sorted(re.findall(r'"(\w+)\*"', patterns)) == sorted(PACKAGES)


def test_the_citation_is_of_this_version() -> None:
    """The keys that the Citation File Format 1.2.0 requires."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"] and citation["authors"]
    (paper,) = citation["references"]
    assert len(paper["authors"]) == 7 and paper["doi"].startswith("10.18653/") and paper["title"].startswith("Model Ed")
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert citation["license"] in (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines()[0]


def block(word: str) -> str:
    """The README's Python block with that word."""
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", TEXTS[README], re.DOTALL) if word in code)
    assert isinstance(code, str)
    return code


def run(word: str, **names: Any) -> ModuleType:
    """The README's Python block with that word, as a module in which these names are there already."""
    module = ModuleType(f"readme_{word}")
    vars(module).update(names)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(block(word), "README.md", "exec"), vars(module))
    return module


def test_the_python_example_is_ten_lines() -> None:
    assert sum(bool(line.strip()) for line in block("experiment").splitlines()) <= 10


@pytest.mark.slow
@pytest.mark.skipif(not (EMBEDDED / "config.json").is_file(), reason="python prepare.py model smollm2-135m makes it")
def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As printed. Nothing else writes to stdout, and at the end the model says what it did without the edits."""
    monkeypatch.chdir(ROOT)
    example = run("experiment")
    out = capsys.readouterr().out
    assert re.fullmatch(r"Measure\(.*\) Measure\(.*\) Measure\(.*\)\n(.*\n)+\[.*\]\n", out)
    assert example.before.n == example.after.n == 20
    assert float(out.split("value=")[1].split(",")[0]) >= 0.75  # reliability, with the edits in
    said = out.splitlines()[-1]
    assert not any(repr(fact.target) in said for fact in example.facts)


def test_the_editor_example_edits() -> None:
    lm = tiny("gpt2")
    editor = run("EDITOR").EDITOR
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    deltas, notes = editor(lm, editor.hparams()).deltas([Edit("London is in", "London", "Italy", "England")])
    ((name, delta),) = deltas.items()
    assert delta.shape == lm.model.get_parameter(name).shape and delta.any()
    assert notes == {"norm": pytest.approx(float(delta.norm()))}
    assert all(torch.equal(weight, before[name]) for name, weight in lm.model.state_dict().items())


def test_the_task_example_scores(tmp_path: Path) -> None:
    task = run("TASK").TASK
    data = tmp_path / task.file
    data.write_text("message\tlabel\nbuy now\tyes\nsee you at six\tno\n", encoding="utf-8")
    samples = list(task.samples(data))
    scored = [
        (sample, answer, task.score(sample, answer)) for sample in samples for answer in [Completion(" yes", "yes")]
    ]
    name, ratio = next(iter(task.ratios(scored).items()))
    assert name == "accuracy" and ratio.top.sum() / ratio.bottom.sum() == 0.5


def test_the_regularizer_example_regularizes() -> None:
    cap = run("Cap", dataclass=dataclasses.dataclass, Rule=regularizers.Rule).Cap
    weight, delta = torch.ones(2, 8), torch.arange(16.0).view(2, 8)  # norms 4 and 35.2
    change = Change("w", weight + 1, delta, weight)
    assert torch.equal(cap(share=10.0)(change, {}, torch.Generator()), delta)
    capped = cap(share=0.5)(change, {}, torch.Generator())
    assert capped.norm() == pytest.approx(2.0) and torch.allclose(capped / capped.norm(), delta / delta.norm())
    assert cap().label == "CAP5" and cap().settings() == {"name": "cap", "share": 0.05}


def test_the_regularizer_example_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    cap = run("Cap", dataclass=dataclasses.dataclass, Rule=regularizers.Rule).Cap
    monkeypatch.setattr(regularizers, "REGULARIZERS", {**regularizers.REGULARIZERS, "cap": cap})
    assert "`--regularizer cap:share=0.1`" in TEXTS[README]
    assert regularizers.make("cap:share=0.1", {}) == cap(share=0.1)


def test_the_edit_set_example_reads(tmp_path: Path) -> None:
    edit_set = run("EDIT_SET").EDIT_SET
    path = tmp_path / "facts.tsv"
    path.write_text(
        "prompt\tsubject\ttarget\told\nParis is in\tParis\tItaly\tFrance\nRome is in\tRome\tSpain\tItaly\n", "utf-8"
    )
    paris = Edit("Paris is in", "Paris", "Italy", "France")
    rome = Edit("Rome is in", "Rome", "Spain", "Italy", index=1)
    assert edit_set.records(path) == [paris, rome] and edit_set.edits(path, 1, 2, 1) == [rome]
