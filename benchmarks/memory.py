"""Peak memory on the device, computed from shapes and settings, not measured: python -m benchmarks.memory

With P parameters, L layers, hidden size d, MLP width f, vocabulary V and B bytes a number of the model's dtype:

    model        P B
    block        what autograd keeps of one token in one block: (9 d + 4 f) B. The weights are frozen, so a linear
                 layer keeps nothing; norms, attention and the non-linearity keep that or less (a test counts it)
    cache        keys and values of one token in all blocks: 2 L d B
    logits       of one token, with log-softmax and its gradient: (B + 3 * 4) V

    scoring      model + N (cache + (4 d + 3 f) B)                           N tokens in a batch
    ROME, MEMIT  model + E R T ((L - l) block + cache) + reads + changes     E edits at a time with R rows of T tokens,
                                                                            l the last edited layer
    KN           model + S (2 T cache + L block + logits) + 2 L f 4         S scaled copies, of several layers together
    MEND edit    model + network + T (L - l) block + T_a logits + changes    network in float32, l its lowest block
    MEND train   model + 4 network + 2 U T (L - l) block + 3 U T_a logits + U T rows
                                                     U edits a step; network, its gradient, Adam's two; a row of
                                                     factors passes 6 tensors of 4 (d_in + d_out) bytes a weight

`reads` is E (R T_a + 1) logits, T_a the tokens of an answer; `changes` is 4 bytes for each entry of every edited
weight, and 3 times 4 (sum, weight as float32, temporary) for the largest. Beside the device MEMIT holds (m + 1) f^2
numbers of float64 in ordinary memory, m the number of edited layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from benchmarks._common import printed
from benchmarks._random import CONFIGS, skeleton
from core import folders, hparams
from core.lm.model import LM, orient
from core.registry import discover
from editors.kn import TOGETHER
from editors.mend.factors import layer_of, shapes_of
from editors.mend.network import Network

BYTES = {"float32": 4, "bfloat16": 2}
TOKENS, ANSWER = 40, 4
"""Tokens of a prompt in its template with its answer, and of the answer: more than nearly all of zsRE has."""
SCORED = 4096
"""Tokens in a batch while scoring."""
METHODS = ("scoring", "ROME", "MEMIT", "MEMIT x1", "KN", "MEND edit", "MEND train")
"""MEMIT x1 is MEMIT with `--edit-batch 1`, where it ends by itself if memory runs out."""


@dataclass(frozen=True)
class Need:
    """The bytes that a model, given by its structure, needs on its device; see the module's docstring."""

    lm: LM
    dtype: str

    @cached_property
    def sizes(self) -> tuple[int, int, int, int]:
        """L, d, f, V."""
        module = self.lm.module(self.lm.mlp_out(0))
        d, f = orient(module, module.get_parameter("weight")).shape
        return self.lm.n_layers, d, f, int(self.lm.model.config.vocab_size)

    @property
    def model(self) -> int:
        return sum(p.numel() for p in self.lm.model.parameters()) * BYTES[self.dtype]

    @property
    def block(self) -> int:
        _, d, f, _ = self.sizes
        return (9 * d + 4 * f) * BYTES[self.dtype]

    @property
    def cache(self) -> int:
        layers, d, _, _ = self.sizes
        return 2 * layers * d * BYTES[self.dtype]

    @property
    def logits(self) -> int:
        return (BYTES[self.dtype] + 12) * self.sizes[3]

    def of(self, method: str) -> int:
        """Bytes on the device at the peak of one of METHODS, with the settings of hparams/."""
        layers, d, f, _ = self.sizes
        if method == "scoring":
            return self.model + SCORED * (self.cache + (4 * d + 3 * f) * BYTES[self.dtype])
        if method == "KN":
            copies = max(self._settings("KN").batch_size, TOGETHER["cuda"] // TOKENS)
            row = 2 * TOKENS * self.cache + layers * self.block + self.logits
            return self.model + copies * row + 8 * layers * f
        return self.model + (self._mend(method) if method.startswith("MEND") else self._optimised(method))

    @property
    def host(self) -> int:
        """Bytes of ordinary memory for MEMIT's second moments while the last of them is factorised."""
        return (len(self._settings("MEMIT").layers) + 1) * self.sizes[2] ** 2 * 8

    def _optimised(self, method: str) -> int:
        """What ROME and MEMIT need beside the model."""
        layers, d, f, _ = self.sizes
        hp = self._settings(method.removesuffix(" x1"))
        edits = 1 if method.endswith(" x1") else getattr(hp, "edit_batch", 1)
        rows = 2 + sum(max(1, number // 5) * 5 for _, number in hp.context_template_length_params)
        kept = edits * rows * TOKENS * ((layers - hp.layers[-1]) * self.block + self.cache)
        return kept + edits * (rows * ANSWER + 1) * self.logits + changes([d * f] * len(hp.layers))

    def _mend(self, method: str) -> int:
        """What MEND needs beside the model."""
        training = method == "MEND train"
        hp = self._settings("TRAINING/MEND" if training else "MEND")
        shapes = shapes_of(self.lm, hp.inner_params)
        with torch.device("meta"):
            network = 4 * sum(p.numel() for p in Network(shapes, hp).parameters())
        lowest = min(layer for name in shapes if (layer := layer_of(self.lm, name)) is not None)
        kept, edits = TOKENS * (self.sizes[0] - lowest) * self.block, hp.accumulate_bs * hp.batch_size
        if training:
            rows = TOKENS * sum(24 * (a + b) for a, b in shapes.values())
            return 4 * network + edits * (2 * kept + 3 * ANSWER * self.logits + rows)
        return network + kept + ANSWER * self.logits + changes([a * b for a, b in shapes.values()])

    def _settings(self, method: str) -> Any:
        kind = discover("editors", "EDITOR")[method.split("/")[-1]].hparams
        return hparams.load(kind, folders.HPARAMS / method / f"{self.lm.name}.yaml")


def changes(entries: list[int]) -> int:
    """Bytes of updates of so many entries each in float32, and of what adding the largest takes."""
    return 4 * sum(entries) + 12 * max(entries)


def table() -> Iterator[str]:
    """The table of docs/speed.md, in GB of 10^9 bytes."""
    yield f"| model | dtype | {' | '.join(METHODS)} | MEMIT, ordinary memory |"
    yield "|---" * (3 + len(METHODS)) + "|"
    for name in CONFIGS:
        lm = skeleton(name)
        for dtype in BYTES:
            need = Need(lm, dtype)
            cells = [f"{need.of(method) / 1e9:.1f}" for method in METHODS]
            yield f"| {name} | {dtype} | {' | '.join(cells)} | {need.host / 1e9:.1f} |"


if __name__ == "__main__":
    printed(table, flagless="memory")
