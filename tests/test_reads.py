"""core.lm.reads: log p of answers against a plain computation, a token at a time."""

import pytest
import torch
from conftest import tiny

from core.lm.forward import final_states, resume
from core.lm.model import LM
from core.lm.reads import Reads, joined
from core.lm.tokens import Row, encode, target_ids
from core.types import Edit


@pytest.fixture
def pairs(lm: LM, edits: list[Edit]) -> list[tuple[Row, Row]]:
    """Prompts and answers of one token and of several."""
    found = [(encode(lm, edit.prompt), target_ids(lm, edit.target)) for edit in edits]
    return [*found, (found[0][0], found[0][1][:1])]


@pytest.fixture
def reads(lm: LM, pairs: list[tuple[Row, Row]]) -> Reads:
    return Reads.of(lm, [joined(*pair) for pair in pairs], [answer for _, answer in pairs])


def plain(lm: LM, prompt: Row, answer: Row) -> list[float]:
    """Log p of each token, from whole unpadded prompts that grow by one token."""
    found = []
    for i, token in enumerate(answer):
        with torch.no_grad():
            logits = lm.model(torch.tensor([prompt + answer[:i]])).logits[0, -1]
        found.append(float(logits.log_softmax(-1)[token]))
    return found


def test_the_rectangle(lm: LM, pairs: list[tuple[Row, Row]], reads: Reads) -> None:
    """The last token of an answer is no input; read n says where the n-th is asked for, and sums are by row."""
    wanted = [plain(lm, *pair) for pair in pairs]
    logp = reads.logp(lm, final_states(lm, reads.tokens))
    assert logp.shape == (sum(map(len, wanted)), lm.model.config.vocab_size)
    assert reads.wanted(logp).tolist() == pytest.approx([value for row in wanted for value in row], rel=1e-4)
    assert reads.sums(reads.wanted(logp)).tolist() == pytest.approx([sum(row) for row in wanted], rel=1e-4)
    assert int(reads.tokens.mask.sum()) == sum(len(prompt) + len(answer) - 1 for prompt, answer in pairs)
    assert reads.token.tolist() == [token for _, answer in pairs for token in answer]


def test_rows_can_be_chosen_and_repeated(lm: LM, pairs: list[tuple[Row, Row]], reads: Reads) -> None:
    some = reads.rows(torch.tensor([3, 0, 0]))
    assert torch.equal(some.tokens.ids, reads.tokens.ids[[3, 0, 0]])
    assert some.token.tolist() == pairs[3][1] + 2 * pairs[0][1]
    sums = some.sums(some.wanted(some.logp(lm, final_states(lm, some.tokens)))).tolist()
    assert sums == pytest.approx([sum(plain(lm, *pairs[i])) for i in (3, 0, 0)], rel=1e-4)
    none = reads.rows(torch.tensor([], dtype=torch.long))
    assert len(none.token) == len(none.tokens.ids) == 0


def test_aligned_rows_read_from_a_column_on(lm: LM, pairs: list[tuple[Row, Row]]) -> None:
    """With a row that is only run: it has no reads, and a sum of 0."""
    rows, answers = [joined(*pair) for pair in pairs] + [pairs[0][0]], [answer for _, answer in pairs] + [[]]
    reads = Reads.of(lm, rows, answers, [2] * len(rows))
    points, _ = resume(lm, reads.tokens, range(1, 2), 2)
    sums = reads.sums(reads.wanted(reads.logp(lm, points[1].run(), start=2))).tolist()
    assert sums == pytest.approx([sum(plain(lm, *pair)) for pair in pairs] + [0.0], rel=1e-4)


def test_no_row_has_an_answer() -> None:
    lm = tiny("gpt2")
    reads = Reads.of(lm, [[1, 2], [3]], [[], []])
    assert reads.sums(reads.wanted(reads.logp(lm, final_states(lm, reads.tokens)))).tolist() == [0.0, 0.0]
