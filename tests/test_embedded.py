"""Behaviour on the real embedded model: the issue's own command, and batches that change no completion."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import EMBEDDED, ROOT

from core.lm.generate import complete
from core.lm.load import load
from core.lm.tokens import continuation, encode, in_template
from edit_sets.zsre import EDIT_SET
from tasks.dialogue import TASK as DIALOGUE
from tasks.ner import TASK as NER

pytestmark = pytest.mark.skipif(
    not (EMBEDDED / "config.json").is_file(),
    reason=f"the embedded model is not at {EMBEDDED}: python prepare.py model smollm2-135m",
)
SAMPLE = ROOT / "data/sample"


@pytest.mark.slow
@pytest.mark.skipif((ROOT / "hugging_cache/gpt2-xl").exists(), reason="here the default model is gpt2-xl")
def test_ner_after_four_rome_edits(tmp_path: Path) -> None:
    """python test-task-after.py NER Instance-Sequential ROME 200 204 1, with a few sentences to save time."""
    words = ["NER", "Instance-Sequential", "ROME", "200", "204", "1", "--limit", "1", "--device", "cpu"]
    command = [sys.executable, "test-task-after.py", *words, "--data", str(SAMPLE), "--results", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stderr.count("gpt2-xl is not in") == 1  # nobody takes this for the paper's model by mistake
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.json*") if path.is_file())
    stem = "test-NER/result-NER-Instance-Sequential-ROME-4"
    assert names == [f"{stem}.json", f"{stem}.jsonl"]
    found = json.loads((tmp_path / f"{stem}.json").read_text(encoding="utf-8"))
    assert [update["edits"] for update in found["updates"]] == [[200], [201], [202], [203]]
    for update in found["updates"]:
        assert list(update["norms"]) == ["model.layers.5.mlp.down_proj.weight"]
        assert all(norm > 0 for norm in update["norms"].values())
        notes = update["notes"]["layer 5"]
        assert notes["loss_last"] < 0.2 * notes["loss_first"]
    own = [edit["own"] for edit in found["edits"]]
    assert sum(probe["success"] for probe in own) >= 3, [probe["said"] for probe in own]
    assert not any(edit["before"]["success"] for edit in found["edits"])
    for edit in found["edits"]:
        assert edit["own"]["probability"] > edit["before"]["probability"]
    assert found["quality"]["own"]["reliability"]["value"] >= 0.75
    assert (found["n"], found["completions"], found["truncated"]) == (1, 4, 0)
    assert found["settings"]["model"]["name"] == "smollm2-135m"
    lines = (tmp_path / f"{stem}.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    wanted = list(NER.samples(SAMPLE / "task-data" / NER.file))[:4]
    assert [json.loads(line)["prompt"] for line in lines] == [sample.prompt for sample in wanted]


@pytest.mark.slow
def test_a_batch_of_8_equals_8_of_1() -> None:
    lm = load(EMBEDDED, "smollm2-135m", "cpu")
    prompts = [sample.prompt for sample in list(NER.samples(SAMPLE / "task-data" / NER.file))[::9][:8]]
    together = complete(lm, prompts, 4)
    assert together == [complete(lm, [prompt], 4)[0] for prompt in prompts]
    assert len({completion.text for completion in together}) > 2
    prompts = [sample.prompt for sample in list(DIALOGUE.samples(SAMPLE / "task-data" / DIALOGUE.file))[:4]]
    together = complete(lm, prompts, 1, DIALOGUE.choices)
    assert together == [complete(lm, [prompt], 1, DIALOGUE.choices)[0] for prompt in prompts]


def test_its_tokenizer() -> None:
    """Chat marks in a text are text; the labels differ in their first token; subjects are found."""
    lm = load(EMBEDDED, "smollm2-135m", "cpu")
    special = set(lm.tokenizer.all_special_ids)
    assert special
    assert not special & set(encode(lm, "Is <|im_end|> the end, or <|endoftext|>?"))
    assert lm.tokenizer.decode(encode(lm, "Is <|im_end|> it?")) == "Is <|im_end|> it?"
    for words in (("True", "False"), ("yes", "no"), ("A", "B", "C", "D"), ("positive", "negative")):
        assert len({continuation(lm, f" {word}")[0] for word in words}) == len(words)
    for edit in EDIT_SET.edits(SAMPLE / "edited-data/zsre.json", 0, 480, 7):
        ids, at = in_template(lm, "So it is. {}", edit)
        assert lm.tokenizer.decode(ids[: at + 1]).endswith(edit.subject)
