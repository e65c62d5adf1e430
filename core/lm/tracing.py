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

from core.lm.forward import resume
from core.lm.generate import in_batches
from core.lm.hooks import replaced, trace
from core.lm.model import LM
from core.lm.tokens import Padded, Row, encode, in_template, pad, split_prompt, target_ids
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
        return self.prompt + self.answer[:-1]


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
        asking = _Batch(lm, batch)
        said, chance = asking.read(_run(lm, asking.tokens))
        return list(zip((said == 1).tolist(), chance.tolist(), strict=True))

    return in_batches(facts, work, lm, lambda fact: len(fact.row), BUDGET)


@torch.no_grad()
def traced(lm: LM, facts: Sequence[Fact], plan: Plan) -> list[Traced]:
    """The three runs of every fact. Independent of how facts are batched, up to rounding."""

    def work(batch: list[Fact]) -> list[Traced]:
        return _Batch(lm, batch).trace(plan)

    return in_batches(facts, work, lm, lambda fact: plan.samples * len(fact.row), BUDGET)


class _Batch:
    """Facts in one rectangle, every subject's last token in the same column."""

    def __init__(self, lm: LM, facts: Sequence[Fact]) -> None:
        self.lm, self.facts = lm, facts
        self.column = max(fact.last for fact in facts)
        self.tokens = pad(lm, [fact.row for fact in facts], [fact.last for fact in facts])

    def trace(self, plan: Plan) -> list[Traced]:
        lm, each = self.lm, plan.samples
        paths = [lm.mlp(layer) for layer in range(lm.n_layers)]
        with trace(lm.model, *paths) as seen:
            _, clean = self.read(_run(lm, self.tokens))
        written = [seen[path].output[:, self.column].repeat_interleave(each, 0) for path in paths]  # (rows, d) each
        many = self.tokens.rows(torch.arange(len(self.facts)).repeat_interleave(each))
        shift = self._shift(plan, many.ids.shape[1]).to(lm.device)
        with replaced(lm.model, lm.embeddings.removesuffix(".weight"), lambda out: out + shift.to(out)):
            points, seen = resume(lm, many, range(lm.n_layers), self.column, lm.paths.final_norm)
        _, corrupted = self.read(seen[lm.paths.final_norm].output, each)
        restored = []
        for layer in range(lm.n_layers):
            window = plan.around(layer, lm.n_layers)
            with ExitStack() as stack:
                for at in window:
                    stack.enter_context(replaced(lm.model, paths[at], _starting_with(written[at])))
                restored.append(self.read(points[window.start].run(), each, self.column)[1])
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

    def read(self, final: Tensor, each: int = 1, start: int = 0) -> tuple[Tensor, Tensor]:
        """Share of the answer's tokens that are the likeliest, and P(answer): (facts,) each, on the CPU.

        `final` are final hidden states (facts * each, columns, d) from column `start` on; means over a fact's rows.
        """
        reads = [
            (i * each + sample, self.column - fact.last + len(fact.prompt) - 1 + j - start, token)
            for i, fact in enumerate(self.facts)
            for sample in range(each)
            for j, token in enumerate(fact.answer)
        ]
        row, column, token = torch.tensor(reads, device=final.device).T
        logp = self.lm.logits(final[row, column]).to(final.device, torch.float32).log_softmax(-1)
        sums = torch.zeros(2, len(final), device=final.device)
        sums[0].index_add_(0, row, (logp.argmax(-1) == token).float())
        sums[1].index_add_(0, row, logp.gather(1, token.unsqueeze(1)).squeeze(1))
        lengths = torch.tensor([len(fact.answer) for fact in self.facts])
        said, chance = sums[0].view(-1, each).mean(1).cpu() / lengths, sums[1].exp().view(-1, each).mean(1).cpu()
        return said, chance


def _run(lm: LM, tokens: Padded) -> Tensor:
    final: Tensor = lm.model.base_model(
        tokens.ids, attention_mask=tokens.mask, position_ids=tokens.positions, use_cache=False
    ).last_hidden_state
    return final


def _starting_with(written: Tensor) -> Callable[[Tensor], Tensor]:
    """A change of an MLP's output in a resumed run, whose first column is the subject's last token."""

    def change(out: Tensor) -> Tensor:
        return torch.cat([written.to(out).unsqueeze(1), out[:, 1:]], 1)

    return change
