"""The layers of the project, read off the source: who may import whom, and that no module is without a test."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("core", "editors", "tasks", "edit_sets", "inputs", "experiment", "analysis")
MODULES = {package: sorted((ROOT / package).rglob("*.py")) for package in PACKAGES}
FILES = [path for files in MODULES.values() for path in files]
SCRIPTS = sorted(ROOT.glob("*.py"))
BESIDE = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("data/**/*.py")])


def name_of(path: Path) -> str:
    """The module's full name: core/lm/model.py is core.lm.model, a package's __init__.py the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Full names of all modules a file imports, wherever in it: `from a import b` counts as a and as a.b.

    What a type checker alone sees does not count.
    """
    tree, names = ast.parse(path.read_text(encoding="utf-8")), set()
    unseen = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
    }
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


ALLOWED = {
    "core": {"core"},
    "editors": {"core", "editors"},
    "tasks": {"core", "tasks"},
    "edit_sets": {"core", "edit_sets"},
    "inputs": {"core", "editors", "tasks", "edit_sets", "inputs"},
    "experiment": {"core", "editors", "tasks", "edit_sets", "inputs", "experiment"},
    "analysis": {"core", "analysis"},
}
"""Arrows point down: which of our packages each may import."""


@pytest.mark.parametrize("package", PACKAGES)
def test_layers(package: str) -> None:
    assert MODULES[package]
    for path in MODULES[package]:
        assert tops(path) & {*PACKAGES, "tests", "benchmarks"} <= ALLOWED[package], path


def test_no_circle() -> None:
    """Modules can be put in an order in which each imports only those before it."""
    modules = {name_of(path): path for path in FILES}
    todo = {name: imported(path) & modules.keys() - {name} for name, path in modules.items()}
    while todo:
        free = [name for name, needs in todo.items() if not needs & todo.keys()]
        assert free, f"a circle among {sorted(todo)}"
        for name in free:
            del todo[name]


def test_rooms_are_small() -> None:
    """core is a quarter of the code at most, no folder has more than 15 flat files."""
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in (*FILES, *SCRIPTS, *BESIDE)}
    core, whole = sum(lines[path] for path in MODULES["core"]), sum(lines.values())
    print(f"core: {core} of {whole} lines, {core / whole:.0%}")
    assert core <= 0.25 * whole
    for folder in {path.parent for path in FILES}:
        flat = len(list(folder.glob("*.py")))
        print(f"{folder.relative_to(ROOT)}: {flat} files")
        assert flat <= 15, folder


def test_a_plug_in_imports_no_other_plug_in() -> None:
    """Editors share helpers (leading underscore), tasks too; none of them another plug-in. MEND is a package."""
    for package in ("editors", "tasks", "edit_sets"):
        inside = [path.relative_to(ROOT / package).parts[0].removesuffix(".py") for path in MODULES[package]]
        plugins = {name for name in inside if name[0] != "_" and name != "regularizers"}
        for path, own in zip(MODULES[package], inside, strict=True):
            others = {f"{package}.{name}" for name in plugins - {own}}
            assert not any(name == other or name.startswith(f"{other}.") for name in imported(path) for other in others)


def test_types_and_errors_import_nothing_of_ours() -> None:
    """At run time; what only mypy reads may be named."""
    code = "import sys, core.types, core.errors; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    modules = set(out.split())
    assert {name for name in modules if name.split(".")[0] in PACKAGES} == {"core", "core.types", "core.errors"}
    assert "torch" not in modules


def test_tasks_import_no_model() -> None:
    """A task is data: of core it sees what knows no torch model either."""
    for path in MODULES["tasks"]:
        ours = {name for name in imported(path) if name.startswith("core.")}
        assert all(name.split(".")[1] in {"readers", "errors", "messages", "metrics", "types"} for name in ours), path


def test_every_module_has_a_test() -> None:
    """Plug-ins are tried through the registry, helpers through plug-ins; the rest is imported by name in some test."""
    tested = set().union(*(imported(path) for path in (ROOT / "tests").glob("test_*.py")))
    for package in ("core", "editors", "tasks", "edit_sets", "inputs", "experiment"):
        for path in MODULES[package]:
            if path.stem != "__init__" and not (package == "tasks" and path.stem[0] == "_"):
                assert name_of(path) in tested, f"no test imports {name_of(path)}"


def test_naive_twins_share_no_shortcut() -> None:
    for path in (ROOT / "tests/reference").glob("*.py"):
        assert not imported(path) & {
            "core.lm.forward",
            "core.lm.begun",
            "core.lm.batches",
            "core.lm.likelihood",
            "editors._value.prompts",
            "editors._value.search",
        }, path


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_state_and_no_eval(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Global), f"{path}:{node.lineno}: global"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"eval", "exec"}, f"{path}:{node.lineno}: {node.func.id}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: a bare except"


def test_only_one_place_generates() -> None:
    for package in PACKAGES:
        for path in MODULES[package]:
            if path != ROOT / "core/lm/generate.py":
                assert ".generate(" not in path.read_text(encoding="utf-8"), path


def test_nothing_but_the_standard_library_and_the_requirements_is_imported() -> None:
    listed = re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    known = {name.lower().replace("-", "_") for name in listed} - {"pyyaml"} | {"yaml"}
    known |= {"packaging", "tokenizers"}  # transformers cannot do without them
    known |= {"ray", "tensorboard", "lm_eval"}  # imported where they are asked for
    for path in FILES:
        assert tops(path) <= known | set(PACKAGES) | sys.stdlib_module_names, path


def loaded_by(code: str) -> list[str]:
    """The modules a fresh interpreter has loaded after `code`, in that order."""
    code = f"import sys\n{code}\nprint('loaded:', *sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.rpartition("loaded:")[2].split()


@pytest.mark.parametrize("script", [path.name for path in SCRIPTS])
def test_core_comes_before_torch(script: str) -> None:
    """Else torch would not see how its threads are to wait."""
    modules = loaded_by(f"import runpy; runpy.run_path({script!r})")
    assert "torch" not in modules or modules.index("core") < modules.index("torch")


HEAVY = {"torch", "transformers", "matplotlib", "scipy", "jinja2", "numpy"}
HELP = """import runpy
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit:
    pass"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("\n".join(f"import {name_of(path)}" for path in MODULES["tasks"]), HEAVY - {"numpy"}),
        ("\n".join(f"import {name_of(path)}" for path in MODULES["analysis"]), {"torch", "transformers"}),
        *((HELP.format(script=path.name), HEAVY) for path in SCRIPTS),
    ],
    ids=["tasks", "analysis", *(path.name for path in SCRIPTS)],
)
def test_what_is_light_stays_light(code: str, absent: set[str]) -> None:
    """What all modules of a room together have not loaded, none of them has."""
    assert not absent & {*loaded_by(code)}


def test_how_threads_wait_is_the_users_to_say() -> None:
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = f"import os, core; print(*(os.environ.get(name) for name in {names}))"
    for given, wanted in (
        ({}, "PASSIVE 10000"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE 7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "PASSIVE None"),
    ):
        environment = {name: value for name, value in os.environ.items() if name not in names} | given
        told = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert told.stdout.strip() == wanted
