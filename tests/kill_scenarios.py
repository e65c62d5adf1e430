"""What tests/killing.py kills: every script that makes something, on a tiny model, with a second or so of work."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock

import torch
from tqdm import tqdm

from core import published
from core.lm.generate import complete
from core.lm.load import load
from editors.mend import archive as archive
from editors.mend.factors import shapes_of
from editors.mend.log import CURVES, METRICS
from editors.mend.network import Statistics, seeded
from editors.mend.settings import BEST, MENDSettings
from inputs import official
from tests import tiny_settings
from tests.conftest import ROOT, tiny
from tests.fake_hub import FakeHub, Remote, serving

SAMPLE = ROOT / "data/sample"
ROME = tiny_settings.ROME
MEMIT = {**tiny_settings.TARGET, "layers": [1, 2], "mom2_adjustment": True, "mom2_update_weight": 10}
MEMIT |= {"mom2_dataset": "self-generated", "mom2_n_samples": 8, "stats_dir": "stats"}
MEMIT |= {"context_templates": None, "context_template_length_params": [[4, 2]]}
MEND = dict(
    inner_params=[f"transformer.h.{layer}.mlp.{part}.weight" for layer in (2, 3) for part in ("c_fc", "c_proj")],
    rank=4,
    accumulate_bs=2,
    max_iters=16,
    val_batch_size=2,
    val_steps=1,
    val_interval=8,
    log_interval=4,
    model_save_pt=2,
    final_eval=False,
)
GRID = {
    "tasks": ["NLI"],
    "limit": 3,
    "checkpoints": [0, 1, 2],
    "grid": [dict(methods=["ROME"], modes=["Instance-Sequential"], regularizers=["none", "random 0.4"])],
}


def always(folder: Path) -> Sequence[str]:
    return ()


def untouched() -> None:
    pass


@dataclass(frozen=True)
class Scenario:
    """A script and its words, with `more` words by what is in its folder already.

    Each of `folders` that it makes appears whole or not at all; files named in `grows` change while it is at work.
    """

    name: str
    script: str
    words: Sequence[str]
    given: Mapping[str, str] = field(default_factory=dict)
    more: Callable[[Path], Sequence[str]] = always
    folders: Sequence[str] = ()
    grows: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    patch: Callable[[], None] = untouched

    def arguments(self, folder: Path) -> list[str]:
        return [*map(str, self.words), *self.more(folder)]

    def begin(self, folder: Path) -> Path:
        """A fresh folder with the files given."""
        for name, text in self.given.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def may_be(self, name: str, found: bytes, whole: Mapping[str, bytes]) -> bool:
        """Whether a file may look like that at any moment."""
        return found == whole.get(name) or Path(name).name in self.grows


def warm() -> None:
    """Load what the scripts import late, in this one thread."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401
    import seqeval.metrics  # noqa: F401
    from huggingface_hub import HfApi, snapshot_download  # noqa: F401

    torch.set_num_threads(1)
    tqdm.monitor_interval = 0  # no thread
    tqdm.set_lock(RLock())  # its own is shared by all forks: one that is killed would keep it for ever
    complete(tiny("gpt2"), ["The first day"], 2)


@contextmanager
def scenarios(folder: Path) -> Iterator[list[Scenario]]:
    """All of them, with the model and the hub they need, in `folder`."""
    made, model = tiny("gpt2"), folder / "tiny"
    made.model.save_pretrained(model)
    made.tokenizer.save_pretrained(model)
    lm = load(model, "tiny", "cpu")
    hp = MENDSettings(inner_params=tuple(MEND["inner_params"]), rank=4)
    net = seeded(shapes_of(lm, hp.inner_params), hp)
    for module in net.modules():
        if isinstance(module, Statistics):
            module(torch.randn(50, len(module.mean), generator=torch.Generator().manual_seed(0)))
    archive.save(folder / "mend/tiny" / BEST, net.state_dict(), archive.header(lm, hp, net.shapes))
    common = ("--model", model, "--data", SAMPLE, "--device", "cpu")
    published.FILE = folder / "published.yaml"  # the real one takes as long to parse as all the rest
    published.FILE.write_text("{baseline: {}, curves: []}")
    with serving_aside(model) as url:
        yield [*scoring(common, folder), training(common), *preparing(url), sweeping(common)]


def scoring(common: Sequence[object], folder: Path) -> Iterator[Scenario]:
    few = (*common, "--limit", 3, "--results", "out", "--batch-tokens", 200)
    yield Scenario("test-task", "test-task.py", ("NLI,NER,SentimentAnalysis", *few))
    settings = {
        "ROME": ROME,
        "MEMIT": MEMIT,
        "MEND": {"inner_params": MEND["inner_params"], "rank": 4, "archive_dir": str(folder / "mend")},
    }
    words = {
        "ROME": ("Instance-Sequential", "ROME", 200, 205, 1, "--checkpoints", "2,4", "--regularizer", "random"),
        "MEMIT": ("Batch-Sequential", "MEMIT", 0, 5, 1, 2),
        "MEND": ("Batch-Sequential", "MEND", 0, 4, 1, 1, "--checkpoints", "2"),
    }
    for name, hp in settings.items():
        flags = (
            "--hparams",
            "hparams.yaml",
            "--save-every",
            0,
            *(["--save-model", "edited"] if name == "MEND" else []),
        )
        yield Scenario(
            name,
            "test-task-after.py",
            ("NLI,SentimentAnalysis", *words[name], *flags, *few),
            given={"hparams.yaml": json.dumps(hp)},
            folders=("edited",),
        )


def training(common: Sequence[object]) -> Scenario:
    def goes_on(folder: Path) -> Sequence[str]:
        if (folder / "net" / archive.LAST).is_file():
            return ("--resume",)
        return ("--overwrite",) if (folder / "net" / BEST).is_file() else ()

    return Scenario(
        "train_MEND",
        "train_MEND.py",
        (*common, "--hparams", "hparams.yaml", "--out", "net"),
        given={"hparams.yaml": json.dumps(MEND)},
        more=goes_on,
        grows=(BEST, archive.LAST, METRICS, CURVES),
    )


def preparing(url: str) -> Iterator[Scenario]:
    environment = {"HF_ENDPOINT": url}
    model = ("model", "tiny", "--repo", "org/tiny")
    yield Scenario("prepare model", "prepare.py", model, folders=("hugging_cache/tiny",), environment=environment)

    def sets() -> None:
        files = {"edits": "edited-data/zsre.json", "NLI": "task-data/test-NLI.tsv", "NER": "task-data/test-NER.txt"}
        official.SETS = tuple(  # type: ignore[misc]
            official.DataSet(name, file, None, official.Web((f"{url}/{Path(file).name}",), "sha256:" + digest(file)))
            for name, file in files.items()
        )

    yield Scenario("prepare data", "prepare.py", ("data",), grows=("SOURCES.json",), patch=sets)


def digest(file: str) -> str:
    return hashlib.sha256((SAMPLE / file).read_bytes()).hexdigest()


def sweeping(common: Sequence[object]) -> Scenario:
    flags = {str(key).removeprefix("--"): str(value) for key, value in zip(common[::2], common[1::2], strict=True)}
    grid = {**GRID, "models": [flags["model"]], "data": flags["data"], "device": flags["device"], "results": "out"}
    given = {"grid.yaml": json.dumps(grid), "hparams/ROME/tiny.yaml": json.dumps(ROME)}
    return Scenario("sweep", "sweep.py", ("grid.yaml",), given=given)


@contextmanager
def serving_aside(model: Path) -> Iterator[str]:
    """The address of a hub with this model and the sample data, in a process of its own: this one has no threads."""
    reading, writing = os.pipe()
    parent = os.getpid()
    if not (pid := os.fork()):
        files = {path.name: path.read_bytes() for path in model.iterdir()}
        plain = {path.name: path.read_bytes() for path in SAMPLE.rglob("*") if path.is_file()}
        with serving(FakeHub({"org/tiny": Remote(files)}, plain=plain)) as hub:
            os.write(writing, hub.url.encode())
            os.close(writing)
            signal.sigwait({signal.SIGUSR1}) if os.getppid() == parent else None
        os._exit(0)
    try:
        os.close(writing)
        yield os.read(reading, 100).decode()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        shutil.rmtree(model.parent, ignore_errors=True)
