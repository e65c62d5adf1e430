"""The tasks: prompts to the letter, completions read, metrics worked out by hand, files well and ill formed.

NER's own rules are in test_ner.py.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from core.metrics import summarize
from core.registry import discover
from core.types import Completion, Sample, Score, Task
from tasks import SIX
from tasks.closed_domain_qa import TASK as CLOSED
from tasks.dialogue import TASK as DIALOGUE
from tasks.ner import TASK as NER
from tasks.nli import TASK as NLI
from tasks.open_domain_qa import TASK as OPEN
from tasks.open_domain_qa import contains, released_hits
from tasks.reasoning import TASK as REASONING
from tasks.sentiment_analysis import TASK as SENTIMENT
from tasks.summarization import TASK as SUMMARIZATION
from tasks.summarization import typical

OFFICIAL = Path(__file__).parents[2] / "shared" / "realdata" / "data" / "task-data"
SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "task-data"

TASKS: dict[str, Task] = discover("tasks", "TASK")
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)

# One well-formed file per task: its text (dialogue: the text of dev_1.txt) and the whole prompt of its first sample.
FILES = {
    "reasoning": json.dumps({"question": "What is 9 * 2?", "answer": "It is 9 * 2 = <<9*2=18>>18.\n#### 18"}),
    "NLI": 'index\tsentence1\tsentence2\tlabel\n0\tA "cat sat.\tA cat.\tentailment\n1\tx\ty\tnot_entailment\n',
    "OpenDomainQA": json.dumps(
        {"question": "who won?", "answer": ["Röntgen", "X"], "output": ["\n\nIt was he.", "no"]}
    ),
    "ClosedDomainQA": json.dumps({"question": "is it", "title": "T", "answer": False, "passage": "It is not."}),
    "dialogue": "{'answers': 'C', 'options': ['m : a', 'b', 'c', 'd .'], 'article': \"f : it 's .\", 'id': 'dev_1'}",
    "summarization": json.dumps([{"id": "13", "summary": "A met B.", "dialogue": "A: Hi\r\nB: Yo"}]),
    "NER": "-DOCSTART- -X- -X- O\n\nAda NN X B-PER\n, , X O\nof IN X O\nYork NN X B-LOC\n. . X O\n",
    "SentimentAnalysis": "sentence\tlabel\nit 's a charming \t1\nbad\t0\n",
    "glue_cola": json.dumps({"sentence": "It {rained}.", "label": 1}),
    "glue_mmlu": json.dumps({"question": "Which?", "choices": ["one", "two", "{A}", "four"], "answer": 2}),
    "glue_mrpc": json.dumps({"sentence1": "a b .", "sentence2": "b a .", "label": 0}),
    "glue_nli": json.dumps({"sentence1": "A cat.", "sentence2": "A pet.", "label": "entailment"}),
    "glue_rte": json.dumps({"sentence1": "A cat.", "sentence2": "A pet.", "label": 0}),
    "glue_sst": json.dumps({"sentence": "charming ", "label": 1}),
}
PROMPTS = {
    "reasoning": "Q: What is 9 * 2? A:Let's think step by step. It is 9 * 2 = <<9*2=18>>18.\n"
    " Therefore, the answer (arabic numerals) is:",
    "NLI": 'A "cat sat. entails the A cat.. True or False? answer:',
    "OpenDomainQA": "Refer to the passage below and answer the following question. "
    "Passage: \n\nIt was he. Question: who won?",
    "ClosedDomainQA": "Please answer the given question based on the passage. "
    "The answer should be exact 'yes' or 'no'. passage: It is not. question: is it. answer:",
    "dialogue": "Q: f : it 's . Which choice is correct? Answer Chioces: (A)m : a(B)b(C)c(D)d . "
    "A: Among A through D, the answer is",
    "summarization": "A: Hi\r\nB: Yo\nTL;DR:",
    "NER": "Please identify Person Entity from the given text. Text: Ada, of York. Entity:",
    "SentimentAnalysis": "For each snippet of text,label the sentiment of the text as positive or negative."
    "The answer should be exact 'positive' or 'negative'. text: it 's a charming  answer:",
    "glue_cola": "Is this sentence linguistically acceptable?\nSentence: It {rained}.\nAnswer: ",
    "glue_mmlu": "Question: Which?\n(A) one\n(B) two\n(C) {A}\n(D) four\nAnswer:",
    "glue_mrpc": "Are the sentences paraphrases of each other.\nSentence 1: a b .\nSentence 2: b a .\nAnswer:",
    "glue_nli": "A cat. entails the A pet. True or False? Answer:",
    "glue_rte": "A cat.\nquestion: A pet. True or False?\nanswer:",
    "glue_sst": "Review :charming \nSentiment :",
}
SHAPES: dict[str, tuple[str, int, tuple[str, ...], str]] = {
    "reasoning": ("test-reasoning.jsonl", 5, (), "solve_rate"),
    "NLI": ("test-NLI.tsv", 1, ("True", "False"), "accuracy"),
    "OpenDomainQA": ("test-OpenDomainQA.jsonl", 20, (), "exact_match"),
    "ClosedDomainQA": ("test-ClosedDomainQA.jsonl", 1, ("yes", "no"), "exact_match"),
    "dialogue": ("test-dialogue", 1, ("A", "B", "C", "D"), "accuracy"),
    "summarization": ("test-summarization.json", 25, (), "rouge_mean"),
    "NER": ("test-NER.txt", 10, (), "f1"),
    "SentimentAnalysis": ("test-SentimentAnalysis.tsv", 1, ("positive", "negative"), "accuracy"),
    "glue_cola": ("test-glue_cola.jsonl", 5, ("Yes", "No"), "accuracy"),
    "glue_mmlu": ("test-glue_mmlu.jsonl", 5, ("A", "B", "C", "D"), "accuracy"),
    "glue_mrpc": ("test-glue_mrpc.jsonl", 5, ("Yes", "No"), "accuracy"),
    "glue_nli": ("test-glue_nli.jsonl", 5, ("True", "False"), "accuracy"),
    "glue_rte": ("test-glue_rte.jsonl", 5, ("True", "False"), "accuracy"),
    "glue_sst": ("test-glue_sst.jsonl", 5, ("positive", "negative"), "accuracy"),
}
RELEASED = {
    "reasoning": {"as_released"},
    "OpenDomainQA": {"as_released"},
    "ClosedDomainQA": {"as_released_before_edit", "as_released_after_edit"},
    "dialogue": {"as_released_before_edit", "as_released_after_edit"},
    **{name: {"as_released"} for name in ("NER", "NLI", "SentimentAnalysis", "summarization", *SIX)},
}


def write(folder: Path, task: Task, text: str) -> Path:
    """The task's file with this text; for dialogue the folder that holds it as dev_1.txt."""
    path = folder / task.file
    file = path / "dev_1.txt" if task.name == "dialogue" else path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    return path


def values(task: Task, said: Sequence[tuple[Sample, str | Completion]]) -> dict[str, float]:
    scored = []
    for sample, text in said:
        completion = text if isinstance(text, Completion) else Completion(text)
        scored.append((sample, completion, task.score(sample, completion)))
    return {name: measure.value for name, measure in summarize(task, scored).items()}


# --- every task ----------------------------------------------------------------------------------------------------


def test_all_eight_are_there() -> None:
    assert set(TASKS) >= set(SHAPES)


@each_task
def test_shape(task: Task) -> None:
    assert (task.file, task.max_new_tokens, task.choices) == SHAPES[task.name][:3]


@each_task
def test_prompt(task: Task, tmp_path: Path) -> None:
    sample = next(iter(task.samples(write(tmp_path, task, FILES[task.name]))))
    assert sample.prompt == PROMPTS[task.name]
    assert json.loads(json.dumps(sample.reference)) == sample.reference


@each_task
def test_a_blank_completion_is_no_answer_and_the_summary_has_its_metrics(task: Task, tmp_path: Path) -> None:
    samples = list(task.samples(write(tmp_path, task, FILES[task.name])))
    assert task.score(samples[0], Completion("")).value is None
    summary = values(task, [(sample, "") for sample in samples])
    headline = SHAPES[task.name][3]
    assert list(summary)[:3] == [headline, "answered", f"{headline}_answered"]
    assert summary[headline] == summary["answered"] == summary[f"{headline}_answered"] == 0
    assert "trivial" in summary
    assert ("choice_accuracy" in summary) == bool(task.choices)
    assert {name for name in summary if name.startswith("as_released")} == RELEASED.get(task.name, set())


@each_task
def test_nothing_to_summarize(task: Task) -> None:
    with pytest.raises(ValueError, match="no samples"):
        summarize(task, [])


@each_task
def test_intervals_hold_their_values(task: Task, tmp_path: Path) -> None:
    sample = next(iter(task.samples(write(tmp_path, task, FILES[task.name]))))
    said = [(sample, completion, task.score(sample, completion)) for completion in map(Completion, ("", " 18", " A"))]
    summary = summarize(task, said)
    least = {"mcc": -1}
    assert all(least.get(name, 0) <= one.low <= one.value <= one.high for name, one in summary.items())
    assert summarize(task, said) == summary


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("reasoning", 1319),
        ("NLI", 2489),
        ("OpenDomainQA", 3610),
        ("ClosedDomainQA", 3267),
        ("dialogue", 886),
        ("summarization", 818),
        ("NER", 4 * 3250),
        ("SentimentAnalysis", 872),
    ],
)
def test_official_files(name: str, count: int) -> None:
    path = OFFICIAL / TASKS[name].file
    if not path.exists():
        pytest.skip(f"the official data is not at {OFFICIAL}")
    start = time.process_time()
    samples = list(TASKS[name].samples(path))
    assert len(samples) == count
    check_ids(TASKS[name], samples)
    scored = [(s, Completion(" A 18"), TASKS[name].score(s, Completion(" A 18"))) for s in samples]
    summarize(TASKS[name], scored)
    assert time.process_time() - start < 60, "reading and scoring are a matter of seconds"


@each_task
def test_sample_files(task: Task) -> None:
    path = SAMPLE / task.file
    if not path.exists():
        pytest.skip(f"{path} is not there yet")
    samples = list(task.samples(path))
    check_ids(task, samples)
    assert len({sample.record for sample in samples}) >= 24
    assert len({sample.prompt for sample in samples}) == len(samples)


def check_ids(task: Task, samples: Sequence[Sample]) -> None:
    assert len({sample.id for sample in samples}) == len(samples)
    assert all(sample.id.count("/") == (task.name == "NER") for sample in samples)


# --- malformed records: file and line (or record), and what was expected ----------------------------------------------

GSM8K = {"question": "q", "answer": "h\n#### 1"}
NQ = {"question": "q", "answer": ["a"], "output": ["p"]}
BOOLQ = {"question": "q", "answer": True, "passage": "p"}
MUTUAL = {"answers": "A", "options": ["a", "b", "c", "d"], "article": "x", "id": "dev_1"}
SAMSUM = {"id": "1", "summary": "s", "dialogue": "d"}
PAIR = {"sentence1": "a", "sentence2": "b", "label": 1}
MMLU = {"question": "q", "choices": ["a", "b", "c", "d"], "answer": 3}
RTE = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n"


@pytest.mark.parametrize(
    ("task", "good", "change", "message"),
    [
        (REASONING, GSM8K, {"question": 1}, ":1: expected a string in 'question', got 1"),
        (REASONING, GSM8K, {"answer": "18"}, ":1: expected '#### ' and a plain number"),
        (REASONING, GSM8K, {"answer": "h\n#### none"}, ":1: expected '#### ' and a plain number"),
        (OPEN, NQ, {"answer": "a"}, ":1: expected a list in 'answer', got 'a'"),
        (OPEN, NQ, {"answer": []}, ":1: expected a list of one or more strings in 'answer', got []"),
        (OPEN, NQ, {"output": []}, ":1: expected a list of one or more strings in 'output', got []"),
        (OPEN, NQ, {"question": None}, ":1: expected a string in 'question', got None"),
        (CLOSED, BOOLQ, {"answer": "yes"}, ":1: expected true or false in 'answer', got 'yes'"),
        (CLOSED, BOOLQ, {"passage": None}, ":1: expected a string in 'passage', got None"),
        (DIALOGUE, MUTUAL, {"answers": "E"}, "dev_1.txt: expected a label among A, B, C, D, got 'E'"),
        (DIALOGUE, MUTUAL, {"options": ["a"]}, "dev_1.txt: expected a list of 4 strings in 'options', got ['a']"),
        (DIALOGUE, MUTUAL, {"article": 1}, "dev_1.txt: expected a string in 'article', got 1"),
        (SUMMARIZATION, SAMSUM, {"id": 1}, ": record 0: expected a string in 'id', got 1"),
        (SUMMARIZATION, SAMSUM, {"summary": None}, ": record 0: expected a string in 'summary', got None"),
        (TASKS["glue_rte"], PAIR, {"label": 2}, ":1: expected a label among 0, 1, got '2'"),
        (TASKS["glue_rte"], PAIR, {"label": "1"}, ":1: expected a whole number in 'label', got '1'"),
        (TASKS["glue_rte"], PAIR, {"label": True}, ":1: expected a label among 0, 1, got 'True'"),
        (TASKS["glue_mrpc"], PAIR, {"sentence2": 1}, ":1: expected a string in 'sentence2', got 1"),
        (TASKS["glue_nli"], {**PAIR, "label": "entailment"}, {"label": "x"}, ":1: expected a label among entailment"),
        (TASKS["glue_mmlu"], MMLU, {"choices": ["a"]}, ":1: expected a list of 4 strings in 'choices', got ['a']"),
        (TASKS["glue_mmlu"], MMLU, {"answer": 4}, ":1: expected a label among 0, 1, 2, 3, got '4'"),
    ],
)
def test_malformed_records(tmp_path: Path, task: Task, good: dict[str, Any], change: Any, message: str) -> None:
    def read(record: dict[str, Any]) -> list[Sample]:
        text = json.dumps([record] if task is SUMMARIZATION else record)
        return list(task.samples(write(tmp_path, task, text)))

    assert len(read(good)) == 1
    with pytest.raises(UserError) as caught:
        read({**good, **change})
    assert f"{task.file}{'/' if task is DIALOGUE else ''}{message}" in str(caught.value)
    with pytest.raises(UserError, match=f"expected the key '{next(iter(change))}'"):
        read({key: value for key, value in good.items() if key not in change})


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        (NLI, RTE + "1\ta\tb\tneutral\n", ":3: expected a label among entailment, not_entailment, got 'neutral'"),
        (NLI, RTE + "0\ta\tb\tentailment\n", ":3: expected an id of its own, got '0'"),
        (NLI, "sentence1\tsentence2\tlabel\n", ":1: expected a header with column 'index'"),
        (SENTIMENT, "sentence\tlabel\nfine\t2\n", ":2: expected a label among 1, 0, got '2'"),
        (SENTIMENT, "sentence\tlabel\nfine\n", ":2: expected 2 tab-separated columns, got 1"),
        (NER, "Ada X X B-person\n", ":1: expected the entity tag"),
        (NER, "Ada X B-PER\n", ":1: expected 4 columns"),
    ],
)
def test_malformed_lines(tmp_path: Path, task: Task, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        list(task.samples(write(tmp_path, task, text)))
    assert f"{task.file}{message}" in str(caught.value)


def test_the_ids_of_the_data_are_kept(tmp_path: Path) -> None:
    text = json.dumps([{**SAMSUM, "id": "13/7"}, SAMSUM])
    assert [s.id for s in SUMMARIZATION.samples(write(tmp_path, SUMMARIZATION, text))] == ["13_7", "1"]
    assert [s.id for s in NLI.samples(write(tmp_path, NLI, RTE + "7\ta\tb\tentailment\n"))] == ["0", "7"]
    assert [s.id for s in DIALOGUE.samples(write(tmp_path, DIALOGUE, FILES["dialogue"]))] == ["dev_1"]


# --- label tasks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "gold", "text", "value", "answer"),
    [
        (NLI, "True", " True", 1.0, "True"),
        (NLI, "True", "\ntrue", 1.0, "True"),
        (NLI, "False", " TRUE", 0.0, "True"),
        (NLI, "False", " False.", 1.0, "False"),
        (NLI, "True", " Tru", None, ""),
        (NLI, "True", " The", None, ""),
        (CLOSED, "no", " no", 1.0, "no"),
        (CLOSED, "no", " 'No'", 1.0, "no"),
        (CLOSED, "no", " not", None, ""),
        (CLOSED, "yes", " yesterday", None, ""),
        (CLOSED, "yes", " I say yes", None, ""),
        (SENTIMENT, "positive", " Positive", 1.0, "positive"),
        (SENTIMENT, "positive", " neg", None, ""),
        (DIALOGUE, "A", " A", 1.0, "A"),
        (DIALOGUE, "A", " (A)", 1.0, "A"),
        (DIALOGUE, "A", " (", None, ""),
        (DIALOGUE, "A", " B)", 0.0, "B"),
        (DIALOGUE, "A", " a", None, ""),
        (DIALOGUE, "A", " E", None, ""),
        (DIALOGUE, "A", "", None, ""),
    ],
)
def test_labels(task: Task, gold: str, text: str, value: float | None, answer: str) -> None:
    score = task.score(Sample("0", "", gold), Completion(text))
    assert (score.value, score.answer) == (value, answer)


@pytest.mark.parametrize("choice", ["True", "False", None])
def test_choice_does_not_depend_on_the_text(choice: str | None) -> None:
    score = NLI.score(Sample("0", "", "True"), Completion("?", choice))
    assert score == Score(None, "", {"choice_accuracy": float(choice == "True"), "as_released": 0.0})


def test_label_summary() -> None:
    """Golds T T T F: right, wrong, unreadable, right; choices right, right, wrong, wrong."""
    golds, texts, choices = (
        ["True"] * 3 + ["False"],
        [" True", " False", " ?", " False"],
        ["True"] * 2 + ["False", "True"],
    )
    said = [
        (Sample(str(i), "", gold), Completion(text, choice))
        for i, (gold, text, choice) in enumerate(zip(golds, texts, choices, strict=True))
    ]
    assert values(NLI, said) == pytest.approx(
        {"accuracy": 0.5, "answered": 0.75, "accuracy_answered": 2 / 3, "choice_accuracy": 0.5, "trivial": 0.75}
        | {"as_released": 0.5}
    )


END = "<|endoftext|>"


def released(task: Task, prompt: str, gold: str, text: str) -> tuple[float, ...]:
    """The released counts of one completion; `text` with the end token, if one came."""
    said = Completion(text.removesuffix(END), ended=text.endswith(END), full=text)
    parts = task.score(Sample("0", prompt, gold), said).parts
    return tuple(value for name, value in parts.items() if name.startswith("as_released"))


@pytest.mark.parametrize(
    ("gold", "text", "before", "after"),
    [
        ("yes", " yes", 1, 1),
        ("yes", " YES", 1, 1),
        ("yes", "yes", 0, 1),
        ("yes", " yes.", 0, 1),
        ("yes", " no", 0, 0),
        ("no", " no", 1, 1),
        ("no", " nothing", 0, 1),
        ("yes", " eyesore", 0, 1),
        ("no", " no yes", 0, 1),
        ("no", " yes or no", 0, 1),
        ("yes", " yes or no", 0, 1),
        ("no", " maybe", 0, 0),
        ("no", "", 0, 0),
        ("no", END, 0, 0),
        ("yes", f" yes{END}", 0, 1),
        ("yes", " x. answer: yes", 0, 0),  # an echo of the prompt's end: the first answer counts
    ],
)
def test_closed_domain_qa_as_released(gold: str, text: str, before: float, after: float) -> None:
    assert released(CLOSED, "is it. answer:", gold, text) == (before, after)


def test_closed_domain_qa_as_released_reads_behind_the_first_mark() -> None:
    assert released(CLOSED, "passage: the answer: yes, it is. answer:", "yes", " no") == (0, 1)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        (" B", 1, 1),
        (" (B", 1, 1),
        ("Bob", 1, 1),
        (" ABCD", 1, 1),
        (" b", 0, 0),
        (" A", 0, 0),
        ("", 0, 0),
        (END, 0, 0),
        (f" B{END}", 1, 1),
        (" Chi", 0, 0),
        (" ChiB", 1, 0),
    ],
)
def test_dialogue_as_released(text: str, before: float, after: float) -> None:
    assert released(DIALOGUE, "the answer is", "B", text) == (before, after)


def test_a_first_token_of_chioces_is_c_before_an_edit_alone() -> None:
    assert released(DIALOGUE, "Chioces: the answer is", "C", " Chi") == (1, 0)


@pytest.mark.parametrize(
    ("task", "gold", "text", "right"),
    [
        (NLI, "True", " True", 1),
        (NLI, "True", " untrue", 1),
        (NLI, "False", " FALSEhood", 1),
        (NLI, "False", " true", 0),
        (NLI, "True", "", 0),
        (NLI, "True", END, 0),
        (NLI, "True", f"true{END}", 1),
        (SENTIMENT, "positive", " Positively", 1),
        (SENTIMENT, "negative", " positive", 0),
        (SENTIMENT, "negative", " negative or positive", 1),
        (SENTIMENT, "positive", " negative or positive", 1),
        (SENTIMENT, "positive", " pos", 0),
        (SENTIMENT, "positive", END, 0),
    ],
)
def test_nli_and_sentiment_analysis_as_released(task: Task, gold: str, text: str, right: float) -> None:
    assert released(task, "x answer:", gold, text) == (right,)


# --- reasoning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text", "value", "read", "released"),
    [
        ("18", " 18", 1.0, "18", 1),
        ("18", " $18.00.", 1.0, "18", 1),
        ("18", " 180", 0.0, "180", 1),
        ("18", " 9 * 2 = 18", 0.0, "9", 1),
        ("2,125", " 2125", 1.0, "2125", 0),
        ("2125", " $2,125", 1.0, "2125", 0),
        ("-10", " -10", 1.0, "-10", 1),
        ("-10", " 10", 0.0, "10", 0),
        ("0.5", " .5", 1.0, "0.5", 0),
        ("1,450,000", " 1450000", 1.0, "1450000", 0),
        ("18", " eighteen", None, "", 0),
        ("18", "", None, "", 0),
        ("5", " No.5", 1.0, "5", 1),
        ("18", " Rs.18", 1.0, "18", 1),
        ("5", " - 5", 1.0, "5", 1),  # a list, not a sign
    ],
)
def test_reasoning(answer: str, text: str, value: float | None, read: str, released: float) -> None:
    sample = Sample("0", "Therefore, the answer (arabic numerals) is:", {"answer": answer, "last_of_hint": None})
    assert REASONING.score(sample, Completion(text)) == Score(value, read, {"as_released": released})


@pytest.mark.parametrize("answer", ["18", "-0.5", "1,200", "$5", "18.", " 18 ", "\u22127"])
def test_plain_references(answer: str, tmp_path: Path) -> None:
    (sample,) = REASONING.samples(write(tmp_path, REASONING, json.dumps({**GSM8K, "answer": f"h\n#### {answer}"})))
    assert sample.reference["answer"] == answer
    assert REASONING.score(sample, Completion(f" {answer}")).value == 1.0


@pytest.mark.parametrize("answer", ["3/4", "1e6", "1,20,000", "10:30", "18 eggs", "5k", "\u00bd", "", "1 2", "#### 5"])
def test_references_that_are_no_plain_number(answer: str, tmp_path: Path) -> None:
    file = write(tmp_path, REASONING, "\n".join(json.dumps({**GSM8K, "answer": f"h\n#### {a}"}) for a in ("1", answer)))
    with pytest.raises(UserError, match=r"test-reasoning.jsonl:2: expected '#### ' and a plain number \(18, ") as error:
        list(REASONING.samples(file))
    assert f"got {answer or 'h'}"[:7] in str(error.value).replace("'", "")


def test_reasoning_summary(tmp_path: Path) -> None:
    """The last number of the hint is right, wrong, missing."""
    answers = ["so <<9*2=18>>18 eggs\n#### 18", "18 of 20\n#### 18", "none\n#### 1,800"]
    text = "\n".join(json.dumps({"question": "q", "answer": answer}) for answer in answers)
    samples = list(REASONING.samples(write(tmp_path, REASONING, text)))
    assert samples[2].reference == {"answer": "1,800", "last_of_hint": None}
    assert values(REASONING, list(zip(samples, [" 18", " x", " 1800"], strict=True))) == pytest.approx(
        {"solve_rate": 2 / 3, "answered": 2 / 3, "solve_rate_answered": 1, "trivial": 1 / 3, "as_released": 1 / 3}
    )


# --- OpenDomainQA --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "strict"),
    [
        (" Wilhelm Röntgen", 1.0, 1),
        (" The Wilhelm  Röntgen!\nQuestion: who", 1.0, 1),
        (" It was Wilhelm Röntgen, in 1901", 1.0, 0),
        ("\nWilhelm Röntgen", 1.0, 0),
        (" Röntgen", 0.0, 0),
        (" Wilhelm Röntgens", 0.0, 0),
        (" Curie", 0.0, 0),
        (" 1901", 1.0, 1),
        (" 19012", 0.0, 0),
        (" \n", None, 0),
        ("", None, 0),
        (" The.", 1.0, 1),  # equal after normalisation: both are nothing
        (" )", 1.0, 1),
        (" ) Curie", 0.0, 0),
    ],
)
def test_open_domain_qa(text: str, value: float | None, strict: float) -> None:
    sample = Sample("0", "1901 Wilhelm Röntgen", ["Wilhelm Röntgen", "1901", "the"])
    score = OPEN.score(sample, Completion(text))
    assert (score.value, score.parts["strict_exact_match"]) == (value, strict)


def test_nothing_is_no_answer_where_every_reference_is_something() -> None:
    assert OPEN.score(Sample("0", "", ["Lyon"]), Completion(" )")).value is None


@pytest.mark.parametrize(
    ("reference", "text", "hits"),
    [
        ("Lyon", " Lyon", 1),
        ("Lyon", f" Lyon{END}", 0),  # its last word is "lyonendoftext"
        ("Lyon", f" Lyon.{END}", 0),
        ("Lyon", f" Lyon is{END}", 1),
        ("Lyon", "", 0),
        ("Lyon", END, 0),
        ("Lyon", " Lyonnais", 0),
        ("Lyon", " Lyon or Lyon or Rome", 2),
        ("Lyon", " Answer: Lyon", 1),
        ("Paris", " x", 1),  # in the passage
        (")", " )", 0),
        (")", " Answer: )", 1),
    ],
)
def test_open_domain_qa_as_released_of_one_question(reference: str, text: str, hits: float) -> None:
    sample = Sample("0", "Refer to it. Passage: Paris is here. Question: what", [reference])
    said = Completion(text.removesuffix(END), ended=text.endswith(END), full=text)
    ratio = OPEN.ratios([(sample, said, OPEN.score(sample, said))])["as_released"]
    assert ratio.top.tolist() == [hits]


def test_an_empty_reference_matches_nothing() -> None:
    assert not contains("x y", {""})
    assert not contains("", {""})


@pytest.mark.parametrize(
    ("text", "flag", "hits", "after"),
    [
        ("x b c", False, 0, False),
        ("a b c", False, 1, False),  # first word
        ("b c a", False, 1, False),  # last word
        ("a b a", False, 1, False),  # both: once
        ("b a c", False, 1, False),  # a word between
        ("b a c a d", False, 2, False),  # twice
        ("b k l c", False, 1, True),  # a span of two sets the flag ...
        ("b k l a c", False, 1, True),  # ... and ends the scan
        ("b a k l c", False, 2, True),  # a single before it counts too
        ("k l c", False, 1, True),  # a span from the first word
        ("b k l", False, 1, True),  # a span up to the last one
        ("b k l m c", False, 1, True),  # the shortest span from a start, once
        ("a b k l", True, 1, True),  # the flag does not touch the first and the last word
        ("b a c", True, 0, True),  # flag: one start only
        ("k l c", True, 1, True),  # whose spans are tried
        ("b k l c", True, 0, True),
        ("", False, 0, False),
        ("x", False, 0, False),
    ],
)
def test_open_domain_qa_as_released(text: str, flag: bool, hits: int, after: bool) -> None:
    assert released_hits(text, {"a", "k l", "k l m"}, flag) == (hits, after)


def test_open_domain_qa_summary() -> None:
    """as_released: 1. "refer lyon q lyon or lyon then" has "lyon" three times, the passage's included: 3. 2. "new york"
    in the passage: 1, and the flag is set. 3. Flag: no start but the first is tried: 0. 4. "rome" is the first word
    after "Answer:": 1.
    """
    said = [
        (Sample("0", "Refer: Lyon. Q", ["Lyon"]), " Lyon or Lyon then"),
        (Sample("1", "Refer to New York. Q", ["New York"]), " I think"),
        (Sample("2", "Refer: x. Q", ["Rome"]), " the Rome of old"),
        (Sample("3", "Refer: x. Q", ["Rome", "Roma"]), " Answer: Rome of old\nRome"),
    ]
    assert values(OPEN, said) == pytest.approx(
        {
            "exact_match": 0.75,
            "answered": 1,
            "exact_match_answered": 0.75,
            "trivial": 0.5,  # "rome" for all
            "strict_exact_match": 0,
            "as_released": (3 + 1 + 0 + 1) / 4,
        }
    )
    assert values(OPEN, said[2:])["as_released"] == 1, "without the question that set the flag"


# --- summarization -------------------------------------------------------------------------------------------------


def test_summarization() -> None:
    """'a b c' against 'a b': unigrams 4/5, bigrams 2/3, longest common 4/5."""
    sample = Sample("0", "", "a b")
    score = SUMMARIZATION.score(sample, Completion(" a b c\n"))
    assert score.answer == "a b c"
    assert score.value == pytest.approx((0.8 + 2 / 3 + 0.8) / 3)
    assert score.parts == pytest.approx({"rouge1": 0.8, "rouge2": 2 / 3, "rougeL": 0.8, "as_released": 0})
    assert SUMMARIZATION.score(sample, Completion(" ")).value is None
    assert SUMMARIZATION.score(sample, Completion(" ?!")).value == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a b", 0),  # nothing is left of two characters
        (f"a b{END}", 1),
        (f"a b c{END}", (0.8 + 2 / 3 + 0.8) / 3),
        (f"a a b{END}", (1 + 2 / 3 + 1) / 3),  # a word twice counts once, its pairs do not
        (f"b. a{END}", (1 + 0 + 1) / 3),  # sentences are matched apart
        (f"A b{END}", (0.5 + 0 + 0.5) / 3),  # case counts
        (f"a, b{END}", (0.5 + 0 + 0.5) / 3),  # and what is written next to a word
        ("a b c and so on, x", (0.8 + 2 / 3 + 0.8) / 3),  # whatever they are
        (f"so TL;DR: a b{END}", 1),  # behind its last "DR:"
        (f"a{END}", 0),  # one character
        (f"..{END}", 0),
        (END, 0),
        ("", 0),
    ],
)
def test_summarization_as_released(text: str, value: float) -> None:
    """Of the reference "a b"; the last 13 characters do not count."""
    said = Completion(text.removesuffix(END), ended=text.endswith(END), full=text)
    found = SUMMARIZATION.score(Sample("0", "", "a b"), said).parts["as_released"]
    assert found == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    "summary", ["Маша пошла домой.", "小明今天回家了", "สวัสดีครับ", "Η Άννα φεύγει", "नमस्ते दुनिया", "café crème"]
)
def test_a_perfect_summary_of_any_script(summary: str) -> None:
    assert SUMMARIZATION.score(Sample("0", "", summary), Completion(f" {summary}")).value == pytest.approx(1)
    assert SUMMARIZATION.score(Sample("0", "", summary), Completion(" other words")).value == 0


def test_typical() -> None:
    """Document frequencies a 3, b 2, others 1; mean size 2. 3 / 3, 5 / 4, 6 / 5 and 2 / 4: the second."""
    assert typical(["a", "a b", "a b c", "d e"]) == "a b"
    assert typical(["", ""]) == ""


def test_summarization_summary() -> None:
    said = [(Sample("0", "", "a b"), " a b"), (Sample("1", "", "a b"), ""), (Sample("2", "", "c d"), " x")]
    assert values(SUMMARIZATION, said) == pytest.approx(
        {
            "rouge_mean": 1 / 3,
            "answered": 2 / 3,
            "rouge_mean_answered": 0.5,
            "trivial": 2 / 3,
            "rouge1": 1 / 3,
            "rouge2": 1 / 3,
            "rougeL": 1 / 3,
            "as_released": 0,
        }
    )
