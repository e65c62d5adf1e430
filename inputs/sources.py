"""Where a run's model and data come from: names and folders to files, and what was chosen."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core import folders
from core.disk.digest import sha256
from core.errors import UserError
from core.messages import MERGE, short
from core.registry import did_you_mean, discover, names, spelled
from core.types import EditSet
from edit_sets.formats import recognised
from edit_sets.zsre import EDIT_SET
from inputs.embedded import EMBEDDED_MODEL, prepare_embedded

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "gpt2-xl"
LAYOUT = ("task-data", "edited-data", "training-data")
"""What a data folder holds, or some of it."""


@dataclass(frozen=True, slots=True)
class Source:
    """A data file and where it came from: kind is "official", "sample" or "custom"."""

    path: Path
    kind: str

    def describe(self) -> dict[str, str]:
        return {"path": folders.written(self.path), "kind": self.kind, "sha256": sha256(self.path)}


def find_data(file: str, folder: Path | None) -> Source:
    """`file` (e.g. "task-data/test-NER.txt") in `folder`, else the official file, else that of the sample.

    One that is taken from elsewhere although there is a `folder` is said in the log. UserError if there is none, or if
    `folder` is no data folder at all.
    """
    source = located(file, folder)
    if folder is not None and source.kind != "custom":
        logger.warning("%s: not there, %s is used (%s)", folder / file, source.path, source.kind)
    return source


def located(file: str, folder: Path | None) -> Source:
    """`find_data` without a word."""
    candidates = [Source(folders.DATA / file, "official"), Source(folders.SAMPLE / file, "sample")]
    missing = candidates[-1].path
    if folder is not None:
        _utf8(folder)
        missing = folder / file
        within = any(os.path.isdir(folder / part) for part in LAYOUT)  # else it is a slip, and not filled up
        candidates = [Source(missing, "custom"), *(candidates if within else ())]
    for source in candidates:
        if os.path.exists(source.path):  # False, not an error, for a name too long
            return source
    raise UserError(f"{missing}: no such file; --data names a folder that holds {', '.join(f'{p}/' for p in LAYOUT)}")


def find_edits(
    given: str | Path | None,
    folder: Path | None,
    find: Callable[[str, Path | None], Source] = find_data,
    edit_format: str | None = None,
    target: str | None = None,
) -> tuple[EditSet, Source]:
    """The facts to edit and the edit set that reads them: those of an edit set's name (zsRE's without one), or a file.

    A word that is no edit set's name may be that of a file in edited-data/, without its ending; a Path is a file. Its
    format is `edit_format` or the one `recognised`; `target` is as for `EditSet.reading`. Raises UserError for what is
    not there.
    """
    sets: dict[str, EditSet] = discover("edit_sets", "EDIT_SET")
    word = EDIT_SET.name if given is None else str(given)
    _utf8(word)
    named = {} if isinstance(given, Path) else {name.lower(): edit_set for name, edit_set in sets.items()}
    edit_set = named.get(word.lower())
    if edit_set is not None:
        source = find(edit_set.file, folder)
    else:
        source = Source(given, "custom") if isinstance(given, Path) else _edit_file(word, folder, find)
    if edit_format is not None:
        edit_set = sets[spelled("edit format", edit_format, sets)]
    return (edit_set or recognised(source.path, list(sets.values()))).reading(target), source


def _edit_file(word: str, folder: Path | None, find: Callable[[str, Path | None], Source]) -> Source:
    """The file of that path, or of that name without its ending in edited-data/."""
    if Path(word).name != word or Path(word).suffix or os.path.lexists(word):
        return Source(Path(word), "custom")
    for file in (f"edited-data/{word}.json", f"edited-data/{word}.jsonl"):
        with suppress(UserError):
            located(file, folder)
            return find(file, folder)
    known = names("edit_sets", "EDIT_SET")
    raise UserError(
        f"unknown edit set '{word}'{did_you_mean(word, known)}; known: {', '.join(known)}; "
        "nor is that a file, or the name of one in edited-data/"
    )


def default_model() -> str:
    return DEFAULT_MODEL if (folders.MODELS / DEFAULT_MODEL / "config.json").is_file() else EMBEDDED_MODEL


def find_model(given: str | None) -> tuple[str, Path]:
    """Name and folder of the model `--model` names, in hugging_cache/ or by its path; without one the default.

    A folder is called by the last part of the path that is given, a link by its own name and not its target's.
    The embedded default is prepared on the spot, and said so: a result must not be taken for gpt2-xl's by mistake.
    """
    given = given or None
    name, cache = given or default_model(), folders.MODELS
    _utf8(name)
    if given is None and name == EMBEDDED_MODEL:
        logger.warning(
            f"*** {DEFAULT_MODEL} is not in {cache}/: using the small embedded model {EMBEDDED_MODEL}. "
            f"`python prepare.py model {DEFAULT_MODEL}` fetches the paper's default. ***"
        )
    if name == EMBEDDED_MODEL and not (cache / name / "config.json").is_file():
        prepare_embedded(cache / name)
    folder = Path(name)
    if folder.name == name and os.path.isfile(cache / name / "config.json"):  # no path: joined to one, "/x" would win
        return name, cache / name
    if os.path.isfile(folder / "config.json"):
        return Path(os.path.abspath(folder)).name, folder
    for place in [cache / name, folder] if folder.name == name else [folder]:
        if os.path.isdir(place):
            _refuse(place)
    available = sorted(path.parent.name for path in cache.glob("*/config.json"))
    raise UserError(
        f"no model '{name}': neither {cache / name} nor the path itself holds a config.json; "
        f"in {cache}/: {', '.join(available) or 'none yet'}"
    )


def settings_file(
    method: str, model: str, given: Path | str | None = None, asked: str | None = None, training: bool = False
) -> Path:
    """The file of a method's settings for a model, or of its `training`: the one given, else that of their names.

    UserError if that is absent; one that is given is looked for when it is read. `asked` is how the model was asked
    for, if not by its name.
    """
    if given is not None:
        return Path(given)
    file = (folders.TRAINING_HPARAMS if training else folders.HPARAMS) / method / f"{model}.yaml"
    if not file.is_file():
        what = f"{method}'s training" if training else method
        raise UserError(
            f"{file}: no settings of {what} for this model yet; `python prepare.py "
            f"suggest-hparams --model {asked or model} --method {method}` writes some to start from, --hparams FILE "
            "names other ones"
        )
    return file


def _refuse(folder: Path) -> None:
    """UserError for a folder that has no config.json because it is something else: what, and what to do."""
    if os.path.isfile(folder / "adapter_config.json"):
        raise UserError(f"{folder} is an adapter and no model: {MERGE}")
    saved = [path.parent for path in folder.glob("checkpoint-*/*config.json")]
    if saved:
        last = max(saved, key=lambda path: (len(path.name), path.name))  # the numbers have no leading zeros
        raise UserError(f"{folder} is a training run and no model: --model {last} names its last checkpoint")
    saved = [path.parent for path in folder.glob("snapshots/*/config.json")]
    if saved:
        last, name = max(saved, key=lambda path: path.stat().st_mtime), folder.resolve().name.split("--")[-1]
        raise UserError(
            f"{folder} is of the hub's cache, where models are in snapshots/: "
            f"`ln -s {last.resolve()} {folders.MODELS / name}`, then --model {name}"
        )


def _utf8(name: str | Path) -> None:
    """UserError for a name that no result file could hold."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        raise UserError(f"{short(str(name))}: expected a name in UTF-8") from None
