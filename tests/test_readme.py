"""The README is true: its commands parse, its examples run."""

import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT, tiny

from core.metrics import summarize
from core.registry import discover
from core.types import Completion, Edit
from experiment import cli

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0].strip() for line in re.findall(r"^    (python .*)$", README, re.MULTILINE)]


def example(name: str) -> ModuleType:
    """The README's Python block that defines `name`, as a module."""
    block = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if f"{name} = " in b)
    module = ModuleType(f"readme_{name}")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(block, "README.md", "exec"), module.__dict__)
    return module


def test_the_commands_are_there() -> None:
    scripts = {"test-task.py", "test-task-after.py", "train_MEND.py", "sweep.py", "report.py"}
    assert {shlex.split(command)[1] for command in COMMANDS} == scripts


@pytest.mark.parametrize("command", [c for c in COMMANDS if "test-task" in c])
def test_commands_parse(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the point where the model would be loaded."""
    argv = shlex.split(command)[1:]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.chdir(ROOT)

    class Reached(Exception):
        pass

    def stop(*args: object) -> None:
        raise Reached

    monkeypatch.setattr("experiment.run.find_model", stop)
    tasks, editors = discover("tasks", "TASK"), discover("editors", "EDITOR")
    plugins = cli.Plugins(tasks, editors, ("rect",), lambda name, given: None)
    with pytest.raises(Reached):
        cli.test_task(tasks) if argv[0] == "test-task.py" else cli.test_task_after(plugins)


def test_every_flag_is_in_the_readme(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["test-task-after.py", "--help"])
    with pytest.raises(SystemExit):
        cli.test_task_after(cli.Plugins({}, {}, (), lambda name, given: None))
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert flags and {flag for flag in flags if f"`{flag}" not in README} == set()


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the project, and to a heading of it if they name one."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        there = (page.parent / target).resolve() if target else page
        assert there.exists() and there.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, anchor


def test_the_editor_example_edits() -> None:
    lm = tiny("gpt2")
    editor = example("EDITOR").EDITOR
    edit = Edit("London is in", "London", "Italy", "England")
    (name, delta), *_ = editor(lm, editor.hparams()).deltas([edit])[0].items()
    assert delta.shape == lm.model.get_parameter(name).shape and delta.any()


def test_the_task_example_scores(tmp_path: Path) -> None:
    task = example("TASK").TASK
    data = tmp_path / task.file
    data.write_text("message\tlabel\nbuy now\tyes\nsee you at six\tno\n", encoding="utf-8")
    samples = list(task.samples(data))
    scored = [(s, c, task.score(s, c)) for s in samples for c in [Completion(" yes", "yes")]]
    assert summarize(task, scored)["accuracy"].value == 0.5
