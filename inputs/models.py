"""Models from the Hugging Face hub: `prepare.py model NAME` makes hugging_cache/NAME, whole or not at all.

Only what transformers loads is fetched: configuration, tokenizer, and the weights in one format (safetensors where the
repository has them). Files arrive in a hidden folder that survives an interruption, are checked by size and hash
against what the hub says of them, and move into place together.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi

from core.disk.lock import beside, held
from core.disk.whole import clear, swap, unwritable
from core.errors import UserError
from inputs import hub
from inputs.hub import RemoteFile, Repo, explained

logger = logging.getLogger(__name__)

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""A model needs one of these at least."""
SMALL_FILES = (
    *TOKENIZERS,
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
)
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In order of preference; "<name>.index.json" where the weights are sharded."""

ORIGIN = """{repo}, commit {commit} (asked for: {revision}), from {endpoint}.

Fetched by `python prepare.py model`; every file has the size and hash the hub states. Its licence is its authors'.

{files}
"""


def prepare_model(folder: Path, repo: str, revision: str | None = None) -> None:
    """Make `folder` a copy of what is needed of the hub's `repo` at `revision` (default: its main branch).

    Raises UserError with what to do: gated, unknown, unreachable, incomplete, damaged on the way, or no room.
    """
    try:
        with held([beside(folder)], "making this model", hint=""):
            clear(folder)
            _prepare(folder, repo, revision)
    except OSError as error:
        raise unwritable(folder, error) from error


def _prepare(folder: Path, repo: str, revision: str | None) -> None:
    named = Repo(repo, revision or "main")
    pinned = replace(named, revision=hub.commit(named))
    scratch = folder.parent / ".partial" / folder.name
    files = hub.listing(pinned)
    if "config.json" not in files or not any(name in files for name in TOKENIZERS):
        raise UserError(f"{repo} is no model that transformers loads: it has no config.json or no tokenizer")
    wanted = [name for name in SMALL_FILES if name in files]
    wanted += _weights(pinned, files, scratch)
    _check_room(scratch, [files[name] for name in wanted])
    size = sum(files[name].size for name in wanted) / 1e9
    logger.info("%s at %s: %.2f GB in %d files", repo, pinned.revision[:12], size, len(wanted))
    _download(pinned, wanted, scratch)
    verify(pinned, wanted, scratch)
    lines = "\n".join(f"{files[name].sha256 or 'git ' + files[name].blob_id}  {name}" for name in wanted)
    text = ORIGIN.format(
        repo=repo, commit=pinned.revision, revision=named.revision, endpoint=hub.endpoint(), files=lines
    )
    _move(scratch, folder, wanted, text)


def _weights(repo: Repo, files: Mapping[str, RemoteFile], scratch: Path) -> list[str]:
    """The weight files of the format preferred, with the index of sharded ones."""
    for name in WEIGHTS:
        index = f"{name}.index.json"
        if name in files:
            return [name]
        if index in files:
            _download(repo, [index], scratch)
            try:
                return [index, *_shards(repo, scratch / index, files)]
            except UserError:
                (scratch / index).unlink(missing_ok=True)  # perhaps damaged on the way: to be fetched anew
                raise
    raise UserError(f"{repo.name} has no weights that transformers loads: {' or '.join(WEIGHTS)}")


def _shards(repo: Repo, index: Path, files: Mapping[str, RemoteFile]) -> list[str]:
    """The files that an index of weights names."""
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{repo.name}: {index.name} is not an index of weights ({error})") from error
    if missing := [shard for shard in shards if shard not in files]:
        raise UserError(f"{repo.name}: {index.name} names {missing[0]}, which the repository does not have")
    return shards


def _download(repo: Repo, names: list[str], scratch: Path) -> None:
    """Fetch these files into the scratch folder; those that are complete there already are not fetched again."""
    with explained(repo):
        scratch.mkdir(parents=True, exist_ok=True)
        huggingface_hub.snapshot_download(
            repo.name,
            revision=repo.revision,
            local_dir=scratch,
            allow_patterns=names,
            endpoint=hub.endpoint(),
            max_workers=4,
        )


def verify(repo: Repo, names: list[str], folder: Path) -> None:
    """UserError if a file is not what the hub says it is; a damaged one is deleted, so that it is fetched anew."""
    with explained(repo):
        result = HfApi(hub.endpoint()).verify_repo_checksums(
            repo.name, repo_type=repo.kind, revision=repo.revision, local_dir=folder
        )
    if missing := [name for name in names if name in result.missing_paths]:
        raise UserError(f"{repo.name}: {missing[0]} did not arrive; run this again, complete files are kept")
    damaged = [mismatch for mismatch in result.mismatches if mismatch["path"] in names]
    for mismatch in damaged:
        (folder / mismatch["path"]).unlink()
    if damaged:
        file, actual, expected = (damaged[0][key] for key in ("path", "actual", "expected"))
        raise UserError(
            f"{repo.name}: {file} has the hash {actual[:12]}..., expected {expected[:12]}...: "
            "damaged on the way; it was deleted, run this again"
        )


def _check_room(scratch: Path, files: list[RemoteFile]) -> None:
    """Fail before hours of transfer if the disk cannot take what is still missing."""
    missing = sum(file.size for file in files if not (scratch / file.path).is_file())
    place = next(parent for parent in scratch.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if missing > free:
        raise UserError(f"{place}: {missing / 1e9:.1f} GB are to be fetched, only {free / 1e9:.1f} GB are free")


def _move(scratch: Path, folder: Path, wanted: list[str], origin: str) -> None:
    """The checked files and ORIGIN.txt, and nothing else, to their place.

    Not `whole`, which would not keep what is fetched when the run is stopped.
    """
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in wanted:
            path.unlink()
    (scratch / "ORIGIN.txt").write_text(origin, encoding="utf-8")
    swap(scratch, folder)
    if not any(scratch.parent.iterdir()):
        scratch.parent.rmdir()
