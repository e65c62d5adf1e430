"""What is imported when: help texts without torch, plug-ins' names without plug-ins. And who prints."""

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from core.registry import discover, names, rows, stated
from editors.regularizers import REGULARIZERS

SLOW = {"torch", "transformers", "numpy", "datasets", "huggingface_hub", "matplotlib"}
LIGHT = [
    *("prepare.py", "prepare.py model", "prepare.py stats", "prepare.py suggest-hparams", "prepare.py doctor"),
    *("test-task.py", "test-task-after.py", "sweep.py", "report.py"),
]
PLUGINS = [("editors", "EDITOR"), ("tasks", "TASK"), ("edit_sets", "EDIT_SET")]
PRINTING = {"core/script.py", "inputs/cli.py", "analysis/cli.py", "experiment/cli.py"}
"""Beside the scripts: what they are made of."""


def modules(code: str) -> set[str]:
    """What is imported, by top-level name, after this code has run in an interpreter of its own."""
    code += "\nimport sys\nprint(*{name.split('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", LIGHT)
def test_help_loads_nothing_slow(words: str) -> None:
    script, *more = words.split()
    code = (
        f"import runpy, sys, contextlib\nsys.argv = [{script!r}, *{more!r}, '--help']\n"
        f"with contextlib.suppress(SystemExit): runpy.run_path({script!r}, run_name='__main__')"
    )
    assert not modules(code) & SLOW


def test_help_takes_no_second() -> None:
    """Of processor time: how long that takes depends on what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "prepare.py", "--help"], cwd=ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize(
    "module", ["core.types", "core.hparams", "core.registry", "core.folders", "core.disk.whole", "edit_sets.zsre"]
)
def test_what_help_texts_stand_on_loads_no_torch(module: str) -> None:
    assert not modules(f"import {module}") & SLOW


@pytest.mark.parametrize(
    "file", [file for file in (*ROOT.glob("*.py"), ROOT / "benchmarks/__init__.py") if file.name != "report.py"]
)
def test_how_threads_wait_is_said_before_torch_is_loaded(file: Path) -> None:
    """The package `core` says it: a script imports it first, the standard library apart. The report has no torch."""
    imports = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports]
    roots = [name.partition(".")[0] for name in found]
    assert next(root for root in roots if root not in sys.stdlib_module_names) == "core"


@pytest.mark.parametrize(("package", "attribute"), PLUGINS)
def test_names_are_those_of_the_plug_ins(package: str, attribute: str) -> None:
    assert names(package, attribute) == list(discover(package, attribute))
    code = f"from core.registry import names; import {package}; names({package!r}, {attribute!r})"
    assert "torch" not in modules(code)


def test_what_plug_ins_state_is_what_they_are() -> None:
    """Modes of methods, files of tasks, regularisers: a command line is checked with them."""
    modes, files = stated("editors", "EDITOR", "modes"), stated("tasks", "TASK", "file")
    assert {name: set(words) for name, words in modes.items()} == {
        name: editor.modes for name, editor in discover("editors", "EDITOR").items()
    }
    assert files == {name: (task.file,) for name, task in discover("tasks", "TASK").items()}
    assert rows("editors.regularizers", "REGULARIZERS") == list(REGULARIZERS)
    code = "from core.registry import stated; import editors; stated('editors', 'EDITOR', 'modes')"
    assert not modules(code) & SLOW
    code = "from core.registry import rows; rows('editors.regularizers', 'REGULARIZERS')"
    assert not modules(code) & SLOW


def test_rows_by_import_where_the_source_does_not_say_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_table.py").write_text("class A:\n    name = 'a' + 'b'\nTABLE = {kind.name: kind for kind in (A,)}")
    monkeypatch.syspath_prepend(tmp_path)
    assert rows("a_table", "TABLE") == ["ab"]


def test_names_by_import_where_the_source_does_not_say_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "named_plugins"
    package.mkdir()
    for file, text in {
        "__init__": "",
        "plain": "class A:\n    name: str = 'Plain'\nTHING: A = A()\nraise ImportError('not to be imported')",
        "inherited": "class A:\n    name = 'inherited'\nclass B(A): ...\nTHING = B",
        "computed": "class A:\n    name = 'com' + 'puted'\nTHING = A()",
        "borrowed": "from named_plugins._helper import THING",
        "given": "class A:\n    def __init__(self, name): self.name = name\nTHING = A('given')",
        "none": "x = 1\nraise ImportError('nor this one')",
        "_helper": "class A:\n    name = 'borrowed'\nTHING = A",
    }.items():
        (package / f"{file}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert names("named_plugins", "THING") == ["borrowed", "computed", "given", "inherited", "Plain"]


@pytest.mark.parametrize("package", ["core", "editors", "tasks", "edit_sets", "inputs", "experiment", "analysis"])
def test_libraries_log_and_do_not_print(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.relative_to(ROOT).as_posix() not in PRINTING:
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            calls = [node.func for node in nodes if isinstance(node, ast.Call)]
            lines = [name.lineno for name in calls if isinstance(name, ast.Name) and name.id == "print"]
            assert not lines, f"{path}:{lines}"
