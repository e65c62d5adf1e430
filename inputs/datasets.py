"""`prepare.py data`: fetch the official sets, convert them to the released files' formats, note where they came from.

A file is read by the project's own reader before it is moved to its place; an existing one stays, unless --overwrite.
data/SOURCES.json says of every file fetched: origin, revision, SHA-256 and number of records.
"""

import json
import logging
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import folders
from core.disk.digest import sha256
from core.disk.lock import beside, held
from core.disk.whole import clear, whole
from core.errors import UserError
from core.types import EditSet, Task
from edit_sets.formats import recognised
from inputs import hub
from inputs.check import count
from inputs.download import download
from inputs.hub import Repo, explained
from inputs.official import DataSet, Hub, Web

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gatherer:
    """Fetches data sets into `folder`; `tasks` and `edit_sets` by name read what they will use."""

    folder: Path
    tasks: Mapping[str, Task]
    edit_sets: Mapping[str, EditSet]
    overwrite: bool = False

    @property
    def sources(self) -> Path:
        return self.folder / folders.SOURCES.name

    def gather(self, sets: Sequence[DataSet]) -> Iterator[str]:
        """Fetch every set that is available, a line each; a UserError at the end if any is missing."""
        missing = []
        with held([beside(self.sources)], "fetching data", hint=""):
            clear(self.sources)
            for dataset in sets:
                try:
                    line = self._fetched(dataset, self.folder / dataset.file)
                except UserError as error:
                    logger.warning("%s: %s", dataset.name, error)
                    missing.append(dataset.file)
                else:
                    yield line
        if missing:
            raise UserError(
                f"{len(missing)} of {len(sets)} are missing: {', '.join(missing)}; run this again, or put them under "
                f"{self.folder} by hand, then `python prepare.py check-data {self.folder}`"
            )

    def _fetched(self, dataset: DataSet, target: Path) -> str:
        """Fetch, check, note, move into place, unless the file exists. Returns the line that says so."""
        clear(target)
        if target.exists() and not self.overwrite:
            return f"{target} is already there"
        with whole(target) as new:
            source = dataset.source
            origin = from_hub(source, new) if isinstance(source, Hub) else from_web(source, new)
            n, hashed = self._count(dataset, new), sha256(new)
            noted = getattr(source, "noted", None)
            if noted not in (None, hashed):
                logger.warning("%s: its SHA-256 is not %s, which others have measured", target, noted)
            # The note first: a file without one, left by a kill, would be taken for one put there by hand.
            self._note(dataset.file, origin | {"sha256": hashed, "n": n, "n_released": dataset.n})
        same = dataset.n in (None, n)
        return f"{target}: {n} records" + (
            "" if same else f" (the released file has {dataset.n}; see inputs/official.py)"
        )

    def _count(self, dataset: DataSet, path: Path) -> int:
        """The records of the file, all of them read as runs will read them. UserError for the first malformed one."""
        if dataset.name in self.tasks:
            return count(self.tasks[dataset.name], path)
        sets = list(self.edit_sets.values())
        edit_set = next((s for s in sets if dataset.file in (s.file, *s.training_files)), None)
        edit_set = edit_set or recognised(path, sets)
        records = len(edit_set.records(path))
        if dataset.file in edit_set.training_files:
            edit_set.training(path)
            return records
        try:
            edit_set.edits(path, 0, records, 1)
        except UserError as error:
            if not dataset.lenient:
                raise
            logger.warning("%s: no run can take it, --draw passes it over", error)
        return records

    def _note(self, file: str, origin: Mapping[str, Any]) -> None:
        try:
            notes = json.loads(self.sources.read_text(encoding="utf-8")) if self.sources.exists() else {}
            notes[file] = origin
            text = json.dumps(notes, indent=1, sort_keys=True) + "\n"
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{self.sources}: cannot note where {file} came from ({error}); move it away") from error
        with whole(self.sources) as new:
            new.write_text(text, encoding="utf-8")


def from_hub(source: Hub, path: Path) -> dict[str, Any]:
    """Write a split of a data set on the hub to `path`, converted, a cache beside it. Returns where it is from."""
    repo = Repo(source.repo, source.revision, "dataset")
    commit = hub.commit(repo)
    with explained(repo):
        import datasets  # slow to import, and seldom needed

        datasets.logging.set_verbosity_error()
        table = datasets.load_dataset(
            source.repo, source.config, split=source.split, revision=commit, cache_dir=str(path.parent / "cache")
        )
    path.write_text(source.convert(rows(table, source)), encoding="utf-8", newline="\n")
    return {"origin": repo.page, "revision": commit, "config": source.config, "split": source.split}


def rows(table: Any, source: Hub) -> Iterator[dict[str, Any]]:
    """The rows of a datasets.Dataset: the columns of the source, label names in place of numbers in its `named`."""
    if absent := [name for name in source.columns if name not in table.column_names]:
        raise UserError(f"{source.repo} has no column '{absent[0]}', but {', '.join(table.column_names)}")
    names = {column: _label_names(table.features[column], column, source) for column in source.named}
    for row in table.select_columns(list(source.columns)):
        yield {key: _named(value, names.get(key)) for key, value in row.items()}


def _label_names(feature: Any, column: str, source: Hub) -> list[str] | None:
    """The names of a column of labels, or of lists of labels; None where the values are names already."""
    inner = getattr(feature, "feature", feature)
    names: list[str] | None = getattr(inner, "names", None)
    if names is None and getattr(inner, "dtype", None) != "string":
        raise UserError(f"{source.repo}: expected label names in column '{column}', found {inner}")
    return names


def _named(value: Any, names: Sequence[str] | None) -> Any:
    if names is None:
        return value
    if isinstance(value, list):
        return [_named(label, names) for label in value]
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise UserError(
            f"expected the number of a label among {', '.join(names)}, got {value}: a split without labels?"
        )
    return names[value]


def from_web(source: Web, path: Path) -> dict[str, Any]:
    """Write the file, or the folder taken out of an archive, to `path`; the archive stays beside it.

    Returns where it is from.
    """
    reasons = []
    for url in source.urls:
        try:
            if source.convert is not None:
                raw = path.parent / "raw"
                download(url, raw, source.pin)
                _convert(raw, source.convert, url, path)
            elif source.members is None:
                download(url, path, source.pin)
            else:
                archive = path.parent / "archive.zip"
                download(url, archive)
                _unpack(archive, source.members, path)
                if f"folder:{sha256(path)}" != source.pin:
                    shutil.rmtree(path)
                    raise UserError(f"{url}: its files are not the ones expected, {source.pin}")
            return {"origin": url, "revision": None}
        except UserError as error:
            reasons.append(str(error))
    raise UserError("; ".join(reasons))


def _convert(raw: Path, convert: Callable[[bytes], str], url: str, path: Path) -> None:
    """Write to `path` what is made of the file fetched from `url`. A UserError names that."""
    try:
        text = convert(raw.read_bytes())
    except UserError as error:
        raise UserError(f"{url}: {error}") from error
    path.write_text(text, encoding="utf-8", newline="\n")


def _unpack(archive: Path, members: str, folder: Path) -> None:
    """The files of a zip archive whose path fits, into one folder, under what the pattern's group matches."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                if match := re.fullmatch(members, name):
                    (folder / match[1]).write_bytes(file.read(name))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError) as error:
        shutil.rmtree(folder)
        raise UserError(f"{archive.name} is not a readable zip archive ({error})") from error


def chosen(sets: Iterable[DataSet], only: Sequence[str], more: Iterable[DataSet] = ()) -> list[DataSet]:
    """The sets of these names, which may be those of `more`; without a name all of `sets`."""
    table = [*sets, *(more if only else ())]
    known = dict.fromkeys(dataset.name for dataset in table)
    for name in only:
        if name not in known:
            raise UserError(f"--only {name}: expected names among {', '.join(known)}")
    return [dataset for dataset in table if not only or dataset.name in only]
