"""reasoning: the final number of a grade-school problem whose solution is in the prompt (GSM8K test).

Source: Cobbe et al. 2021 (GSM8K). Because the prompt holds the solution ("hint"), copying its last number scores high:
that is `trivial`.

Differs from the released code: the first number of the completion has to equal the reference number, which has to be a
plain one. as_released: the reference, as written, is a substring of the completion, so that 18 is found in 180 and
2,125 is not found in 2125.
"""

from collections.abc import Iterator
from pathlib import Path

from core import readers as files
from core.errors import UserError
from core.messages import short
from core.metrics import between, first_number, headline, mean, numbers, part, plain_number
from core.types import Completion, Ratio, Sample, Score, Scored

MARK = "#### "
CUE = "Therefore, the answer (arabic numerals) is:"


class Reasoning:
    name = "reasoning"
    file = "test-reasoning.jsonl"
    max_new_tokens = 5
    choices: tuple[str, ...] = ()

    def samples(self, data: Path) -> Iterator[Sample]:
        """`reference`: the final answer as written, and the last number of the hint (None if it has none)."""
        for index, (where, record) in enumerate(files.jsonl(data)):
            question = files.field(record, "question", str, where)
            hint, mark, answer = files.field(record, "answer", str, where).partition(MARK)
            if not mark or not plain_number(answer.strip().rstrip(".")):
                wanted = f"{MARK!r} and a plain number (18, -0.5, 1,200, $5)"
                raise UserError(f"{where}: expected {wanted} at the end of 'answer', got {short(answer or hint)}")
            prompt = f"Q: {question} A:Let's think step by step. {hint} {CUE}"
            last = next(reversed(numbers(hint)), None)
            yield Sample(str(index), prompt, {"answer": answer, "last_of_hint": last}, (answer.strip(),))

    def score(self, sample: Sample, completion: Completion) -> Score:
        answer = sample.reference["answer"]
        parts = {"as_released": float(answer in between(sample.prompt + completion.seen, CUE))}
        number = first_number(completion.text)
        if number is None:
            return Score(None, "", parts)
        return Score(float(number == first_number(answer)), f"{number:.15g}", parts)

    def ratios(self, scored: Scored) -> dict[str, Ratio]:
        references = [sample.reference for sample, _, _ in scored]
        return {
            **headline("solve_rate", scored),
            "trivial": mean(scored, (ref["last_of_hint"] == first_number(ref["answer"]) for ref in references)),
            "as_released": part(scored, "as_released"),
        }


TASK = Reasoning()
