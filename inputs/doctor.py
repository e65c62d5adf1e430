"""`prepare.py doctor`: what is here, what is damaged, and what would go wrong, with the command that mends it."""

import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.requirements import Requirement
from safetensors import SafetensorError, safe_open

from core import readers
from core.disk.digest import sha256
from core.disk.whole import leftovers
from core.errors import UserError
from core.lm.model import PATHS, hash_folder
from core.messages import first_line, short
from core.types import Task
from inputs.check import TRAINING, ZSRE, count
from inputs.download import fits
from inputs.sources import CACHE, DATA, DEFAULT_MODEL, SAMPLE, Source, find_data

ROOT = Path(__file__).parents[1]
ARCHIVES, STATS, RESULTS = Path("result/models/MEND"), Path("data/stats"), Path("test-result")


@dataclass
class Doctor:
    """Prints what it finds; keeps what is `broken`, and `notes` on what would go wrong."""

    tasks: Mapping[str, Task]
    archive: Callable[[Path], tuple[Any, Mapping[str, Any]]]
    """Reads a MEND archive: (tensors, header). Raises UserError."""
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each model that was looked at."""
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes of each device, in all."""

    def examine(self, model: str | None, folder: Path | None) -> int:
        """Everything, or only one model and only the data in `folder`. Returns 1 if something is damaged, else 0."""
        self.versions()
        self.machine()
        self.models(model)
        self.data(folder)
        self.archives()
        self.moments()
        self.folders()
        for title, found in (("DAMAGED", self.broken), ("WHAT WOULD GO WRONG", self.notes)):
            if found:
                print("\n".join(["", title, *(f"- {sentence}" for sentence in found)]))
        if not self.broken:
            print("\nnothing is damaged")
        return int(bool(self.broken))

    def versions(self) -> None:
        """Installed packages against the pins of requirements.txt."""
        print(f"python {platform.python_version()}, {platform.platform()}")
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
            text = line.partition("#")[0].strip()
            wanted = Requirement(text) if text else None
            if wanted is None or (wanted.marker and not wanted.marker.evaluate()):
                continue
            try:
                found = version(wanted.name)
            except PackageNotFoundError:
                self.broken.append(f"{wanted.name} is not installed: `pip install -r requirements.txt`")
                continue
            same = wanted.specifier.contains(found.partition("+")[0], prereleases=True)
            print(f"  {wanted.name} {found}" + ("" if same else f" (pinned: {wanted.specifier})"))
            if not same:
                self.notes.append(
                    f"{wanted.name} is {found}, tested is {wanted.specifier}: results may differ in the last digits; "
                    "`pip install -r requirements.txt`"
                )

    def machine(self) -> None:
        """Devices, memory and disk."""
        self.memory = {"cpu": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        print(f"cpu: {torch.get_num_threads()} threads, memory {_gb(self.memory['cpu'])}, {_gb(free)} unused")
        for i in range(torch.cuda.device_count()):
            left, total = torch.cuda.mem_get_info(i)
            self.memory[f"cuda:{i}"] = total
            print(f"cuda:{i}: {torch.cuda.get_device_name(i)}, memory {_gb(total)}, {_gb(left)} free")
        if not torch.cuda.is_available():
            self.notes.append("no CUDA device: everything runs on the CPU; `--limit N` makes a short run")
        print(f"disk: {_gb(shutil.disk_usage('.').free)} free in {Path.cwd()}")

    def models(self, only: str | None) -> None:
        found = sorted(path.parent for path in CACHE.glob("*/config.json") if path.parent.name[0] != ".")
        if only is not None:
            found = [CACHE / only if (CACHE / only).is_dir() else Path(only)]
        print(f"models in {CACHE}/:" + ("" if found else " none"))
        for folder in found:
            try:
                self.model(folder)
            except (UserError, OSError, ValueError, KeyError, SafetensorError, RecursionError) as error:
                print(f"  {folder.name}: damaged")
                self.broken.append(
                    f"{folder}: {first_line(error)}; `python prepare.py model {folder.name} --overwrite`"
                )
        if only is None and not (CACHE / DEFAULT_MODEL / "config.json").is_file():
            self.notes.append(
                f"{DEFAULT_MODEL} is not in {CACHE}/: without --model the small embedded model is used; "
                f"`python prepare.py model {DEFAULT_MODEL}` fetches it"
            )

    def model(self, folder: Path) -> None:
        """One model. Raises whatever its damage makes reading it raise."""
        family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        size, kinds, parameters = sum(path.stat().st_size for path in files), set(), 0
        print(f"  {folder.name}: hashing {_gb(size)}", file=sys.stderr)
        for path in files:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
                parameters += sum(prod(part.get_shape()) for part in slices)
                kinds |= {part.get_dtype() for part in slices}
        if not any(path.suffix in (".safetensors", ".bin") for path in files):
            raise UserError("it has no weights")
        stated = self.origin(folder)
        self.hashes[folder.name] = hash_folder(folder)
        weights = f"{parameters / 1e6:.0f} M parameters, {'+'.join(sorted(kinds))}" if kinds else "a pickle of weights"
        print(f"  {folder.name}: {family}, {weights}, {_gb(size)}, {stated}, SHA-256 {self.hashes[folder.name]}")
        if family not in PATHS:
            self.notes.append(f"{folder.name} is of the family {short(family)}, which has no row in core/lm/model.py")
        place = max(self.memory, key=lambda name: (name != "cpu", self.memory[name]))
        if 4 * parameters > 0.9 * self.memory[place]:
            self.notes.append(
                f"{folder.name} takes {_gb(4 * parameters)} in float32, {place} has {_gb(self.memory[place])}: "
                "use --dtype bfloat16" + (" or --device cpu" if place != "cpu" else "")
            )

    def origin(self, folder: Path) -> str:
        """Compare the files with the hashes of ORIGIN.txt. UserError for the first that differs."""
        file = folder / "ORIGIN.txt"
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        stated = re.findall(r"^(git )?([0-9a-f]{40}|[0-9a-f]{64})  (\S+)$", text, re.MULTILINE)
        for git, wanted, name in stated:
            if not (folder / name).is_file():
                raise UserError(f"{name} is missing")
            path = folder / name
            if not (fits(path, f"git:{wanted}") if git else sha256(path) == wanted):
                raise UserError(f"{name} is not what {file.name} says")
        return f"{len(stated)} files as ORIGIN.txt says" if stated else "no hashes to compare with"

    def data(self, folder: Path | None) -> None:
        """Every file that runs would read, parsed, counted, and compared with data/SOURCES.json."""
        print(f"data in {folder or DATA}/:")
        noted = self.sources() if folder is None else {}
        counts: dict[str, Callable[[Path], int]] = {ZSRE: lambda path: len(readers.edit_records(path))}
        counts |= dict.fromkeys(TRAINING, lambda path: len(readers.training(path)))
        counts |= {f"task-data/{t.file}": partial(count, t) for t in self.tasks.values()}
        lacking, sample = [], []
        for file, read in counts.items():
            try:
                source = find_data(file, folder)
            except UserError:
                lacking.append(file)
                continue
            if source.kind == "sample":
                sample.append(file)
            try:
                self.dataset(file, source, read, noted.get(file, {}))
            except (UserError, OSError) as error:
                self.broken.append(f"{error}; " + ("" if folder else "`python prepare.py data --overwrite`"))
        if lacking:
            self.notes.append(f"{folder or SAMPLE} lacks {', '.join(lacking)}: `python prepare.py data` or --data DIR")
        if sample:
            self.notes.append(
                f"{len(sample)} of {len(counts)} data files are the small sample: `python prepare.py data` fetches "
                "the official ones"
            )

    def sources(self) -> dict[str, Any]:
        """What is noted of the files that were fetched."""
        path = DATA / "SOURCES.json"
        try:
            notes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            return {file: dict(note) for file, note in notes.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            self.broken.append(
                f"{path} cannot be read: move it away, `python prepare.py data --overwrite` makes it anew"
            )
            return {}

    def dataset(self, file: str, source: Source, read: Callable[[Path], int], note: Mapping[str, Any]) -> None:
        records, digest = read(source.path), sha256(source.path)
        print(f"  {file}: {source.kind}, {records} records, SHA-256 {digest[:12]}...")
        if source.kind == "official" and note.get("sha256", digest) != digest:
            raise UserError(f"{source.path} is not the file that data/SOURCES.json says was fetched")

    def archives(self) -> None:
        """Trained MEND networks, and whether they are for the models that are here."""
        for path in sorted(ARCHIVES.glob("*/best.safetensors")):
            try:
                _, head = self.archive(path)
            except UserError as error:
                self.broken.append(str(error))
                continue
            print(f"MEND network: {path}, for {short(head['model'])}, {_gb(path.stat().st_size)}")
            name = path.parent.name
            if self.hashes.get(name, head["fingerprint"]) != head["fingerprint"]:
                self.notes.append(f"{path} is for other weights than {name} has: `python train_MEND.py --model {name}`")
        if not list(ARCHIVES.glob("*/best.safetensors")):
            self.notes.append("no trained MEND network: `python train_MEND.py` before METHOD is MEND")

    def moments(self) -> None:
        paths = sorted(STATS.rglob("*.npz"))
        for path in paths:
            try:
                with np.load(path, allow_pickle=False) as stored:
                    whole = np.isfinite(stored["mom2.mom2"]).all() and int(stored["mom2.count"]) > 0
            except Exception:  # NumPy raises nearly anything for a damaged archive
                whole = False
            if not whole:
                self.broken.append(f"{path} is not a file of second moments: delete it, it is made anew")
        if paths:
            print(f"second moments: {len(paths)} files in {STATS}/, {_gb(sum(path.stat().st_size for path in paths))}")

    def folders(self) -> None:
        """Where runs write, and what killed ones left there."""
        parent = next(path for path in (RESULTS, *RESULTS.parents) if path.is_dir())
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            self.notes.append(f"{RESULTS} cannot be written ({error.strerror}): --results DIR names another place")
        for path in sorted(RESULTS.rglob("unfinished")):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            self.notes.append(f"{path} ({_gb(size)}) holds runs that were stopped: their commands go on with them")
        for path, size in leftovers(CACHE, DATA, RESULTS, ARCHIVES):
            why = "is what was fetched of models so far: fetch them again to go on, or"
            if path.name != ".partial":
                why = "was left by a run that was killed, unless one is under way:"
            self.notes.append(f"{path} ({_gb(size)}) {why} `rm -r {path}`")


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size > 1e7 else f"{size / 1e6:.2f} MB"
