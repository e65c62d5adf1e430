"""Our engine as a model of lm-evaluation-harness: `simple_evaluate(model=Engine(lm), ...)`.

Prompts are tokenised as the harness's own HFLM does it: blanks at a context's end belong to the continuation, an empty
context is the tokenizer's BOS (else its EOS), what is too long loses tokens on its left, a BOS too. Differs from HFLM:
a context is run once for all its continuations, and what all contexts start with once for all of them; an EOS that the
tokenizer puts behind every text is left out; text is greedy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from core.errors import UserError
from core.lm.batches import in_batches
from core.lm.begun import Begun
from core.lm.generate import until
from core.lm.likelihood import logp_behind, of_tokens
from core.lm.model import LM
from core.lm.pieces import NOTHING, Prefix, begin, shared_prefix
from core.lm.tokens import Row
from core.messages import short
from experiment.harness.member import GEN_TOKENS

Reply = tuple[float, bool]
"""Log p of a continuation in nats, and whether greedy decoding would say it."""


class Engine(TemplateLM):  # type: ignore[misc]
    """`batch_tokens` is as for `core.lm.generate.complete`; `prefix` is what the requests to come may start with."""

    def __init__(self, lm: LM, batch_tokens: int | None = None, prefix: Prefix = NOTHING) -> None:
        super().__init__()
        self.lm, self.batch_tokens, self.prefix = lm, batch_tokens, prefix
        self.tokenizer = lm.tokenizer

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> Row:
        """Ids of a text. Names of special tokens in it are those tokens, as the harness has it."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: Row = self.tokenizer.encode(string, **options)
        return ids if add_special_tokens is False else ids[: len(ids) - self.lm.tokens_behind]

    def row(self, request: Instance) -> tuple[Row, int]:
        """The ids of a request's text, and how many tokens of context it needs."""
        if request.request_type == "generate_until":
            row = self._prompt(request.args[0])
            return row, len(row) + self._new_tokens(request.args[1])
        row = self.tok_encode("".join(request.args))
        rolling = request.request_type == "loglikelihood_rolling"  # goes by windows: nothing is cut
        return row, min(len(row), self.lm.context) if rolling else len(row) - 1

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log p of each whole text, in windows of the model's context that share no token."""
        windows = [
            [
                make_disjoint_window(pair)
                for pair in get_rolling_token_windows(
                    self.tok_encode(request.args[0]), self.prefix_token_id, self.lm.context, 1
                )
            ]
            for request in requests
        ]
        replies = iter(self.replies([pair for pairs in windows for pair in pairs]))
        return [sum((next(replies)[0] for _ in pairs), 0.0) for pairs in windows]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What greedy decoding puts behind each context, up to the first stop string."""
        return [text for text, _ in self.texts(requests)]

    def _loglikelihood_tokens(self, requests: Sequence[tuple[tuple[str, str], Row, Row]], **kwargs: Any) -> list[Reply]:
        for (_, continuation), _, answer in requests:
            if len(answer) > self.lm.context:
                raise UserError(
                    f"{short(continuation)} is {len(answer)} tokens long, '{self.lm.name}' takes {self.lm.context}"
                )
        return self.replies([(context, answer) for _, context, answer in requests])

    @torch.inference_mode()
    def replies(self, pairs: Sequence[tuple[Row, Row]]) -> list[Reply]:
        """Log p of each answer behind its context, and whether it is the greedy one."""
        asked: dict[tuple[int, ...], dict[int, Row]] = {}
        for i, (context, answer) in enumerate(pairs):
            kept = (context + answer)[-(self.lm.context + 1) :]
            asked.setdefault(tuple(kept[: len(kept) - len(answer)]), {})[i] = answer
        contexts = [(list(context), answers) for context, answers in asked.items()]
        prefix = self._prefix([row for row, _ in contexts], max((len(answer) for _, answer in pairs), default=0))

        def work(batch: list[tuple[Row, dict[int, Row]]]) -> list[dict[int, Reply]]:
            begun = begin(self.lm, [row[prefix.length :] for row, _ in batch], prefix)
            return behind(begun, [answers for _, answers in batch])

        order = prefix.order([row for row, _ in contexts])
        found = in_batches(contexts, work, self.lm, _size, self.batch_tokens, what="likelihoods", order=order)
        replies = {i: reply for part in found for i, reply in part.items()}
        return [replies[i] for i in range(len(pairs))]

    @torch.inference_mode()
    def texts(self, requests: Sequence[Instance]) -> list[tuple[str, bool]]:
        """The texts of `generate_until`, and whether all logits up to their ends were finite."""
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(i)
        texts: dict[int, tuple[str, bool]] = {}
        for index in groups.values():
            prompts = [self._prompt(requests[i].args[0]) for i in index]
            texts |= zip(index, self._continued(prompts, requests[index[0]].args[1]), strict=True)
        return [texts[i] for i in range(len(requests))]

    def _continued(self, prompts: Sequence[Row], options: dict[str, Any]) -> list[tuple[str, bool]]:
        new = self._new_tokens(options)
        room = self.lm.context - new
        if room < 1:
            raise UserError(f"'{self.lm.name}' takes {self.lm.context} tokens in all, too few for {new} new ones")
        rows = [prompt[-room:] for prompt in prompts]
        stops = handle_stop_sequences(normalize_gen_kwargs(options)["until"], self.tokenizer.decode(self.eot_token_id))
        prefix, over = self._prefix(rows, new), self._over(stops)

        def work(batch: list[Row]) -> list[tuple[str, bool]]:
            begun = begin(self.lm, [row[prefix.length :] for row in batch], prefix)
            return [(_cut(self._decode(ids), stops), finite) for ids, finite in until(begun, new, over)]

        order = prefix.order(rows)
        return in_batches(rows, work, self.lm, lambda row: len(row) + new, self.batch_tokens, what="texts", order=order)

    def _over(self, stops: Sequence[str]) -> Callable[[Row], bool]:
        """Whether new ids hold a stop string by now, if those before the last did not."""
        tail = max((len(stop.encode()) for stop in stops), default=0) + 2  # a token is a byte of text or more

        def over(ids: Row) -> bool:
            text = self._decode(ids[-tail:])
            if _cut(text, stops) == text:
                return False
            text = self._decode(ids)  # at its start a text may be decoded otherwise
            return _cut(text, stops) != text

        return over

    def _decode(self, ids: Row) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _prompt(self, context: str) -> Row:
        return self.tok_encode(context) or [self.prefix_token_id]

    def _new_tokens(self, options: dict[str, Any]) -> int:
        return int(normalize_gen_kwargs(options, GEN_TOKENS)["max_gen_toks"])

    def _prefix(self, rows: Sequence[Row], new: int) -> Prefix:
        """What the rows share: the engine's prefix, if they all start with it."""
        ids = self.prefix.ids
        if ids and all(len(row) > len(ids) and row[: len(ids)] == ids for row in rows):
            return self.prefix
        return shared_prefix(self.lm, rows, new) if rows else NOTHING


def _size(asked: tuple[Row, dict[int, Row]]) -> int:
    """Tokens that are held at a time: those of the context, and again with each answer of several tokens."""
    context, answers = asked
    return len(context) + 1 + sum(len(context) + len(answer) for answer in answers.values() if len(answer) > 1)


def behind(begun: Begun, answers: Sequence[dict[int, Row]]) -> list[dict[int, Reply]]:
    """The replies of each row's answers."""
    asked = {i: (r, answer) for r, row in enumerate(answers) for i, answer in row.items()}
    replies: dict[int, Reply] = {}
    for at, logp in logp_behind(begun, {i: (r, answer[:-1]) for i, (r, answer) in asked.items()}):
        texts, best = {i: asked[i][1] for i in at}, logp.argmax(-1).tolist()
        for (i, answer), own in zip(texts.items(), of_tokens(logp, at, texts), strict=True):
            # An answer whose characters joined the context's last token has no tokens.
            greedy = all(best[j] == token for j, token in zip(at[i], answer, strict=False))
            replies[i] = float(own.sum()), greedy
        del logp  # before the next are made
    return [{i: replies[i] for i in row} for row in answers]


def _cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    for stop in filter(None, stops):
        text = text.partition(stop)[0]
    return text
