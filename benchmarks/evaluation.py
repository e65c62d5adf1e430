"""Samples per second on the one-token tasks: ours, a plain batch-1 `generate`, and the released way.

And how near ours comes to the machine on each of the tasks.
"""

from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks._common import embedded, printed, prompts, seconds, versus
from benchmarks._flops import share
from core import folders
from core.lm.generate import complete
from core.lm.model import LM
from core.lm.tokens import encode
from core.registry import discover
from core.types import Task
from inputs.embedded import EMBEDDED_MODEL

GPT2_CONTEXT = 1024
"""The released code pads every prompt to the model's context: this for its default, gpt2-xl."""


def run() -> Iterator[str]:
    lm = embedded()
    tasks: list[Task] = [task for task in discover("tasks", "TASK").values() if task.max_new_tokens == 1]
    asked = [(task, prompts(task)) for task in tasks]
    count = sum(len(texts) for _, texts in asked)

    def ours() -> None:
        for task, texts in asked:
            complete(lm, texts, 1, task.choices)

    ours()  # warm
    fast, plain = versus(ours, lambda: [one_by_one(lm, text) for _, texts in asked for text in texts], rounds=3)
    rate = count / fast
    yield f"ours                    {rate:8.2f} samples/s ({count} samples of {', '.join(t.name for t in tasks)})"
    yield f"plain batch-1 generate  {count / plain:8.2f} samples/s   ours is {plain / fast:.2f}x (median of 3 rounds)"
    for context, texts in ((lm.context, asked[0][1][:2]), (GPT2_CONTEXT, [texts[0] for _, texts in asked])):
        pace = len(texts) / seconds(lambda some=texts, width=context: [as_released(text, width) for text in some])
        yield f"the released way        {pace:8.2f} samples/s   ours is {rate / pace:.0f}x (padded to {context})"
    for task in discover("tasks", "TASK").values():
        yield f"{task.name}: {reached(lm, task)}"


def reached(lm: LM, task: Task) -> str:
    asked = prompts(task)

    def ours(batch_tokens: int | None = None) -> None:
        complete(lm, asked, task.max_new_tokens, task.choices, batch_tokens)

    tokens = sum(len(encode(lm, prompt)) for prompt in asked) / len(asked)
    return f"prompts of {tokens:.0f} tokens, {share(ours, lambda: ours(1), rounds=1)}"


@torch.inference_mode()
def one_by_one(lm: LM, text: str) -> str:
    inputs = lm.tokenizer(text, return_tensors="pt")
    ids = lm.model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=lm.pad_id)
    answer: str = lm.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])
    return answer


@torch.no_grad()
def as_released(text: str, context: int) -> str:
    """One sample as the released code does it: load the model, pad to `context`, generate."""
    model = AutoModelForCausalLM.from_pretrained(folders.MODELS / EMBEDDED_MODEL)
    tokenizer = AutoTokenizer.from_pretrained(folders.MODELS / EMBEDDED_MODEL, padding_side="left")
    inputs = tokenizer(text, return_tensors="pt", padding="max_length", max_length=context)
    ids = model.generate(**inputs, max_new_tokens=1, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    answer: str = tokenizer.decode(ids[0, context:])
    return answer


if __name__ == "__main__":
    printed(run, flagless="evaluation")
