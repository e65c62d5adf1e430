"""Causal tracing: which layer's MLPs carry a fact at its subject's last token?

Meng et al., *Locating and Editing Factual Associations in GPT* (NeurIPS 2022), section 2. Three runs per fact:

    clean        the model as it is                                                    P(answer)
    corrupted    noise N(0, nu^2) added to the embeddings of the subject's tokens      P*(answer)
    restored     corrupted, but the MLPs of a window of layers around l write at the
                 subject's last token what they write in the clean run                 P*_l(answer)

    indirect effect of layer l = P*_l - P*        total effect = P - P*        nu = 3 sigma

with sigma the standard deviation of the embeddings of the subjects' tokens. All are means over several draws of the
noise. A restored run differs from the corrupted one only from the window's first block up and from the subject's last
token on, so only that part is run (core/lm/forward.py).

Differs from the authors' code: the probability is that of the whole answer (there, of its first token); the window is
10 layers of 48 and grows with the model (there, 10 for all).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from core.lm.batches import in_batches
from core.lm.forward import final_states, resume
from core.lm.hooks import replaced, trace
from core.lm.model import LM
from core.lm.reads import Reads, joined
from core.lm.tokens import Row, encode, in_template, split_prompt, target_ids
from core.types import Edit

BUDGET = 1024
"""Tokens of a batch: few, as every layer's activations are kept, and each of an answer's tokens has all its logits."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A prompt and its answer as ids; the subject's tokens are `first` to `last` of the prompt, both inclusive."""

    prompt: Row
    answer: Row
    first: int
    last: int
    seed: int

    @property
    def row(self) -> Row:
        """All that is an input: the answer's last token is not."""
        return joined(self.prompt, self.answer)


@dataclass(frozen=True, slots=True)
class Plan:
    """How facts are traced: `samples` draws of noise of standard deviation `nu`, `window` layers restored together."""

    nu: float
    window: int
    samples: int = 10

    def around(self, layer: int, n_layers: int) -> range:
        """The window of a layer: as many below as above (one more, if even), cut off at the ends of the model."""
        return range(max(0, layer - self.window // 2), min(n_layers, layer + (self.window + 1) // 2))


@dataclass(frozen=True, slots=True)
class Traced:
    """One fact's P(answer): clean, corrupted, and with each layer's window restored, (layers,) float32."""

    clean: float
    corrupted: float
    restored: Tensor


def fact_of(lm: LM, edit: Edit) -> Fact:
    """The fact as it is before the edit: its prompt and its old answer."""
    prompt, last = in_template(lm, "{}", edit)
    before, _ = split_prompt(edit)
    first = min(len(encode(lm, before.rstrip())), last)  # the blank belongs to the subject's first token
    return Fact(prompt, target_ids(lm, edit.old), first, last, edit.index)


def plan_for(lm: LM, facts: Sequence[Fact]) -> Plan:
    """nu = 3 sigma over these facts; windows of 10 layers of 48, of one at least."""
    return Plan(3 * sigma(lm, facts), max(1, round(lm.n_layers * 10 / 48)))


@torch.no_grad()
def sigma(lm: LM, facts: Sequence[Fact]) -> float:
    """Standard deviation of the embeddings of the subjects' tokens, over tokens and features."""
    ids = [token for fact in facts for token in fact.prompt[fact.first : fact.last + 1]]
    return float(lm.model.get_input_embeddings()(torch.tensor([ids], device=lm.device)).float().std())


def draw(fact: Fact, plan: Plan, width: int) -> Tensor:
    """The noise of each sample on each of the subject's tokens, (samples, tokens, d): the same for every layer."""
    generator = torch.Generator().manual_seed(fact.seed)
    return plan.nu * torch.randn(plan.samples, fact.last - fact.first + 1, width, generator=generator)


@torch.no_grad()
def asked(lm: LM, facts: Sequence[Fact]) -> list[tuple[bool, float]]:
    """Per fact whether every token of the answer is the likeliest (so that greedy decoding says it), and P(answer)."""

    def work(batch: list[Fact]) -> list[tuple[bool, float]]:
        reads = _Batch(lm, batch).reads
        logp = reads.logp(lm, final_states(lm, reads.tokens))
        misses = reads.sums((logp.argmax(-1) != reads.token).float())
        return list(zip((misses == 0).tolist(), reads.sums(reads.wanted(logp)).exp().tolist(), strict=True))

    return in_batches(facts, work, lm, lambda fact: len(fact.row), BUDGET, what="known facts")


@torch.no_grad()
def traced(lm: LM, facts: Sequence[Fact], plan: Plan) -> list[Traced]:
    """The three runs of every fact. Independent of how facts are batched, up to rounding."""

    def work(batch: list[Fact]) -> list[Traced]:
        return _Batch(lm, batch).trace(plan)

    return in_batches(facts, work, lm, lambda fact: plan.samples * len(fact.row), BUDGET, what="tracing")


class _Batch:
    """Facts in one rectangle, every subject's last token in the same column."""

    def __init__(self, lm: LM, facts: Sequence[Fact]) -> None:
        self.lm, self.facts = lm, facts
        self.column = max(fact.last for fact in facts)
        rows, answers, last = zip(*((fact.row, fact.answer, fact.last) for fact in facts), strict=True)
        self.reads = Reads.of(lm, rows, answers, last)

    def trace(self, plan: Plan) -> list[Traced]:
        lm, each = self.lm, plan.samples
        paths = [lm.mlp(layer) for layer in range(lm.n_layers)]
        with trace(lm.model, *paths) as seen:
            clean = self._chances(self.reads, final_states(lm, self.reads.tokens))
        written = [seen[path].output[:, self.column].repeat_interleave(each, 0) for path in paths]  # (rows, d) each
        many = self.reads.rows(torch.arange(len(self.facts)).repeat_interleave(each))
        shift = self._shift(plan, many.tokens.ids.shape[1]).to(lm.device)
        with replaced(lm.model, lm.embeddings.removesuffix(".weight"), lambda out: out + shift.to(out)):
            points, seen = resume(lm, many.tokens, range(lm.n_layers), self.column, lm.paths.final_norm)
        corrupted = self._chances(many, seen[lm.paths.final_norm].output)
        restored = []
        for layer in range(lm.n_layers):
            window = plan.around(layer, lm.n_layers)
            with ExitStack() as stack:
                for at in window:
                    stack.enter_context(replaced(lm.model, paths[at], _starting_with(written[at])))
                restored.append(self._chances(many, points[window.start].run(), self.column))
        per_fact = torch.stack(restored, 1)  # (facts, layers)
        return [Traced(*values) for values in zip(clean.tolist(), corrupted.tolist(), per_fact, strict=True)]

    def _shift(self, plan: Plan, width: int) -> Tensor:
        """What is added to the embeddings: noise on the subjects' tokens, (facts * samples, width, d)."""
        features = self.lm.model.get_input_embeddings().weight.shape[1]
        shift = torch.zeros(len(self.facts), plan.samples, width, features)
        for i, fact in enumerate(self.facts):
            first = self.column - (fact.last - fact.first)
            shift[i, :, first : self.column + 1] = draw(fact, plan, features)
        return shift.flatten(0, 1)

    def _chances(self, reads: Reads, final: Tensor, start: int = 0) -> Tensor:
        """P(answer), the mean over each fact's rows, (facts,) on the CPU; `final` and `start` as for Reads.logp."""
        chances = reads.sums(reads.wanted(reads.logp(self.lm, final, start))).exp()  # (rows,)
        return chances.view(len(self.facts), -1).mean(1).cpu()


def _starting_with(written: Tensor) -> Callable[[Tensor], Tensor]:
    """A change of an MLP's output in a resumed run, whose first column is the subject's last token."""

    def change(out: Tensor) -> Tensor:
        return torch.cat([written.to(out).unsqueeze(1), out[:, 1:]], 1)

    return change
