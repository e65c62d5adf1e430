"""Models from the Hugging Face hub: `prepare.py model NAME` makes hugging_cache/NAME, whole or not at all.

Only what transformers loads is fetched: configuration, tokenizer, and the weights in one format (safetensors where the
repository has them). Files arrive in a hidden folder that survives an interruption, are checked by size and hash
against what the hub says of them, and move into place together.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import huggingface_hub

from core.disk.lock import beside, held
from core.disk.whole import clear, swap
from core.errors import UserError
from inputs import hub
from inputs.hub import RemoteFile, Repo, explained

REPOS: Mapping[str, str] = {
    "gpt2-xl": "openai-community/gpt2-xl",
    "gpt-j-6B": "EleutherAI/gpt-j-6b",
    "llama-7b": "huggyllama/llama-7b",
    "llama2-7b": "meta-llama/Llama-2-7b-hf",
    "llama2-13b": "meta-llama/Llama-2-13b-hf",
}
"""The paper's models by the names used here. The llama2 repositories are gated."""

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
        with held([beside(folder)], "making this model"):
            clear(folder)
            _prepare(folder, repo, revision)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error


def _prepare(folder: Path, repo: str, revision: str | None) -> None:
    asked = Repo(repo, revision or "main")
    pinned = replace(asked, revision=hub.commit(asked))
    scratch = folder.parent / ".partial" / folder.name
    files = hub.listing(pinned)
    if "config.json" not in files or not any(name in files for name in TOKENIZERS):
        raise UserError(f"{repo} is no model that transformers loads: it has no config.json or no tokenizer")
    wanted = [name for name in SMALL_FILES if name in files]
    wanted += _weights(pinned, files, scratch)
    _check_room(scratch, [files[name] for name in wanted])
    print(f"{repo} at {pinned.revision[:12]}: {_gigabytes(files, wanted)} in {len(wanted)} files", file=sys.stderr)
    _download(pinned, wanted, scratch)
    for name in wanted:
        verify(scratch / name, files[name], pinned)
    lines = "\n".join(f"{files[name].sha256 or 'git ' + files[name].blob_id}  {name}" for name in wanted)
    text = ORIGIN.format(
        repo=repo, commit=pinned.revision, revision=asked.revision, endpoint=hub.endpoint(), files=lines
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
            verify(scratch / index, files[index], repo)
            try:
                shards = sorted(set(json.loads((scratch / index).read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise UserError(f"{repo.name}: {index} is not an index of weights ({error})") from error
            if missing := [shard for shard in shards if shard not in files]:
                raise UserError(f"{repo.name}: {index} names {missing[0]}, which the repository does not have")
            return [index, *shards]
    raise UserError(f"{repo.name} has no weights that transformers loads: {' or '.join(WEIGHTS)}")


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


def verify(path: Path, expected: RemoteFile, repo: Repo) -> None:
    """UserError if the file is not what the hub says it is; a damaged one is deleted, so that it is fetched anew."""
    if not path.is_file():
        raise UserError(f"{repo.name}: {expected.path} did not arrive; run this again, complete files are kept")
    size = path.stat().st_size
    if size != expected.size:
        path.unlink()
        raise UserError(f"{repo.name}: {expected.path} has {size} bytes, expected {expected.size}; run this again")
    if expected.sha256:
        digest, wanted = hashlib.sha256(), expected.sha256
    else:
        digest, wanted = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), expected.blob_id
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 24):
            digest.update(chunk)
    if digest.hexdigest() != wanted:
        path.unlink()
        raise UserError(
            f"{repo.name}: {expected.path} has the hash {digest.hexdigest()[:12]}..., expected {wanted[:12]}...: "
            "damaged on the way; it was deleted, run this again"
        )


def _check_room(scratch: Path, files: list[RemoteFile]) -> None:
    """Fail before hours of transfer if the disk cannot take what is still missing."""
    missing = sum(file.size for file in files if not (scratch / file.path).is_file())
    place = next(parent for parent in scratch.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if missing > free:
        raise UserError(f"{place}: {missing / 1e9:.1f} GB are to be fetched, only {free / 1e9:.1f} GB are free")


def _gigabytes(files: Mapping[str, RemoteFile], names: list[str]) -> str:
    return f"{sum(files[name].size for name in names) / 1e9:.2f} GB"


def _move(scratch: Path, folder: Path, wanted: list[str], origin: str) -> None:
    """The checked files and ORIGIN.txt, and nothing else, to their place."""
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in wanted:
            path.unlink()
    (scratch / "ORIGIN.txt").write_text(origin, encoding="utf-8")
    swap(scratch, folder)
    if not any(scratch.parent.iterdir()):
        scratch.parent.rmdir()
