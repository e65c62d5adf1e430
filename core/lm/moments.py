"""Second moments C = E[k k^T] of the keys of a layer (the input of its MLP's down projection), cached on disk.

The file layout is that of the ROME and MEMIT authors, so that statistics published by them load from `stats_dir`:
`{stats_dir}/{model}/{dataset}_stats/{module}_{dtype}_mom2_{n}.npz` with `mom2.mom2` (the SUM of k k^T, f x f),
`mom2.count` (tokens), `mom2.constructor` (a class name) and `sample_size`. Ours add `model_sha256` and
`tokenizer_sha256`.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from core.disk.whole import whole
from core.errors import UserError
from core.lm.forward import final_states
from core.lm.generate import sample
from core.lm.hooks import trace, watched
from core.lm.model import LM
from core.lm.tokens import encode, pad
from core.messages import first_line

logger = logging.getLogger(__name__)

GENERATED_TOKENS = 128
"""Length of a `self-generated` document."""
BATCH_ROWS = 64


@dataclass(frozen=True, slots=True)
class Corpus:
    """Which documents the keys are collected over: mom2_dataset and mom2_n_samples of the settings."""

    dataset: str
    n_samples: int
    stats_dir: Path

    def file(self, lm: LM, layer: int) -> Path:
        model, dataset = lm.name.replace("/", "_"), self.dataset.replace("/", "_")
        return self.stats_dir / model / f"{dataset}_stats" / f"{lm.mlp_out(layer)}_float32_mom2_{self.n_samples}.npz"


def second_moments(lm: LM, layers: Sequence[int], corpus: Corpus) -> dict[int, Tensor]:
    """C of each layer, (f, f) float64 on the CPU. Missing ones are computed in one pass over the corpus and stored."""
    missing = [layer for layer in layers if not corpus.file(lm, layer).is_file()]
    if missing:
        logger.info(
            "second moments of %s, layers %s: what an edit should leave alone, from %d documents (%s). "
            "Computed once, which may take minutes on a CPU, and kept in %s",
            *(lm.name, ", ".join(map(str, missing)), corpus.n_samples, corpus.dataset, corpus.stats_dir),
        )
        sums = _collect(lm, missing, corpus)
        for layer, total in sums.total.items():
            _write(corpus.file(lm, layer), total, sums.count, corpus.n_samples, lm)
    return {layer: _read(corpus.file(lm, layer), corpus.n_samples, lm, layer) for layer in layers}


def _read(path: Path, n_samples: int, lm: LM, layer: int) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as stored:
            total = torch.from_numpy(stored["mom2.mom2"].astype(np.float64, casting="same_kind"))
            count = int(stored["mom2.count"])
            size, model = int(stored["sample_size"]), str(stored.get("model_sha256", lm.fingerprint))
            tokenizer = str(stored.get("tokenizer_sha256", lm.tokenizer_sha256))
        width = lm.key_width(layer)
        if total.shape != (width, width) or count < 1 or not total.isfinite().all():
            raise ValueError(
                f"expected finite sums ({width}, {width}) over tokens, found {tuple(total.shape)}, {count}"
            )
    except Exception as error:  # NumPy raises nearly anything for a damaged archive
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a file of second moments ({reason}); delete it to have it made anew") from error
    if size != n_samples:
        raise UserError(f"{path}: made from {size} documents, the settings want {n_samples}")
    if model != lm.fingerprint:
        raise UserError(f"{path}: made with another model of the name '{lm.name}'; delete it to have it made anew")
    if lm.tokenizer_sha256 not in (None, tokenizer):
        raise UserError(f"{path}: made with other tokenizer files than {lm.folder} has; delete it to have it made anew")
    return total / count


def _write(path: Path, total: Tensor, count: int, n_samples: int, lm: LM) -> None:
    """Whole or not at all. Raises UserError if there is no room or no permission."""
    arrays = {
        "mom2.constructor": np.array("util.runningstats.SecondMoment()"),
        "mom2.count": np.array(count),
        "mom2.mom2": total.float().cpu().numpy(),
        "sample_size": np.array(n_samples),
        "model_sha256": np.array(lm.fingerprint),
    }
    if lm.tokenizer_sha256 is not None:
        arrays["tokenizer_sha256"] = np.array(lm.tokenizer_sha256)
    with whole(path, "stats_dir of the settings names another place") as new:
        np.savez(new, **arrays)  # type: ignore[arg-type]


@dataclass
class _Sums:
    """Per layer the sum of k k^T in float64 (f, f), over `count` tokens so far. `kept` masks padding of the batch."""

    total: dict[int, Tensor] = field(default_factory=dict)
    count: int = 0
    kept: Tensor | None = None

    def add(self, layer: int, keys: Tensor) -> None:
        rows = (keys.flatten(0, 1) if self.kept is None else keys[self.kept.to(keys.device)]).float()  # (tokens, f)
        product = (rows.T @ rows).double()
        self.total[layer] = product if layer not in self.total else self.total[layer].add_(product)


@contextmanager
def _summing(lm: LM, layers: Sequence[int], sums: _Sums) -> Iterator[None]:
    """Add up the keys of every forward pass inside the `with` block."""
    with ExitStack() as stack:
        for layer in layers:

            def look(keys: Tensor, output: Tensor, layer: int = layer) -> None:
                sums.add(layer, keys)

            stack.enter_context(watched(lm.model, lm.mlp_out(layer), look))
        yield


@torch.inference_mode()
def _collect(lm: LM, layers: Sequence[int], corpus: Corpus) -> _Sums:
    """One pass over the corpus, which serves all `layers`."""
    sums = _Sums()
    with _summing(lm, layers, sums), tqdm(total=corpus.n_samples, unit="doc", desc="second moments") as bar:
        passes = _sample_texts if corpus.dataset == "self-generated" else _read_texts
        for documents, tokens in passes(lm, corpus, sums, max(layers)):
            sums.count += tokens
            bar.update(documents)
    return sums


def _sample_texts(lm: LM, corpus: Corpus, sums: _Sums, deepest: int) -> Iterator[tuple[int, int]]:
    """Documents drawn from the model itself; the keys are those of the sampling pass. Yields (documents, tokens)."""
    start = lm.valid(lm.tokenizer.bos_token_id, lm.tokenizer.eos_token_id)
    generator = torch.Generator().manual_seed(0)  # not the run's seed: the file outlives the run
    length = min(GENERATED_TOKENS, lm.context)
    for begin in range(0, corpus.n_samples, BATCH_ROWS):
        rows = min(BATCH_ROWS, corpus.n_samples - begin)
        sample(lm, [[start]] * rows, length, lambda logits: _drawn(logits, generator))
        yield rows, rows * length


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens (rows, 1) at temperature 1. Drawn on the CPU: the same whatever the device (up to its rounding)."""
    return torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator)


def _read_texts(lm: LM, corpus: Corpus, sums: _Sums, deepest: int) -> Iterator[tuple[int, int]]:
    """Documents of a corpus, cut to the model's context; stops at the deepest layer. Yields (documents, tokens)."""
    texts = documents(corpus.dataset, corpus.n_samples)
    rows = sorted((encode(lm, text)[: lm.context] for text in texts), key=len)
    while rows:
        fitting = max(1, BATCH_ROWS * GENERATED_TOKENS // max(1, len(rows[-1])))
        batch = [row for row in rows[-fitting:] if row]
        del rows[-fitting:]
        if not batch:
            continue
        tokens = pad(lm, batch)
        sums.kept = tokens.mask.bool()
        with trace(lm.model, lm.mlp_out(deepest), stop=True):
            final_states(lm, tokens)
        yield len(batch), int(sums.kept.sum())


def documents(dataset: str, n: int) -> list[str]:
    """`n` documents of "wikipedia" (from the Hugging Face hub) or of a text file or a folder of them.

    Text files are split into documents at blank lines. Shuffled with random.Random(1), as the ROME authors do.
    Raises UserError if the corpus is not available or has fewer documents.
    """
    texts: Any = _wikipedia() if dataset == "wikipedia" else _text_files(Path(dataset))
    if len(texts) < n:
        raise UserError(f"{dataset}: {len(texts)} documents, but mom2_n_samples asks for {n}")
    order = list(range(len(texts)))
    random.Random(1).shuffle(order)
    return [texts[i] for i in order[:n]]


def _wikipedia() -> Any:
    import datasets  # slow to import, and seldom needed

    try:
        return datasets.load_dataset("wikimedia/wikipedia", "20231101.en", split="train")["text"]
    except Exception as error:  # the hub's client raises many kinds, all of which mean the same here
        raise UserError(
            "second moments over wikipedia need the Hugging Face hub, or files published for this model in stats_dir; "
            "without a network set mom2_dataset to self-generated or to a text file "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error


def _text_files(path: Path) -> list[str]:
    files = sorted(path.glob("**/*.txt")) if path.is_dir() else [path]
    try:
        texts = [file.read_text(encoding="utf-8") for file in files]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"mom2_dataset: expected wikipedia, self-generated or UTF-8 text files: {error}") from error
    return [part for text in texts for part in text.split("\n\n") if part.strip()]
