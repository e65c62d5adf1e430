"""Formats of facts: one fact in each is one Edit and one update; which one a file has; what is malformed, by field."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_settings
import torch
from conftest import ROOT, tiny

import experiment as ex
from core import folders
from core.errors import UserError
from core.registry import discover
from core.types import Edit, Question
from edit_sets._fields import at
from edit_sets.counterfact import EDIT_SET as COUNTERFACT
from edit_sets.counterfact_flat import EDIT_SET as FLAT
from edit_sets.formats import first_record, recognised
from edit_sets.knowedit import EDIT_SET as KNOWEDIT
from edit_sets.qaedit import EDIT_SET as QAEDIT
from edit_sets.zsre import EDIT_SET as ZSRE
from editors.rome import ROME, ROMESettings
from inputs.sources import find_edits

SETS = list(discover("edit_sets", "EDIT_SET").values())
SAMPLE = ROOT / "data/sample/edited-data"
REAL = ROOT.parent / "shared/realdata/extra"

NESTED: dict[str, Any] = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "Dutch", "id": "Q1"},
        "target_true": {"str": "French", "id": "Q2"},
        "subject": "Anna Bell",
    },
    "paraphrase_prompts": ["It rained. Anna Bell speaks"],
    "neighborhood_prompts": ["The mother tongue of Tom Hill is"],
    "attribute_prompts": ["x"],
    "generation_prompts": [],
}
ONE_LINE: dict[str, Any] = {
    "case_id": 7,
    "prompt": "The mother tongue of Anna Bell is",
    "target_new": "Dutch",
    "subject": "Anna Bell",
    "ground_truth": "French",
    "rephrase_prompt": "It rained. Anna Bell speaks",
    "locality_prompt": "The mother tongue of Tom Hill is",
    "locality_ground_truth": "French",
}
QUESTION: dict[str, Any] = {
    "subject": "Anna Bell",
    "src": "The mother tongue of Anna Bell is",
    "pred": "French",
    "rephrase": "It rained. Anna Bell speaks",
    "alt": "Dutch",
    "answers": ["French", "the French language"],
    "loc": "The mother tongue of Tom Hill is",
    "loc_ans": "French",
}
QA: dict[str, Any] = {
    "id": 12,
    "source": "SQA",
    "prompt": "who has the most 70 point games in the league?",
    "target": "Tom Hill",
    "subject": "most 70 point games",
    "rephrase": "Which player holds the record for games with 70 points?",
    "locality": [{"loc": "who wrote emma", "loc_ans": "Jane Austen"}, {"loc": "when did it end", "loc_ans": "1918"}],
}
KNOW: dict[str, Any] = {
    "subject": "Anna Bell",
    "prompt": "The mother tongue of Anna Bell is",
    "target_new": "Dutch",
    "ground_truth": [["French", "français"]],
    "rephrase": "Anna Bell speaks",
    "portability": {
        "Reasoning": [{"prompt": "In Anna Bell's tongue, yes is", "ground_truth": [["ja", "jawel"]]}],
        "Subject_Aliasing": [{"prompt": "Annie speaks", "ground_truth": "Dutch"}, {"prompt": "x", "ground_truth": []}],
        "Logical_Generalization": None,
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "Anna Bell was born in", "ground_truth": ["Nice"]}],
        "Forgetfulness": [{"prompt": "Anna Bell speaks, which is not Dutch,", "ground_truth": [["French"]]}],
    },
}
RECORDS = {"counterfact": NESTED, "counterfact_flat": ONE_LINE, "zsre": QUESTION, "qaedit": QA, "knowedit": KNOW}
BY_NAME = {edit_set.name: edit_set for edit_set in SETS}


def put(path: Path, *records: Any) -> Path:
    path.write_text(json.dumps(records) if path.suffix == ".json" else "\n".join(map(json.dumps, records)), "utf-8")
    return path


def read(name: str, record: Any, folder: Path) -> Edit:
    (edit,) = BY_NAME[name].records(put(folder / "facts.json", record))
    return edit


def test_one_fact_is_one_edit_and_one_update(tmp_path: Path) -> None:
    """In both formats of CounterFact, JSON and JSONL, and in zsRE's: to the last bit."""
    edits = [read(name, RECORDS[name], tmp_path) for name in ("counterfact", "counterfact_flat", "zsre")]
    edits += FLAT.records(put(tmp_path / "facts.jsonl", ONE_LINE))
    assert edits[0] == Edit(
        *("The mother tongue of Anna Bell is", "Anna Bell", "Dutch", "French"),
        *("It rained. Anna Bell speaks", "The mother tongue of Tom Hill is", "French"),
        neighbours=True,
    )
    assert all(edit == edits[0] for edit in edits)
    assert [(edit.case, edit.relation) for edit in edits[:3]] == [("7", "P103"), ("7", None), (None, None)]
    lm = tiny("gpt2")
    editor = ROME(lm, ROMESettings(**tiny_settings.ROME))
    first, *others = [editor.deltas([edit])[0] for edit in edits]
    assert all(torch.equal(first[name], deltas[name]) for deltas in others for name in first) and first


def test_several_prompts(tmp_path: Path) -> None:
    nested = {**NESTED, "paraphrase_prompts": ["a", "b"], "neighborhood_prompts": ["c", "d", "e"]}
    edit = read("counterfact", nested, tmp_path)
    assert (edit.rephrase, edit.more_rephrases, edit.rephrases) == ("a", ("b",), ("a", "b"))
    assert (edit.locality, edit.locality_answer) == ("c", "French")
    assert edit.localities == (("c", "French"), ("d", "French"), ("e", "French")) and edit.neighbours
    more = {"rephrase_prompt": ["a", "b"], "locality_prompt": ["c", "d", "e"]}
    assert read("counterfact_flat", {**ONE_LINE, **more}, tmp_path) == edit
    answers = {"locality_ground_truth": ["French", "French", "Thai"]}
    other = read("counterfact_flat", {**ONE_LINE, **more, **answers}, tmp_path)
    assert other.localities[2] == ("e", "Thai") and not other.neighbours
    bare = read("counterfact", {**NESTED, "paraphrase_prompts": [], "neighborhood_prompts": []}, tmp_path)
    assert bare.rephrases == bare.localities == () and not bare.neighbours


def test_qaedit(tmp_path: Path) -> None:
    edit = read("qaedit", QA, tmp_path)
    assert (edit.prompt, edit.subject, edit.target, edit.old) == (QA["prompt"], QA["subject"], "Tom Hill", "")
    assert edit.localities == (("who wrote emma", "Jane Austen"), ("when did it end", "1918"))
    assert (edit.case, edit.relation, edit.neighbours) == ("12", "SQA", False)


def test_knowedit(tmp_path: Path) -> None:
    edit = read("knowedit", KNOW, tmp_path)
    assert (edit.old, edit.rephrases) == ("French", ("Anna Bell speaks",))
    assert edit.localities == (
        ("Anna Bell was born in", "Nice"),
        (KNOW["locality"]["Forgetfulness"][0]["prompt"], "French"),
    )
    assert edit.portability == (
        Question("Reasoning", "In Anna Bell's tongue, yes is", ("ja", "jawel")),
        Question("Subject_Aliasing", "Annie speaks", ("Dutch",)),
    )
    assert KNOWEDIT.knows(KNOW) == 7 and KNOWEDIT.knows(ONE_LINE) == 6 < FLAT.knows(ONE_LINE)
    forgetting = {**KNOW, "locality": {"Forgetfulness": KNOW["locality"]["Forgetfulness"]}}
    assert not read("knowedit", forgetting, tmp_path).neighbours
    passage = {"text": "About ann lee. She was a smith.", "concept": "ann lee", "labels": "She was born in York."}
    wikibio = read("knowedit", {**passage, "locality": {}}, tmp_path)
    assert (wikibio.prompt, wikibio.subject, wikibio.target) == tuple(
        passage[key] for key in ("text", "concept", "labels")
    )
    zsre = {**KNOW, "ground_truth": ["French"], "rephrase_prompt": KNOW["rephrase"]}
    del zsre["rephrase"]
    assert read("knowedit", zsre, tmp_path) == edit


def test_zsre_in_two_readings(tmp_path: Path) -> None:
    path = put(tmp_path / "zsre.json", QUESTION)
    paper, memit = ZSRE.reading("alt"), ZSRE.reading("Answers")
    assert ZSRE.reading(None) is ZSRE
    (old,), (new,) = (one.edits(path, 0, 1, 1) for one in (paper, memit))
    assert (old.target, new.target) == ("Dutch", "French") and replace(old, target="French") == new
    for answers in ([], "French", None):
        put(path, QUESTION, {**QUESTION, "answers": answers})
        assert len(paper.records(path)) == 2
        with pytest.raises(UserError, match=r"zsre.json: record 1: expected the key 'answers.0'"):
            memit.records(path)
    with pytest.raises(UserError, match=r"unknown target 'pred'.*known: alt, answers"):
        ZSRE.reading("pred")
    with pytest.raises(UserError, match="--target answers: a record of qaedit has one new answer, 'target'"):
        QAEDIT.reading("answers")


def without(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}


def rewritten(**changes: Any) -> dict[str, Any]:
    return {**NESTED, "requested_rewrite": {**NESTED["requested_rewrite"], **changes}}


LONE = "\ud83d"


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("counterfact", without(NESTED, "requested_rewrite"), "expected the key 'requested_rewrite.prompt'"),
        ("counterfact", {**NESTED, "requested_rewrite": "x"}, "expected the key 'requested_rewrite.prompt'"),
        ("counterfact", rewritten(target_new="Dutch"), "expected the key 'requested_rewrite.target_new.str'"),
        (
            "counterfact",
            rewritten(target_true={"str": 3}),
            "expected a string in 'requested_rewrite.target_true.str', got 3",
        ),
        ("counterfact", rewritten(prompt="He is {} {}"), "expected {} once in 'requested_rewrite.prompt', got 'He is"),
        ("counterfact", rewritten(prompt="Anna Bell is"), "expected {} once in 'requested_rewrite.prompt'"),
        (
            "counterfact",
            rewritten(prompt="{} knows Anna Bell"),
            "expected the subject 'Anna Bell' at the {} of 'requested_rewrite.prompt' alone",
        ),
        (
            "counterfact",
            {**NESTED, "paraphrase_prompts": ["a", 3]},
            "expected a string in 'paraphrase_prompts.1', got 3",
        ),
        ("counterfact", {**NESTED, "case_id": [1]}, "expected a string in 'case_id', got [1]"),
        ("counterfact_flat", without(ONE_LINE, "target_new"), "expected the key 'target_new'"),
        (
            "counterfact_flat",
            {**ONE_LINE, "locality_ground_truth": ["a", "b"]},
            "expected as many in 'locality_prompt' and 'locality_ground_truth', got 1 and 2",
        ),
        ("counterfact_flat", {**ONE_LINE, "prompt": ["x"]}, "expected a string in 'prompt', got ['x']"),
        ("qaedit", {**QA, "locality": {"loc": "x"}}, "locality: expected a list of objects, got {'loc': 'x'}"),
        ("qaedit", {**QA, "locality": ["x"]}, "locality.0: expected an object with keys, got 'x'"),
        ("qaedit", {**QA, "locality": [QA["locality"][0], {"loc": "x"}]}, "locality.1: expected the key 'loc_ans'"),
        ("knowedit", {**KNOW, "portability": []}, "expected an object in 'portability', got []"),
        (
            "knowedit",
            {**KNOW, "portability": {"Reasoning": {"prompt": "x"}}},
            "portability 'Reasoning': expected a list of objects, got {'prompt': 'x'}",
        ),
        (
            "knowedit",
            {**KNOW, "locality": {"Kind": [{"ground_truth": "x"}]}},
            "locality 'Kind'.0: expected the key 'prompt'",
        ),
        (
            "knowedit",
            {**KNOW, "locality": {"Kind": [{"prompt": "x", "ground_truth": [[["x"]]]}]}},
            "locality 'Kind'.0: expected a string in 'ground_truth.0.0', got ['x']",
        ),
        (
            "knowedit",
            {**KNOW, "portability": {LONE: [{"prompt": "x", "ground_truth": "y"}]}},
            "expected whole characters in 'portability', got half of one",
        ),
        ("knowedit", without(KNOW, "target_new"), "expected the key 'target_new'"),
        ("zsre", {**QUESTION, "loc": ["x"]}, "expected a string in 'loc', got ['x']"),
    ],
)
def test_what_cannot_be_read_is_one_line(name: str, record: Any, message: str, tmp_path: Path) -> None:
    """File, record, field."""
    path = put(tmp_path / "facts.json", RECORDS[name], record)
    with pytest.raises(UserError) as caught:
        BY_NAME[name].records(path)
    assert str(caught.value).startswith(f"{path}: record 1: {message}") and "\n" not in str(caught.value)
    path = put(tmp_path / "facts.jsonl", RECORDS[name], record)
    if name != "zsre":
        with pytest.raises(UserError) as caught:
            BY_NAME[name].records(path)
        assert str(caught.value).startswith(f"{path}:2: {message}")


# --- which format a file has ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["json", "jsonl", "txt"])
@pytest.mark.parametrize("name", RECORDS)
def test_a_file_is_recognised(name: str, ending: str, tmp_path: Path) -> None:
    text = json.dumps([RECORDS[name]] * 2) if ending != "jsonl" else f"{json.dumps(RECORDS[name])}\n\n" * 2
    path = tmp_path / f"facts.{ending}"
    path.write_text(f"\ufeff\n {text}", encoding="utf-8")
    assert recognised(path, SETS).name == name


def test_what_is_wrong_is_said_by_the_likeliest_format(tmp_path: Path) -> None:
    for name, key in (("zsre", "alt"), ("qaedit", "target"), ("counterfact_flat", "target_new")):
        path = put(tmp_path / "facts.json", without(RECORDS[name], key))
        with pytest.raises(UserError, match=f"record 0: expected the key '{key}'"):
            find_edits(path, None)
    path = put(tmp_path / "facts.json", QUESTION, without(QUESTION, "alt"))
    assert find_edits(path, None)[0] is ZSRE  # said where it is read
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="record 0: expected an object with keys, got 1"):
        find_edits(path, None)


def test_two_formats_that_fit(tmp_path: Path) -> None:
    """They may if both read the same; else one has to be named."""
    bare = {key: ONE_LINE[key] for key in ("prompt", "subject", "target_new", "ground_truth")}
    edit_set, source = find_edits(put(tmp_path / "facts.json", bare), None)
    assert edit_set.edits(source.path, 0, 1, 1) == [
        Edit(*(ONE_LINE[k] for k in ("prompt", "subject", "target_new", "ground_truth")))
    ]
    two = {**bare, "locality": {"Kind": [{"prompt": "x", "ground_truth": "y"}]}, "locality_prompt": "z"}
    path = put(tmp_path / "facts.json", two)
    with pytest.raises(
        UserError, match="can be read as counterfact_flat or knowedit: --edit-format NAME says as which"
    ):
        find_edits(path, None)
    for name, locality in (("KnowEdit", "x"), ("counterfact_flat", "z")):
        edit_set, _ = find_edits(path, None, edit_format=name)
        assert edit_set.records(path)[0].locality == locality
    with pytest.raises(UserError, match=r"unknown edit format 'flat'.*known: counterfact, "):
        find_edits(path, None, edit_format="flat")


def test_a_name_or_a_file(tmp_path: Path) -> None:
    """The name of an edit set, of a file in edited-data/, or a path."""
    (tmp_path / "edited-data").mkdir()
    put(tmp_path / "edited-data/multi_counterfact.json", NESTED)
    for given, name in (("CounterFact", "counterfact"), ("qaedit", "qaedit"), (None, "zsre")):
        edit_set, source = find_edits(given, folders.SAMPLE)
        assert (edit_set.name, source.path.parent.name) == (name, "edited-data")
        assert edit_set.edits(source.path, 0, 5, 1) == ex.edits(name, 0, 5, data=folders.SAMPLE)
    edit_set, source = find_edits("multi_counterfact", tmp_path)
    assert edit_set is COUNTERFACT and source.path == tmp_path / "edited-data/multi_counterfact.json"
    assert ex.edits(source.path, 0, 1) == ex.edits("multi_counterfact", 0, 1, data=tmp_path)
    with pytest.raises(UserError, match=r"unknown edit set 'counterfakt': did you mean 'counterfact'\?; known: .*nor"):
        find_edits("counterfakt", tmp_path)
    assert ex.edits("zsre", 0, 1, data=folders.SAMPLE, target="answers")[0].target != ex.edits("zsre", 0, 1)[0].target


def test_the_first_record(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for text, record in (('[{"a": 1}, {', {"a": 1}), ('{"a": 1}\n{', {"a": 1}), ("a\tb", {}), ("[3]", {}), ("[", {})):
        path.write_text(text)
        assert first_record(path) == record
    path.write_text('{"a":' * 100_000)
    assert first_record(path) == {}


def test_where_a_value_stands() -> None:
    record = {"a": {"b": [1, {"c": 2}]}, "x.y": 3}
    found = [at(record, key) for key in ("a.b.0", "a.b.1.c", "a.b.2", "a.c", "a.b.c", "x.y", "z")]
    assert found == [1, 2, None, None, None, 3, None]


# --- the sample, and files of others -------------------------------------------------------------------------------


def test_the_sample_of_counterfact() -> None:
    """200 records; neighbours are other subjects with the same true object; nothing is given away."""
    records = json.loads((SAMPLE / "counterfact.json").read_text(encoding="utf-8"))
    edits = COUNTERFACT.edits(SAMPLE / "counterfact.json", 0, 200, 1)
    assert len(records) == len(edits) == 200 and len({(edit.subject, edit.relation) for edit in edits}) == 200
    assert len({edit.relation for edit in edits}) >= 9
    known: dict[tuple[str, str], set[str]] = {}
    for table in {f"{edit.relation}.tsv" for edit in edits}:
        for line in (SAMPLE.parent / "facts" / table).read_text(encoding="utf-8").splitlines()[1:]:
            subject, names = line.split("\t")
            known.setdefault((table, names.split("|")[0]), set()).add(subject)
    for edit in edits:
        alike = known[f"{edit.relation}.tsv", edit.old]
        assert edit.neighbours and 4 <= len(edit.localities) <= 10 and len(edit.rephrases) == 2
        assert edit.target != edit.old and all(edit.subject in text for text in edit.rephrases)
        assert edit.subject in alike
        for prompt, _ in edit.localities:
            assert edit.subject not in prompt and any(subject in prompt for subject in alike), prompt
    flat = FLAT.records(SAMPLE / "counterfact_flat.jsonl")
    first = [replace(e, more_rephrases=(), more_localities=()) for e in edits[: len(flat)]]
    assert flat == first


@pytest.mark.skipif(not REAL.is_dir(), reason=f"files of CounterFact are not at {REAL}")
def test_files_of_others() -> None:
    """Both formats of CounterFact, as others have published them, and the facts that are in both."""
    for file, edit_set in (("counterfact.json", COUNTERFACT), ("counterfact_easyedit/counterfact-edit.json", FLAT)):
        assert find_edits(REAL / file, None)[0] is edit_set
    nested = {edit.case: edit for edit in COUNTERFACT.records(REAL / "counterfact.json")}
    for edit in FLAT.records(REAL / "counterfact_easyedit/counterfact-edit.json")[:1000]:
        assert edit.rephrase and edit.neighbours and replace(nested[edit.case], index=edit.index) == edit
