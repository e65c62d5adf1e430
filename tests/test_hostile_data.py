"""Every reader on hostile files: it reads them, or it raises one UserError of one line that names the file.

Nothing else is ever raised, run, or waited for.
"""

import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hostile as h
import pytest
from conftest import ROOT
from hostile import put
from hypothesis import strategies as st

from core import hparams, published, readers, results
from core.disk.digest import sha256
from core.errors import UserError
from core.registry import discover
from edit_sets.zsre import EDIT_SET
from editors.mend.settings import MENDSettings
from inputs import check
from inputs.converters import EXAMPLES, TESTS, GluePickle
from inputs.sources import find_edits

TASKS, EDITORS = discover("tasks", "TASK"), discover("editors", "EDITOR")
SAMPLE = ROOT / "data/sample"
ZSRE = json.loads((SAMPLE / "edited-data/zsre.json").read_text(encoding="utf-8"))[:2]


def excerpt(task: Any) -> bytes:
    """The beginning of a task's sample file."""
    path = SAMPLE / "task-data" / task.file
    if path.is_dir():
        return (
            (path / "dev_0.txt").read_bytes() if (path / "dev_0.txt").is_file() else next(path.iterdir()).read_bytes()
        )
    if path.suffix == ".json":
        return h.written(json.loads(path.read_text(encoding="utf-8"))[:2])
    return b"\n".join(path.read_bytes().split(b"\n")[:6])


def contents(task: Any) -> st.SearchStrategy[bytes]:
    """Hostile files for a task: JSON ones also as records of the right keys with the wrong values."""
    valid = excerpt(task)
    if task.file.endswith(".jsonl"):
        made = h.records(*(json.loads(line) for line in valid.split(b"\n") if line))
        return h.files(valid, made.map(lambda rows: b"\n".join(map(h.written, rows))))
    if task.file.endswith(".json"):
        return h.files(valid, h.records(*json.loads(valid)).map(h.written))
    if task.file == "test-dialogue":
        one = h.records(readers._literal(valid.decode(), Path("x"))).map(lambda rows: rows[0])
        return h.files(valid, one.map(h.written), one.map(lambda row: repr(row).encode(errors="replace")))
    cells = st.lists(st.lists(h.clean, max_size=4).map("\t".join), max_size=4)
    return h.files(valid, cells.map(lambda rows: (valid.split(b"\n")[0].decode() + "\n" + "\n".join(rows)).encode()))


FILES = {name: contents(task) for name, task in TASKS.items()}


@pytest.mark.parametrize("name", TASKS)
@h.hostile(draw=st.data())
def test_samples_of_a_task(name: str, draw: Any, tmp_path: Path) -> None:
    task = TASKS[name]
    place = f"{task.file}/dev_3.txt" if task.file == "test-dialogue" else task.file
    path = put(tmp_path, place, draw.draw(FILES[name]))
    for sample in h.read_or_refused(lambda: task.samples(tmp_path / task.file), path) or ():
        json.dumps([sample.id, sample.prompt, sample.reference], ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("read", [lambda p: EDIT_SET.edits(p, 0, 1, 1), EDIT_SET.training], ids=["edits", "training"])
@h.hostile(content=h.files(h.written(ZSRE), h.records(*ZSRE).map(h.written), h.records(*ZSRE).map(h.written)))
def test_edits(read: Any, content: bytes, tmp_path: Path) -> None:
    path = put(tmp_path, "zsre.json", content)
    for edit in h.read_or_refused(lambda: read(path), path) or ():
        repr(edit).encode()
        "".join(text for text in (edit.prompt, edit.subject, edit.target, edit.old) if text).encode()
        assert edit.target.strip()


EDIT_SETS = discover("edit_sets", "EDIT_SET")


def facts(edit_set: Any) -> st.SearchStrategy[bytes]:
    """Hostile files for an edit set: also records of the right keys with the wrong values, at the top and within."""
    where = next(path for path in sorted((SAMPLE / "edited-data").iterdir()) if path.stem == Path(edit_set.file).stem)
    text = where.read_text(encoding="utf-8")
    good = json.loads(text)[:2] if where.suffix == ".json" else [json.loads(line) for line in text.split("\n")[:2]]
    inner = {key: value for key, value in good[0].items() if isinstance(value, dict)}
    changed = [
        h.records(value).map(lambda found, key=key: [{**good[0], key: one} for one in found])
        for key, value in inner.items()
    ]
    made = st.one_of(h.records(*good), *changed)
    return h.files(h.written(good), made.map(h.written), made.map(lambda rows: b"\n".join(map(h.written, rows))))


FACTS = {name: facts(edit_set) for name, edit_set in EDIT_SETS.items() if name != "zsre"}


@pytest.mark.parametrize("name", FACTS)
@h.hostile(draw=st.data())
def test_edits_of_other_formats(name: str, draw: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "facts.json", draw.draw(FACTS[name]))
    for edit in h.read_or_refused(lambda: EDIT_SETS[name].edits(path, 0, 1, 1), path) or ():
        json.dumps(asdict(edit), ensure_ascii=False, allow_nan=False).encode()
        assert edit.target.strip() and edit.subject in edit.prompt


@h.hostile(draw=st.data())
def test_a_file_of_some_format(draw: Any, tmp_path: Path) -> None:
    path = put(tmp_path, "facts.json", draw.draw(st.one_of(*FACTS.values())))
    h.read_or_refused(lambda: find_edits(path, None)[0].records(path), path)


ROWS = [{"sentence": "It rained.", "label": 1}] * (EXAMPLES + TESTS)


@h.hostile(content=h.files(pickle.dumps(ROWS), h.values.map(lambda value: pickle.dumps([value] * 110))))
def test_a_pickle(content: bytes) -> None:
    try:
        text = GluePickle(("sentence", "label"))(content)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 300
    else:
        assert len([json.loads(line) for line in text.splitlines()]) == TESTS


PATHS = (EDIT_SET.file, *EDIT_SET.training_files)


@h.hostile(content=h.files(h.written(ZSRE)), which=st.sampled_from([*PATHS, "task-data/test-NLI.tsv"]))
def test_a_whole_folder(content: bytes, which: str, tmp_path: Path) -> None:
    for name in PATHS:
        put(tmp_path, name, h.written(ZSRE))
    put(tmp_path, "task-data/test-NLI.tsv", excerpt(TASKS["NLI"]))
    path = put(tmp_path, which, content)
    h.read_or_refused(lambda: check.check(tmp_path, [TASKS["NLI"]], [EDIT_SET]), path)


@h.hostile(
    names=st.lists(st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=20), min_size=1, max_size=4)
)
def test_digest_of_a_folder_with_any_names(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("names")
    for name in {*names, "٣", "a1", "²"} - {".", ".."}:
        (folder / name.encode(errors="ignore").decode()).with_suffix(".x").touch()
    (folder / "\udcff").touch()  # a name that is not UTF-8
    assert len(sha256(folder)) == 64


YAML = (
    *("a: &a [*a]", "!!python/object/apply:os.system ['touch mark']", "!!timestamp x", "!!int ''", "!!bool x", "- 1"),
    *(
        "!!float ''",
        "layers: " + "[" * 5000,
        "v_lr: .nan",
        "steps: 1" + "0" * 400,
        "? [a]\n: 1",
        "<<: {steps: 2}",
        "=: =",
    ),
    "a: &a [x, x]\nb: &b [*a, *a]\nlayers: [*b, *b]",
    "steps: 1\nsteps: 2",
    'stats_dir: "\\0"\n',
    'archive_dir: "\\ud800"',
    '"new\\nline": 1',
    '"alg_name": 1\nx: 2000-99-99',
)
ENTRIES = st.dictionaries(
    st.sampled_from(
        ["layers", "v_lr", "steps", "inner_params", "rank", "kl_factor", "mom2_dataset", "context_templates"]
    )
    | h.texts,
    h.values,
    max_size=5,
)


@pytest.mark.parametrize("name", EDITORS)
@h.hostile(draw=st.data())
def test_settings(name: str, draw: Any, tmp_path: Path) -> None:
    shipped = (ROOT / "hparams" / name / "smollm2-135m.yaml").read_bytes()
    more = st.sampled_from(YAML).map(lambda text: (shipped.decode() + "\n" + text).encode())
    content = draw.draw(h.files(shipped, more, st.sampled_from(YAML).map(str.encode), ENTRIES.map(h.written)))
    path = put(tmp_path, "s.yaml", content)
    for hp in h.read_or_refused(lambda: [hparams.load(EDITORS[name].hparams, path)], path) or ():
        json.dumps(hp.__dict__, ensure_ascii=False, allow_nan=False).encode()
    assert not Path("mark").exists()


@h.hostile(
    content=h.files(published.FILE.read_bytes()[:3000], st.sampled_from(YAML).map(str.encode), h.values.map(h.written))
)
def test_published_scores(content: bytes, tmp_path: Path) -> None:
    path = put(tmp_path, "published.yaml", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "FILE", path)
        for scores in h.read_or_refused(lambda: [published.figures("gpt2-xl", None, "NER")], path) or ():
            assert all(isinstance(score, float) for score in scores)


RESULT = {"task": "NER", "settings": {"task": "NER", "seed": 0, "data": {"path": "x"}}, "metrics": {}}


@h.hostile(content=h.files(h.written(RESULT), h.records(RESULT).map(lambda rows: h.written(rows[0]))))
def test_results_of_another_run(content: bytes, tmp_path: Path) -> None:
    path = put(tmp_path, "r.json", content)
    h.read_or_refused(lambda: [results.existing(tmp_path / "r", {"task": "NER", "seed": 1}, False)], path)


def test_nothing_written_in_the_data_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for text in (
        f"open({str(mark)!r}, 'w')",
        f"{{'article': open({str(mark)!r}, 'w')}}",
        f"[*open({str(mark)!r}, 'w')]",
    ):
        put(tmp_path, "test-dialogue/dev_1.txt", text.encode())
        with pytest.raises(UserError, match="Python literal"):
            list(TASKS["dialogue"].samples(tmp_path / "test-dialogue"))
    put(tmp_path, "s.yaml", f"!!python/object/apply:builtins.open [{str(mark)!r}, w]".encode())
    with pytest.raises(UserError, match=r"s\.yaml: not a YAML file"):
        hparams.load(MENDSettings, tmp_path / "s.yaml")
    assert not mark.exists()


def test_half_a_character_is_refused_where_it_is_read(tmp_path: Path) -> None:
    """JSON can spell what no UTF-8 result file could hold later."""
    path = put(tmp_path, "zsre.json", h.written([ZSRE[0], {**ZSRE[1], "alt": "x\ud83d"}]))
    with pytest.raises(
        UserError, match=r"zsre.json: record 1: expected whole characters in 'alt', got half of one, \\ud83d"
    ):
        EDIT_SET.edits(path, 0, 2, 1)
    put(tmp_path, "zsre.json", h.written([ZSRE[0], {**ZSRE[1], "alt": "\U0001f600"}]))  # as two escapes: one character
    assert EDIT_SET.edits(path, 0, 2, 1)[1].target == "\U0001f600"


def test_there_are_as_many_cases_as_stated(request: pytest.FixtureRequest) -> None:
    items = [item for item in request.session.items if getattr(getattr(item, "function", None), "hostile", False)]
    if len({item.path for item in items}) < 3:
        pytest.skip("counts what is collected: run it with all three files of hostile cases")
    assert len(items) == h.PROPERTIES
    assert len(items) * h.CASES >= h.TOTAL >= h.STANDING
