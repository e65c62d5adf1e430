"""`prepare.py doctor`: what is here, what is damaged, and what would go wrong, with the command that mends it."""

import json
import logging
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from packaging.requirements import Requirement
from safetensors import SafetensorError, safe_open

from core import folders
from core.disk.digest import sha256
from core.disk.whole import leftovers
from core.errors import UserError
from core.lm.load import config_of, tokenizer_of
from core.lm.model import PATHS, added_behind, hash_folder
from core.messages import first_line, short
from core.types import Editor, EditSet, Task
from edit_sets.zsre import EDIT_SET
from inputs.check import counters
from inputs.download import fits
from inputs.sources import DEFAULT_MODEL, Source, located

logger = logging.getLogger(__name__)


@dataclass
class Doctor:
    """Yields what it sees, line by line; keeps what is `broken`, and `notes` on what would go wrong."""

    tasks: Mapping[str, Task]
    editors: Mapping[str, type[Editor]]
    edit_sets: Mapping[str, EditSet]
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each model that was looked at."""
    memory: dict[str, int] = field(default_factory=dict)
    """Bytes of each device, in all."""

    def examine(self, model: str | None, folder: Path | None) -> Iterator[str]:
        """Everything, or only one model and only the data in `folder`."""
        yield from self.versions()
        yield from self.machine()
        yield from self.models(model)
        yield from self.data(folder)
        for editor in self.editors.values():
            if editor.trained_by:
                yield from self.archives(editor)
        yield from self.moments()
        self.writing()
        for title, sentences in (("DAMAGED", self.broken), ("WHAT WOULD GO WRONG", self.notes)):
            if sentences:
                yield "\n".join(["", title, *(f"- {sentence}" for sentence in sentences)])
        if not self.broken:
            yield "\nnothing is damaged"

    def versions(self) -> Iterator[str]:
        """Installed packages against the pins of requirements.txt."""
        yield f"python {platform.python_version()}, {platform.platform()}"
        for line in folders.REQUIREMENTS.read_text(encoding="utf-8").splitlines():
            text = line.partition("#")[0].strip()
            wanted = Requirement(text) if text else None
            if wanted is None or (wanted.marker and not wanted.marker.evaluate()):
                continue
            try:
                installed = version(wanted.name)
            except PackageNotFoundError:
                self.broken.append(f"{wanted.name} is not installed: `pip install -r requirements.txt`")
                continue
            same = wanted.specifier.contains(installed.partition("+")[0], prereleases=True)
            yield f"  {wanted.name} {installed}" + ("" if same else f" (pinned: {wanted.specifier})")
            if not same:
                self.notes.append(
                    f"{wanted.name} is {installed}, tested is {wanted.specifier}: results may differ in the last "
                    "digits; `pip install -r requirements.txt`"
                )

    def machine(self) -> Iterator[str]:
        """Devices, memory and disk."""
        memory = psutil.virtual_memory()
        self.memory = {"cpu": memory.total}
        threads = torch.get_num_threads()
        yield f"cpu: {threads} threads, memory {_gb(memory.total)}, {_gb(memory.available)} available"
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            self.memory[f"cuda:{i}"] = total
            yield f"cuda:{i}: {torch.cuda.get_device_name(i)}, memory {_gb(total)}, {_gb(free)} free"
        if not torch.cuda.is_available():
            self.notes.append("no CUDA device: everything runs on the CPU; `--limit N` makes a short run")
        yield f"disk: {_gb(shutil.disk_usage('.').free)} free in {Path.cwd()}"

    def models(self, only: str | None) -> Iterator[str]:
        cache = folders.MODELS
        present = sorted(path.parent for path in cache.glob("*/config.json") if path.parent.name[0] != ".")
        if only is not None:
            present = [cache / only if (cache / only).is_dir() else Path(only)]
        yield f"models in {cache}/:" + ("" if present else " none")
        for folder in present:
            try:
                yield from self.model(folder)
            except (UserError, OSError, ValueError, KeyError, SafetensorError, RecursionError) as error:
                yield f"  {folder.name}: damaged"
                self.broken.append(
                    f"{folder}: {first_line(error)}; `python prepare.py model {folder.name} --overwrite`"
                )
        if only is None and not (cache / DEFAULT_MODEL / "config.json").is_file():
            self.notes.append(
                f"{DEFAULT_MODEL} is not in {cache}/: without --model the small embedded model is used; "
                f"`python prepare.py model {DEFAULT_MODEL}` fetches it"
            )

    def model(self, folder: Path) -> Iterator[str]:
        """One model. Raises whatever its damage makes reading it raise."""
        family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        size, kinds, parameters = sum(path.stat().st_size for path in files), set(), 0
        logger.info("  %s: hashing %s", folder.name, _gb(size))
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
        yield f"  {folder.name}: {family}, {weights}, {_gb(size)}, {stated}, SHA-256 {self.hashes[folder.name]}"
        if family in PATHS:
            self.loading(folder)
        else:
            self.notes.append(f"{folder.name} is of the family {short(family)}, which has no row in core/lm/model.py")
        place = max(self.memory, key=lambda name: (name != "cpu", self.memory[name]))
        if 4 * parameters > 0.9 * self.memory[place]:
            self.notes.append(
                f"{folder.name} takes {_gb(4 * parameters)} in float32, {place} has {_gb(self.memory[place])}: "
                "use --dtype bfloat16" + (" or --device cpu" if place != "cpu" else "")
            )

    def loading(self, folder: Path) -> None:
        """Whatever a run would refuse or mend when it loads the model, but for what only its weights show."""
        try:
            tokenizer = tokenizer_of(folder, config_of(folder, folder.name))
        except UserError as error:
            self.notes.append(str(error))
            return
        if added_behind(tokenizer):
            self.notes.append(
                f"{folder.name}: its tokenizer puts an end token behind every text; prompts go without it"
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

    def data(self, folder: Path | None) -> Iterator[str]:
        """Every file that runs would read, parsed, counted, and compared with data/SOURCES.json."""
        yield f"data in {folder or folders.DATA}/:"
        notes = self.sources() if folder is None else {}
        place = folder or folders.DATA
        formats = [one for one in self.edit_sets.values() if one is EDIT_SET or (place / one.file).exists()]
        counts = counters(self.tasks.values(), formats)  # other facts than zsRE's need not be there
        lacking, sample = [], []
        for file, read in counts.items():
            try:
                source = located(file, folder)
            except UserError:
                lacking.append(file)
                continue
            if folder and source.kind != "custom":  # runs take it from elsewhere
                lacking.append(file)
                continue
            if source.kind == "sample":
                sample.append(file)
            try:
                yield self.dataset(file, source, read, notes.get(file, {}))
            except (UserError, OSError) as error:
                self.broken.append(f"{error}; " + ("" if folder else "`python prepare.py data --overwrite`"))
        if lacking:
            self.notes.append(
                f"{folder or folders.SAMPLE} lacks {', '.join(lacking)}: `python prepare.py data` or --data DIR"
            )
        if sample:
            self.notes.append(
                f"{len(sample)} of {len(counts)} data files are the small sample: `python prepare.py data` fetches "
                "the official ones"
            )

    def sources(self) -> dict[str, Any]:
        """What is noted of the files that were fetched."""
        path = folders.SOURCES
        try:
            notes = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            return {file: dict(note) for file, note in notes.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            self.broken.append(
                f"{path} cannot be read: move it away, `python prepare.py data --overwrite` makes it anew"
            )
            return {}

    def dataset(self, file: str, source: Source, read: Callable[[Path], int], note: Mapping[str, Any]) -> str:
        records, digest = read(source.path), sha256(source.path)
        if source.kind == "official" and note.get("sha256", digest) != digest:
            raise UserError(f"{source.path} is not the file that {folders.SOURCES} says was fetched")
        return f"  {file}: {source.kind}, {records} records, SHA-256 {digest[:12]}..."

    def archives(self, editor: type[Editor]) -> Iterator[str]:
        """What a method has trained, and whether it is for the models that are here."""
        paths = list(editor.archives())
        for path in paths:
            try:
                model, fingerprint = editor.trained_for(path)
            except UserError as error:
                self.broken.append(str(error))
                continue
            yield f"{editor.name} network: {path}, for {short(model)}, {_gb(path.stat().st_size)}"
            name = path.parent.name
            if self.hashes.get(name, fingerprint) != fingerprint:
                train = f"`python {editor.trained_by} --model {name}`"
                self.notes.append(f"{path} is for other weights than {name} has: {train}")
        if not paths:
            name, script = editor.name, editor.trained_by
            self.notes.append(f"no trained {name} network: `python {script}` before METHOD is {name}")

    def moments(self) -> Iterator[str]:
        paths = sorted(folders.STATS.rglob("*.npz"))
        for path in paths:
            try:
                with np.load(path, allow_pickle=False) as stored:
                    sound = np.isfinite(stored["mom2.mom2"]).all() and int(stored["mom2.count"]) > 0
            except Exception:  # NumPy raises nearly anything for a damaged archive
                sound = False
            if not sound:
                self.broken.append(f"{path} is not a file of second moments: delete it, it is made anew")
        if paths:
            size = sum(path.stat().st_size for path in paths)
            yield f"second moments: {len(paths)} files in {folders.STATS}/, {_gb(size)}"

    def writing(self) -> None:
        """Where runs write, and what killed ones left there."""
        results = folders.RESULTS
        parent = next(path for path in (results, *results.parents) if path.is_dir())
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            self.notes.append(f"{results} cannot be written ({error.strerror}): --results DIR names another place")
        for path in sorted(results.rglob("unfinished")):
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            self.notes.append(f"{path} ({_gb(size)}) holds runs that were stopped: their commands go on with them")
        for path, size in leftovers(folders.MODELS, folders.DATA, results, folders.TRAINED):
            why = "is what was fetched of models so far: fetch them again to go on, or"
            if path.name != ".partial":
                why = "was left by a run that was killed, unless one is under way:"
            self.notes.append(f"{path} ({_gb(size)}) {why} `rm -r {path}`")


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size > 1e7 else f"{size / 1e6:.2f} MB"
