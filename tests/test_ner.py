"""NER: from completions to spans, spans to tags, tags to seqeval's numbers, and the released count."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

from core.metrics import summarize
from core.types import Completion, Measure, Sample, Score
from tasks._entities import KINDS, claims, iob2, released_counts, released_spans, sentence
from tasks.ner import TASK

WORDS = "U.S. envoy John Smith met Trinidad and Tobago 's St. Louis envoy John Smith , Jr. in New York City ."
TEXT = WORDS.split()


def scored(
    tokens: Sequence[str], tags: Sequence[str], said: Mapping[str, str], index: int = 0
) -> list[tuple[Sample, Completion, Score]]:
    """The four samples of a sentence, answered with said[type] (default: nothing)."""
    result = []
    for kind in KINDS:
        reference = {"tokens": list(tokens), "tags": list(tags), "type": kind, "sentence": index}
        sample = Sample(f"{index}/{kind}", f"Text: {sentence(tokens)} Entity:", reference)
        completion = Completion(said.get(kind, ""))
        result.append((sample, completion, TASK.score(sample, completion)))
    return result


def summary(*sentences: tuple[str, str, Mapping[str, str]]) -> dict[str, float]:
    rows = [
        row for i, (text, tags, said) in enumerate(sentences) for row in scored(text.split(), tags.split(), said, i)
    ]
    return {name: measure.value for name, measure in summarize(TASK, rows).items()}


def test_samples(tmp_path: Path) -> None:
    path = tmp_path / "test-NER.txt"
    path.write_text("-DOCSTART- -X- -X- O\n\nAda X X B-PER\n\n. X X O\nX X X O\n, X X O\n\n")
    samples = list(TASK.samples(path))
    assert [sample.id for sample in samples] == [
        f"{i}/{kind}" for i in (0, 1) for kind in ("PER", "LOC", "ORG", "MISC")
    ]
    assert [sample.prompt for sample in samples[:4]] == [
        f"Please identify {word} Entity from the given text. Text: Ada Entity:"
        for word in ("Person", "Location", "Organization", "Miscellaneous")
    ]
    assert samples[5].reference == {"tokens": [".", "X", ","], "tags": ["O"] * 3, "type": "LOC", "sentence": 1}
    assert samples[4].prompt.endswith("Text: . X, Entity:")


def test_sentence() -> None:
    tokens = ["Well", ",", "U.S.", ",", "no", ";", "'", "Mr.", "'", "(", "yes", ")", "."]
    assert sentence(tokens) == "Well, U.S., no ; ' Mr. ' ( yes )."
    assert sentence([]) == ""


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        (" U.S.", [(0, 0)]),
        (" U.S..", [(0, 0)]),
        (" New York City.", [(17, 19)]),
        (" New York", [(17, 18)]),
        (" St.Louis", [(9, 10)]),  # blanks do not matter, token borders do
        (" Lou", []),
        (" john smith", []),  # case does
        (" John Smith", [(2, 3), (12, 13)]),  # every place
        (' "John Smith"; [U.S.]', [(0, 0), (2, 3), (12, 13)]),
        (" - U.S.", [(0, 0)]),
        (" U.S. and New York City, St. Louis", [(0, 0), (9, 10), (17, 19)]),
        (" Trinidad and Tobago", [(5, 7)]),  # whole first
        (" Tobago and Trinidad", [(5, 5), (7, 7)]),
        (" U.S. and Trinidad and Tobago", [(0, 0), (5, 5), (7, 7)]),  # the price of splitting at every "and"
        (" (U.S.)", [(0, 0)]),
        (" John Smith (", [(2, 3), (12, 13)]),
        (" City .", [(19, 20)]),  # behind a blank the full stop is named too
        (" Trinidad's", []),
        (" U.S.\nTobago", [(0, 0)]),
        ("\nU.S.", []),
        (" the capital of France", []),
        (" ,;. and", []),
        (" U.S", [(0, 0)]),
        (" Jr., .", [(15, 15)]),
        ("", []),
    ],
)
def test_claims(text: str, spans: list[tuple[int, int]]) -> None:
    assert sorted(claims(text, "LOC", TEXT)) == [("LOC", first, last) for first, last in spans]


@pytest.mark.parametrize(
    ("words", "text", "span"),
    [
        ("Union ( K ) won", " Union ( K )", (0, 3)),
        ("( Ann ) Lee won", " ( Ann ) Lee", (0, 3)),
        ("Order and Law Party won", " Order and Law Party", (0, 3)),
        ("Union ( K ) won", " (Union)", (0, 0)),
        ("' Union ' won", ' "Union"', (1, 1)),
        ("Lara ( West Indies )", " (West Indies)", (2, 3)),  # not its brackets
        ("Lara ( West Indies )", " Lara (", (0, 0)),  # a completion cut off
        ('Rocky " Bo " Marciano', ' "Rocky "Bo" Marciano"', (0, 4)),
        ('" Bo " Marciano won', ' "Bo" Marciano', (0, 3)),
        ("asset-St . won", " asset-St .", (0, 1)),
    ],
)
def test_a_piece_is_tried_whole_first(words: str, text: str, span: tuple[int, int]) -> None:
    assert claims(text, "ORG", words.split()) == {("ORG", *span)}


@pytest.mark.parametrize(
    ("spans", "tags"),
    [
        ([], "O O O O"),
        ([("PER", 0, 1), ("PER", 2, 3)], "B-PER I-PER B-PER I-PER"),  # neighbours of one type
        ([("PER", 0, 0), ("LOC", 1, 1)], "B-PER B-LOC O O"),
        ([("PER", 0, 0), ("ORG", 0, 2)], "B-ORG I-ORG I-ORG O"),  # the longer one
        ([("MISC", 0, 1), ("ORG", 1, 2), ("LOC", 1, 2)], "O B-LOC I-LOC O"),  # of equals PER, LOC, ORG, MISC
        ([("PER", 1, 2), ("PER", 0, 1), ("PER", 2, 3)], "B-PER I-PER B-PER I-PER"),  # of these the first
        ([("LOC", 0, 1), ("PER", 1, 2), ("MISC", 3, 3)], "O B-PER I-PER B-MISC"),
    ],
)
def test_overlaps(spans: list[tuple[str, int, int]], tags: str) -> None:
    assert iob2(spans, 4) == tags.split()
    assert iob2(reversed(spans), 4) == tags.split()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" John Smith", 1.0),
        (" John Smith, U.S.", 0.8),  # two of two, one too many: 2 * 2 / (2 + 3)
        (" John", 0.0),
        (" nobody", 0.0),
        ("\nJohn Smith", None),
    ],
)
def test_score_of_one_prompt(text: str, value: float | None) -> None:
    tags = ["O", "O", "B-PER", "I-PER"] + ["O"] * 8 + ["B-PER", "I-PER"] + ["O"] * 7
    score = scored(TEXT, tags, {"PER": text})[0][2]
    assert (score.value, score.answer) == (value, text.split("\n")[0].strip())


def test_nothing_to_find_and_nothing_named() -> None:
    assert [score.value for *_, score in scored(["x"], ["O"], {"PER": " none", "LOC": " x"})] == [1, 0, None, None]


# --- seqeval -------------------------------------------------------------------------------------------------------


def test_summary_by_hand() -> None:
    """Gold: PER Ada Byron, LOC Rome, LOC Oslo | ORG Acme | nothing.

    Named: PER Ada Byron (right), LOC Rome and Paris (one right: Paris is not in the text), Oslo missing; ORG "Acme Co"
    (wrong) ; MISC x (wrong). tp 2, fp 2, fn 2. All completions are answered but those not given: 5 of 12.
    Answered only: PER 1 tp; LOC 1 tp, 1 fn; ORG 1 fp, 1 fn; MISC 1 fp. Here fn of the unanswered are none.
    """
    result = summary(
        ("Ada Byron saw Rome Oslo .", "B-PER I-PER O B-LOC B-LOC O", {"PER": " Ada Byron", "LOC": " Rome, Paris"}),
        ("Acme Co grew .", "B-ORG O O O", {"ORG": " Acme Co", "PER": " none"}),
        ("x y .", "O O O", {"MISC": " x"}),
    )
    assert result["f1"] == result["precision"] == result["recall"] == 0.5
    assert result["answered"] == pytest.approx(5 / 12)
    assert result["f1_answered"] == 0.5
    assert (result["precision_PER"], result["recall_PER"], result["f1_PER"]) == (1, 1, 1)
    assert (result["precision_LOC"], result["recall_LOC"], result["f1_LOC"]) == (1, 0.5, pytest.approx(2 / 3))
    assert result["f1_ORG"] == result["f1_MISC"] == result["trivial"] == 0


def test_f1_answered_leaves_out_what_was_not_answered() -> None:
    result = summary(("Ada saw Rome .", "B-PER O B-LOC O", {"PER": " Ada"}))
    assert result["f1"] == pytest.approx(2 / 3)
    assert result["f1_answered"] == 1


def test_older_results_are_read_as_they_were() -> None:
    """Their samples do not say how a completion ended; their score comes out as it is in the file."""
    rows = scored(["Order", "and", "Law", "Party"], ["B-ORG", *["I-ORG"] * 3], {"ORG": " Order and Law Party"})
    old = [(sample, replace(said, ended=None), score) for sample, said, score in rows]
    assert summarize(TASK, rows)["f1"].value == 1
    assert summarize(TASK, old)["f1"].value == 0
    for text, spans in ((" Union ( K )", 1), (" ( Ann ) Lee", 1), (" U.S. and Tobago.", 2), (" \u00a0, .", 0)):
        tokens = ["Union", "(", "K", ")", "(", "Ann", ")", "Lee", "U.S.", "Tobago", "."]
        assert len(claims(text, "ORG", tokens, whole=False)) == spans


def test_neighbours_and_overlaps_go_through_seqeval() -> None:
    """That "Bank of Rome" beats "Rome", and that "Ada" and "Bo", neighbours of one type, are two entities."""
    tags = "B-PER B-PER O B-ORG I-ORG I-ORG"
    said = {"PER": " Ada, Bo", "ORG": " Bank of Rome", "LOC": " Rome"}
    assert summary(("Ada Bo left Bank of Rome", tags, said))["f1"] == 1
    assert summary(("Ada Bo left Bank of Rome", tags, {**said, "PER": " Ada Bo"}))["f1"] == pytest.approx(2 / 5)


def test_nothing_found_is_zero_even_where_nothing_was_to_be_found() -> None:
    result = summary(("x y", "O O", {}))
    assert {result[name] for name in ("f1", "precision", "recall", "f1_answered", "f1_PER", "answered")} == {0.0}


words = st.sampled_from(["Ada", "Bo", "Rome", "x", "Acme", "."])
tag_lists = st.lists(st.sampled_from(["O", *(f"B-{kind}" for kind in KINDS), "I"]), min_size=1, max_size=8)


def well_formed(tags: Sequence[str]) -> list[str]:
    """I continues the entity before it, or is O."""
    result = ["O"]
    for tag in tags:
        result.append(("O" if result[-1] == "O" else f"I-{result[-1][2:]}") if tag == "I" else tag)
    return result[1:]


@settings(deadline=None)
@given(st.data())
def test_values_agree_with_seqeval_on_random_sentences(draw: st.DataObject) -> None:
    rows, gold, named = [], [], []
    for index in range(draw.draw(st.integers(1, 4))):
        tags = well_formed(draw.draw(tag_lists))
        tokens = draw.draw(st.lists(words, min_size=len(tags), max_size=len(tags)))
        said = {kind: " " + ", ".join(draw.draw(st.lists(words, max_size=3))) for kind in KINDS}
        rows += scored(tokens, tags, said, index)
        gold.append(tags)
        named.append(iob2([span for kind in KINDS for span in claims(said[kind], kind, tokens)], len(tags)))
    result = summarize(TASK, rows)
    if not any(tag != "O" for tags in [*gold, *named] for tag in tags):
        assert result["f1"].value == 0  # seqeval's report is not defined here
        return
    options = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    assert result["f1"].value == f1_score(gold, named, **options)
    report = classification_report(gold, named, output_dict=True, **options)
    for kind in set(KINDS) & set(report):
        for ours, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert result[f"{ours}_{kind}"].value == pytest.approx(report[kind][theirs])
    assert all(0 <= measure.low <= measure.value <= measure.high <= 1 for measure in result.values())


# --- as released ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O O O", []),
        ("B-PER O O O", ["a"]),
        ("O B-PER I-PER O", ["b c"]),
        ("B-PER O B-PER O", ["a", "c"]),
        ("B-PER B-PER O O", ["a b"]),  # neighbours run into one ...
        ("B-PER B-LOC O O", ["a b"]),  # ... whatever their type
        ("B-LOC B-PER O O", ["b"]),
        ("B-PER I-PER I-PER I-PER", ["a b c"]),  # no "O" follows: the last token is lost
        ("O O B-PER I-PER", ["c"]),
        ("O O O B-PER", [""]),  # and a last token alone is empty
        ("B-PER O O B-PER", ["a", ""]),
        ("B-PER B-LOC B-PER I-PER", ["a b c"]),
    ],
)
def test_released_spans(tags: str, spans: list[str]) -> None:
    assert released_spans("PER", list("abcd"), tags.split()) == spans


def test_released_spans_of_a_sentence_of_one_token() -> None:
    assert released_spans("PER", ["a"], ["B-PER"]) == [""]


@pytest.mark.parametrize(
    ("kind", "spans", "text", "counts"),
    [
        ("PER", ["Ada"], " Adam", (1, 1)),  # a substring
        ("PER", ["Ada", "Bo"], " Bo\n\nAda", (2, 2)),  # anywhere
        ("PER", ["Ada", "Ada"], " Ada", (2, 2)),
        ("PER", ["Ada", "Bo"], " Cy", (0, 2)),
        ("PER", [""], " Cy", (1, 1)),  # the empty span is always found
        ("PER", [""], "", (1, 1)),
        ("PER", ["Ada"], "", (0, 1)),
        ("PER", ["J. , Ltd"], " J., Ltd", (0, 1)),  # spans are joined by blanks, the prompt is not
        ("PER", [], "", (1, 1)),
        ("PER", [], " ", (0, 0)),
        ("ORG", [], " Cy", (0, 0)),
        ("MISC", [], " Cy", (0, 1)),
        ("MISC", [], "", (1, 1)),
        ("PER", [], "</s>", (0, 0)),  # an end token is text
        ("MISC", [], "<|endoftext|>", (0, 1)),
        ("PER", ["Ada"], " Ada</s>", (1, 1)),
        ("PER", ["endof"], "<|endoftext|>", (1, 1)),
    ],
)
def test_released_counts(kind: str, spans: list[str], text: str, counts: tuple[int, int]) -> None:
    assert released_counts(kind, spans, text) == counts


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        (Completion(" Bo Entity: Ada"), (0, 1)),  # cut off where "Entity:" comes again
        (Completion(" Ada", full=" Ada</s>"), (1, 1)),
        (Completion("", ended=True, full="</s>"), (0, 1)),
    ],
)
def test_released_counts_of_a_completion(said: Completion, counts: tuple[int, int]) -> None:
    sample = scored(["Ada", "x"], ["B-PER", "O"], {})[0][0]
    parts = TASK.score(sample, said).parts
    assert (parts["released_found"], parts["released_of"]) == counts


def test_end_tokens_alone_score_what_the_released_code_gives_them() -> None:
    """PER 0 of 1. LOC: the gold span of a last token is empty and found in any text. ORG 0 of 0, MISC 0 of 2."""
    rows = [
        (sample, said, TASK.score(sample, said))
        for i, tags in enumerate((["B-PER", "O"], ["O", "B-LOC"]))
        for sample, *_ in scored(["Ada", "Rome"], tags, {}, i)
        for said in [Completion("", ended=True, full="<|endoftext|>")]
    ]
    assert summarize(TASK, rows)["as_released"].value == pytest.approx((0 / 1 + 1 / 1 + 0 + 0 / 2) / 4)


def test_as_released_is_the_mean_of_the_four_types() -> None:
    """PER: Ada found, 1/1, then an empty completion without spans, 1/1: 2/2. LOC: Rome at the end is empty and found:
    1/1, and 0/0 where " x" answers: 1/1. ORG: nothing said twice: 2/2. MISC: " x" without spans twice: 0/2.
    """
    result = summary(
        ("Ada saw Rome", "B-PER O B-LOC", {"PER": " Ada", "LOC": " x", "MISC": " x"}),
        ("x y", "O O", {"LOC": " x", "MISC": " x"}),
    )
    assert result["as_released"] == pytest.approx((1 + 1 + 1 + 0) / 4)


OFFICIAL = ROOT.parent / "shared/realdata/data/task-data/test-NER.txt"


@pytest.mark.parametrize("file", [ROOT / "data/sample/task-data/test-NER.txt", OFFICIAL], ids=["sample", "official"])
def test_what_the_docstart_lines_would_change(file: Path) -> None:
    """Each adds 1 to what MISC is out of; the most that can be found is every span."""
    if not file.exists():
        pytest.skip(f"{file} is not there")
    documents, counts = 216, dict.fromkeys(KINDS, (0, 0))
    for sample in TASK.samples(file):
        kind, spans = (
            sample.reference["type"],
            released_spans(*(sample.reference[k] for k in ("type", "tokens", "tags"))),
        )
        new = released_counts(kind, spans, "; ".join(spans) or "x")
        counts[kind] = (counts[kind][0] + new[0], counts[kind][1] + new[1])
    if file == OFFICIAL:
        assert file.read_text().count("-DOCSTART-") == documents
        found, of = counts["MISC"]
        assert (found / of - found / (of + documents)) / 4 <= 0.004
    assert all(found <= of for found, of in counts.values())


def test_a_type_nobody_asked_for_is_0_not_nan() -> None:
    rows = scored(["x"], ["O"], {"PER": " x"})[:1]
    assert summarize(TASK, rows)["as_released"] == Measure(0.0, 0.0, 0.0)


@pytest.mark.parametrize("text", [' "Rome".', " (Rome).", " [Rome].", " Rome."])
def test_a_full_stop_behind_quotes_or_brackets(text: str) -> None:
    assert claims(text, "LOC", ["In", "Rome", "now"]) == {("LOC", 1, 1)}
