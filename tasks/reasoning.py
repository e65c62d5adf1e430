"""reasoning: the final number of a grade-school problem whose solution is in the prompt (GSM8K test).

Source: Cobbe et al. 2021 (GSM8K). Because the prompt holds the solution ("hint"), copying its last number scores high:
that is `trivial`.

Differs from the released code: the first number of the completion has to equal the reference number. as_released: the
reference, as written, is a substring of the completion, so that 18 is found in 180 and 2,125 is not found in 2125.
"""

from collections.abc import Iterator
from pathlib import Path

from core import readers as files
from core.errors import UserError
from core.metrics import first_number, headline, mean, numbers, part
from core.types import Completion, Ratio, Sample, Score, Scored

MARK = "#### "


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
            if not mark or first_number(answer) is None:
                raise UserError(f"{where}: expected {MARK!r} and a number at the end of 'answer'")
            prompt = f"Q: {question} A:Let's think step by step. {hint} Therefore, the answer (arabic numerals) is:"
            last = next(reversed(numbers(hint)), None)
            yield Sample(str(index), prompt, {"answer": answer.strip(), "last_of_hint": last})

    def score(self, sample: Sample, completion: Completion) -> Score:
        answer = sample.reference["answer"]
        parts = {"as_released": float(answer in completion.text)}
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
