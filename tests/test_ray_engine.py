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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import editors
from core.errors import UserError
from experiment import cli
from experiment.asked import EditRequest, Experiment, Placement
from experiment.engines import local, ray_driver, ray_worker
from experiment.engines.local import Outcome
from experiment.engines.ray_worker import Delivery, Order
from experiment.models import Models
from experiment.plan import resolve
from tests.conftest import ROOT
from tests.tiny_settings import ROME_YAML

TASKS = ("NLI", "SentimentAnalysis")
BEFORE = {f"test-{task}/result-{task}-before-edit" for task in TASKS}
STEMS = {
    method: [[f"test-{t}/result-{t}-Instance-Sequential-{method}-{count}" for t in TASKS] for count in (1, 2, 3)]
    for method in ("Waiting", "Waiting-RECT40")
}
FIRST = {stem for counts in STEMS.values() for stems in counts[:2] for stem in stems}
ALL = BEFORE | {stem for counts in STEMS.values() for stems in counts for stem in stems}

pytestmark = pytest.mark.xdist_group("ray")  # one cluster


@pytest.fixture(scope="module")
def plug_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with editors of its own, for this process and those of Ray."""
    folder = tmp_path_factory.mktemp("plug-ins")
    (folder / "editors").mkdir()
    (folder / "editors/__init__.py").touch()
    (folder / "editors/_for_ray.py").write_text(EDITORS)
    for name in ("waiting", "dying", "bug", "refusing"):
        code = f"from editors._for_ray import {name.title()}\n\nEDITOR = {name.title()}\n"
        (folder / f"editors/{name}.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editors, "__path__", [*editors.__path__, str(folder / "editors")])
        yield folder


@pytest.fixture(scope="module")
def cluster(plug_ins: Path) -> Iterator[Any]:
    """A head and one more node, one CPU each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path may have 107 characters
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    sooner = {"health_check_period_ms": 500, "health_check_initial_delay_ms": 500}
    started = Cluster()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)  # of Ray and its workers
        patch.setenv("PYTHONPATH", str(plug_ins))
        try:
            started.add_node(**node, include_dashboard=False, _system_config=sooner)
            started.add_node(**node)
            yield started
        finally:
            started.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


EDITORS = '''"""ROME that notes where it runs and waits before its third edit for a file `go`; and three that fail."""

import os
import time
from pathlib import Path

from core.errors import UserError
from editors.rome import ROME

FOLDER = Path(__file__).parents[1]


class Waiting(ROME):
    name = "Waiting"

    def deltas(self, edits):
        with (FOLDER / "edited").open("a") as log:
            log.write(f"{os.getpid()} {os.getppid()} {edits[0].index}\\n")
        while edits[0].index == 202 and not (FOLDER / "go").exists():
            time.sleep(0.05)
        return super().deltas(edits)


class Dying(ROME):
    name = "Dying"

    def deltas(self, edits):
        os._exit(1)


class Bug(ROME):
    name = "Bug"

    def deltas(self, edits):
        raise ValueError("what is\\nwrong")


class Refusing(ROME):
    name = "Refusing"

    def deltas(self, edits):
        raise UserError("no such file")
'''


class Setting:
    """Cells of the tiny model, and what an engine's driver did with the results."""

    def __init__(self, folder: Path, plug_ins: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "rome.yaml").write_text(ROME_YAML)
        self.folder, self.plug_ins, self.model, self.patch = folder, plug_ins, model, monkeypatch
        self.written: Counter[str] = Counter()
        self.received: list[str] = []
        self.then: Callable[[], None] = lambda: None

    def cells(self, out: str) -> list[Experiment]:
        rect = self.cell(out, "Waiting", 3, regularizer="rect", keep=0.4)
        return [self.cell(out, "Waiting", 3), rect, self.cell(out)]

    def cell(self, out: str, method: str = "", edits: int = 1, **more: Any) -> Experiment:
        hparams = self.folder / "rome.yaml"
        checkpoints = (1, 2) if edits == 3 else ()
        request = EditRequest(
            method=method,
            mode="Instance-Sequential",
            begin=200,
            end=200 + edits,
            hparams=hparams,
            checkpoints=checkpoints,
            **more,
        )
        return Experiment(
            tasks=TASKS,
            model=str(self.model),
            edit=request if method else None,
            data=ROOT / "data/sample",
            limit=2,
            placement=Placement(device="cpu"),
            results=self.folder / out,
        )

    def watch(self) -> None:
        keep, place = ray_driver.keep, ray_driver.results.place

        def kept(job: ray_driver.Job, delivery: Delivery) -> str | None:
            self.received.append(delivery.stem)
            shown = keep(job, delivery)
            self.then()
            return shown

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
        return [[int(word) for word in line.split()] for line in (self.plug_ins / "edited").read_text().splitlines()]


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, plug_ins: Path, tiny_folder: Path) -> Iterator[Setting]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield Setting(tmp_path_factory.mktemp("sweep"), plug_ins, tiny_folder, patch)


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
            (setting.plug_ins / "go").touch()

    setting.watch()
    setting.then = lose_a_node
    outcomes = ended(ray_driver.run(setting.cells("ray"), cluster.address))
    assert not cluster.worker_nodes
    return outcomes


@pytest.mark.slow
def test_every_result_is_made_once_though_a_node_is_lost(setting: Setting, swept: list[Outcome]) -> None:
    assert {(outcome.made, outcome.error) for outcome in swept} == {(6, None), (2, None)}
    assert len(swept) == 3
    assert setting.written == dict.fromkeys(ALL, 1)
    assert sorted(setting.received) == sorted(ALL)  # a cell that starts again does not make what has arrived
    assert setting.files("ray") == sorted(f"{stem}.{ending}" for stem in ALL for ending in ("json", "jsonl"))
    starts = Counter(index for _, _, index in setting.edited())
    assert starts == {200: 3, 201: 3, 202: 3}
    assert len({node for _, node, _ in setting.edited()}) == 2


@pytest.mark.slow
def test_the_results_are_those_of_a_local_sweep(setting: Setting, swept: list[Outcome]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setting, "written", Counter())
        assert [outcome.made for outcome in ended(local.local(setting.cells("local"), 1))] == [6, 6, 2]
    here = [name for name in setting.files("local") if not name.startswith("expected/")]  # kept where runs share a disk
    assert here == setting.files("ray")
    for stem in ALL:
        assert setting.result("local", stem) == setting.result("ray", stem)


@pytest.mark.slow
def test_what_is_there_is_not_made_again_and_failures_are_one_line(
    cluster: Any, setting: Setting, swept: list[Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = STEMS["Waiting-RECT40"][1][0]
    before = setting.result("ray", gone)
    for ending in ("json", "jsonl"):
        (setting.folder / "ray/tiny-gpt2" / f"{gone}.{ending}").unlink()
    setting.received.clear()
    monkeypatch.setattr(ray_driver, "LOSSES", 0)
    failing = [setting.cell("ray", name) for name in ("Bug", "Refusing", "Dying", "unknown")]
    outcomes = {o.cell: o for o in ended(ray_driver.run([*setting.cells("ray"), *failing], cluster.address))}
    assert [outcomes[cell].made for cell in [*setting.cells("ray"), *failing]] == [0, 1, 0, 0, 0, 0, 0]
    assert setting.received == [gone]
    assert setting.result("ray", gone) == before
    errors = [str(outcomes[cell].error) for cell in failing]
    starts = ("wrong (on ", "no such file (on ", "workers lost under it: 1, ", "unknown method 'unknown'")
    for error, wanted in zip(errors, starts, strict=True):
        assert error.startswith(wanted) and "\n" not in error


@pytest.mark.slow
def test_an_interrupt_stops_the_workers_and_keeps_what_has_arrived(
    cluster: Any, setting: Setting, swept: list[Outcome]
) -> None:
    import ray

    (setting.plug_ins / "go").unlink()
    setting.received.clear()
    first = {stem for stems in STEMS["Waiting"][:2] for stem in stems}

    def interrupt() -> None:
        if set(setting.received) >= first:
            while setting.edited()[-1][2] != 202:
                time.sleep(0.05)
            raise KeyboardInterrupt

    setting.then = interrupt
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        list(ray_driver.run([setting.cell("stopped", "Waiting", 3)], cluster.address))
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == handler
    left = [file for file in setting.files("stopped") if not file.startswith("unfinished/")]  # a note of what it was
    assert left == sorted(f"{stem}.{ending}" for stem in first for ending in ("json", "jsonl"))
    assert len(left) + 1 == len(setting.files("stopped"))
    deadline = time.monotonic() + 30
    while running(setting.edited()[-1][0]):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ended(events: Iterator[str | Outcome]) -> list[Outcome]:
    return [event for event in events if isinstance(event, Outcome)]


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
        plan = resolve(cell, Models())
        asked = {ray_worker.place(plan, wanted.stem): dict(wanted.settings) for wanted in plan.wanted}
        first = next(iter(asked))
        asked[first] = {**asked[first], "model": {**asked[first]["model"], "sha256": "0123"}}
        (line,) = ray_worker.work(Order(cell, str(ROOT), asked, {}))
        assert "model.sha256: '0123', now " in line
        (line,) = ray_worker.work(Order(replace(cell, model="no-such-model"), str(tmp_path), asked, {}))
        assert Path.cwd() == tmp_path
        assert f"no model 'no-such-model': neither {ROOT}/hugging_cache/no-such-model" in line


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
        cli.sweep()


def test_ray_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-cluster\.txt"):
        list(ray_driver.run([]))


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "127.0.0.1:1", "nowhere"])
def test_a_bad_address_is_one_line(address: str) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
    with pytest.raises(UserError) as error:
        list(ray_driver.run([], address))
    assert address in str(error.value) and "\n" not in str(error.value)
