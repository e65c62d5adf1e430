"""The Ray engine on a real Ray cluster of two nodes on this machine: every result once, whatever dies on the way."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sweep
from core.errors import UserError
from core.registry import discover
from editors.regularizers import REGULARIZERS, make
from editors.rome import ROME
from experiment.edit_session import Plugins
from experiment.engines import local, ray_driver, ray_worker
from experiment.engines.local import Outcome
from experiment.engines.ray_worker import Made, Order
from experiment.grid import Cell
from tests.conftest import ROOT
from tests.tiny_settings import ROME_YAML

TASKS = ("NLI", "SentimentAnalysis")
BEFORE = {f"test-{task}/result-{task}-before-edit" for task in TASKS}
STEMS = {
    method: [[f"test-{t}/result-{t}-Instance-Sequential-{method}-{count}" for t in TASKS] for count in (1, 2, 3)]
    for method in ("ROME", "ROME-RECT40")
}
FIRST = {stem for counts in STEMS.values() for stems in counts[:2] for stem in stems}
ALL = BEFORE | {stem for counts in STEMS.values() for stems in counts for stem in stems}

pytestmark = pytest.mark.xdist_group("ray")  # one cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and one more node, one CPU each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path may have 107 characters
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    sooner = {"health_check_period_ms": 500, "health_check_initial_delay_ms": 500}
    started = Cluster()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)  # of Ray and its workers
        try:
            started.add_node(**node, include_dashboard=False, _system_config=sooner)
            started.add_node(**node)
            yield started
        finally:
            started.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def at_third_edit(folder: Path) -> type[ROME]:
    """ROME that notes where it runs, and waits before its third edit until there is a file `go`."""

    class Waiting(ROME):
        def deltas(self, edits: Any) -> Any:
            with (folder / "edited").open("a") as log:
                log.write(f"{os.getpid()} {os.getppid()} {edits[0].index}\n")
            while edits[0].index == 202 and not (folder / "go").exists():
                time.sleep(0.05)
            return super().deltas(edits)

    return Waiting


def dying() -> type[ROME]:
    class Dying(ROME):
        name = "Dying"

        def deltas(self, edits: Any) -> Any:
            os._exit(1)

    return Dying


def wrong(error: Exception) -> type[ROME]:
    class Wrong(ROME):
        name = type(error).__name__

        def deltas(self, edits: Any) -> Any:
            raise error

    return Wrong


class Setting:
    """Cells of the tiny model, plug-ins, and what an engine's driver did with the results."""

    def __init__(self, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "rome.yaml").write_text(ROME_YAML)
        self.folder, self.model, self.patch = folder, model, monkeypatch
        self.written: Counter[str] = Counter()
        self.received: list[str] = []
        self.then: Callable[[], None] = lambda: None
        editors = [
            at_third_edit(folder),
            dying(),
            wrong(ValueError("what is\nwrong")),
            wrong(UserError("no such file")),
        ]
        self.plugins = Plugins(discover("tasks", "TASK"), {e.name: e for e in editors}, REGULARIZERS, make)

    def cells(self, out: str) -> list[Cell]:
        rect = ("--regularizer", "rect", "--keep", "0.4")
        return [self.cell(out, "ROME", "203", 3), self.cell(out, "ROME", "203", 3, *rect), self.cell(out)]

    def cell(self, out: str, method: str = "", end: str = "201", edits: int = 0, *flags: str) -> Cell:
        common = ["--model", self.model, "--data", ROOT / "data/sample", "--limit", 2, "--device", "cpu"]
        words = (",".join(TASKS), *map(str, common), "--results", str(self.folder / out))
        if method:
            plan = ("Instance-Sequential", method, "200", end, "1", "--hparams", str(self.folder / "rome.yaml"))
            words = (words[0], *plan, *words[1:], *(("--checkpoints", "1,2") if edits == 3 else ()), *flags)
        return Cell(words, edits)

    def watch(self) -> None:
        keep, place = ray_driver.keep, ray_driver.results.place

        def kept(job: ray_driver.Job, made: Made) -> None:
            self.received.append(made.stem)
            keep(job, made)
            self.then()

        def placed(path: Path, *contents: str) -> None:
            self.written[f"{path.parent.name}/{path.name}"] += 1
            place(path, *contents)

        self.patch.setattr(ray_driver, "keep", kept)
        self.patch.setattr(ray_driver.results, "place", placed)

    def result(self, out: str, stem: str) -> tuple[dict[str, Any], str]:
        """A result without what may differ."""
        path = self.folder / out / "tiny-gpt2" / stem
        found = json.loads(path.with_name(f"{path.name}.json").read_text())
        for part in ("seconds", "environment"):
            del found[part]
        for update in found.get("updates", []):
            del update["seconds"]
        return found, path.with_name(f"{path.name}.jsonl").read_text()

    def files(self, out: str) -> list[str]:
        folder = self.folder / out / "tiny-gpt2"
        return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())

    def edited(self) -> list[list[int]]:
        """Process, its parent (one per node) and index of every edit so far."""
        return [[int(word) for word in line.split()] for line in (self.folder / "edited").read_text().splitlines()]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[Setting]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield Setting(tmp_path_factory.mktemp("sweep"), tiny_folder, patch)


@pytest.fixture(scope="module")
def swept(cluster: Any, setting: Setting) -> list[Outcome]:
    """A sweep during which a node dies: both sequences of edits are at work, each has delivered two of three counts."""

    def lose_a_node() -> None:
        if set(setting.received) >= FIRST and cluster.worker_nodes:
            while [index for *_, index in setting.edited()].count(202) < 2:
                time.sleep(0.05)
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            deadline, workers = (
                time.monotonic() + 60,
                [process for process, _, index in setting.edited() if index == 202],
            )
            while all(map(running, workers)):  # it outlives its node by a moment, in which it could end its cell
                assert time.monotonic() < deadline
                time.sleep(0.05)
            (setting.folder / "go").touch()

    setting.watch()
    setting.then = lose_a_node
    outcomes = list(ray_driver.run(setting.cells("ray"), setting.plugins, cluster.address))
    assert not cluster.worker_nodes
    return outcomes


def test_every_result_is_made_once_though_a_node_is_lost(setting: Setting, swept: list[Outcome]) -> None:
    assert {(outcome.made, outcome.error) for outcome in swept} == {(6, None), (2, None)}
    assert len(swept) == 3
    assert setting.written == dict.fromkeys(ALL, 1)
    assert sorted(setting.received) == sorted(ALL)  # a cell that starts again does not make what has arrived
    assert setting.files("ray") == sorted(f"{stem}.{ending}" for stem in ALL for ending in ("json", "jsonl"))
    starts = Counter(index for _, _, index in setting.edited())
    assert starts == {200: 3, 201: 3, 202: 3}
    assert len({node for _, node, _ in setting.edited()}) == 2


def test_the_results_are_those_of_a_local_sweep(setting: Setting, swept: list[Outcome]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setting, "written", Counter())
        assert [outcome.made for outcome in local.local(setting.cells("local"), setting.plugins, 1)] == [6, 6, 2]
    assert setting.files("local") == setting.files("ray")
    for stem in ALL:
        assert setting.result("local", stem) == setting.result("ray", stem)


def test_what_is_there_is_not_made_again_and_failures_are_one_line(
    cluster: Any, setting: Setting, swept: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = STEMS["ROME-RECT40"][1][0]
    before = setting.result("ray", gone)
    for ending in ("json", "jsonl"):
        (setting.folder / "ray/tiny-gpt2" / f"{gone}.{ending}").unlink()
    setting.received.clear()
    monkeypatch.setattr(ray_driver, "LOSSES", 0)
    failing = [setting.cell("ray", name, edits=1) for name in ("ValueError", "UserError", "Dying", "unknown")]
    outcomes = {o.cell: o for o in ray_driver.run([*setting.cells("ray"), *failing], setting.plugins, cluster.address)}
    assert [outcomes[cell].made for cell in [*setting.cells("ray"), *failing]] == [0, 1, 0, 0, 0, 0, 0]
    assert setting.received == [gone]
    assert setting.result("ray", gone) == before
    errors = [str(outcomes[cell].error) for cell in failing]
    starts = ("wrong (on ", "no such file (on ", "workers lost under it: 1, ", "unknown method 'unknown'")
    for error, wanted in zip(errors, starts, strict=True):
        assert error.startswith(wanted) and "\n" not in error


def test_an_interrupt_stops_the_workers_and_keeps_what_has_arrived(
    cluster: Any, setting: Setting, swept: list[Outcome]
) -> None:
    import ray

    (setting.folder / "go").unlink()
    setting.received.clear()
    first = {stem for stems in STEMS["ROME"][:2] for stem in stems}

    def interrupt() -> None:
        if set(setting.received) >= first:
            while setting.edited()[-1][2] != 202:
                time.sleep(0.05)
            raise KeyboardInterrupt

    setting.then = interrupt
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        list(ray_driver.run([setting.cell("stopped", "ROME", "203", 3)], setting.plugins, cluster.address))
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == handler
    assert setting.files("stopped") == sorted(f"{stem}.{ending}" for stem in first for ending in ("json", "jsonl"))
    deadline = time.monotonic() + 30
    while running(setting.edited()[-1][0]):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_without_the_files_says_so(setting: Setting, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        cell = setting.cell("here")
        asked = ray_worker.settings_of(cell.session(setting.plugins))
        asked[0] = {**asked[0], "model": {**asked[0]["model"], "sha256": "0123"}}
        (told,) = ray_worker.work(Order(cell, str(ROOT), asked, {}), setting.plugins)
        assert "model.sha256: '0123', now " in told
        named = Cell(tuple("no-such-model" if word == str(setting.model) else word for word in cell.arguments))
        (told,) = ray_worker.work(Order(named, str(tmp_path), asked, {}), setting.plugins)
        assert Path.cwd() == tmp_path
        assert "no model 'no-such-model': neither hugging_cache/no-such-model" in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine", "ray", "--workers", "2"], "--workers is for --engine local"),
        (["--address", "auto"], "--address names a Ray cluster; it needs --engine ray"),
    ],
)
def test_flags_of_the_other_engine_are_refused(flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep.py", "configs/smoke.yaml", *flags])
    with pytest.raises(UserError, match=message):
        sweep.main()


def test_ray_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-cluster\.txt"):
        ray_driver.run([], Plugins({}, {}, REGULARIZERS, make))


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "127.0.0.1:1", "nowhere"])
def test_a_bad_address_is_one_line(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
    with pytest.raises(UserError) as error:
        ray_driver.run([], Plugins({}, {}, REGULARIZERS, make), address)
    assert address in str(error.value) and "\n" not in str(error.value)
