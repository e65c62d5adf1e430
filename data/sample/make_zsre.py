"""Generate the sample knowledge-editing data from the fact tables in `facts/`.

Each `facts/<relation>.tsv` lists true facts as `subject` and `answers`, the
answers separated by "|" and the first one being the usual form.
`facts/templates.tsv` holds two source prompts and two paraphrases for every
relation, and `facts/nq.tsv` the unrelated locality questions.  Three files of
zsRE records are written: edited-data/zsre.json with the edits, and for MEND
training-data/zsre_mend_eval.json and training-data/zsre_mend_train.json.

No subject occurs in two of the files.  The output depends on nothing but the
tables, so running the script again rewrites the same bytes; `--check` reports
whether the files on disk are the ones that the tables give.
"""

import argparse
import csv
import json
import os
import random
import re
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
FACTS = HERE / "facts"
SEED = 0
EDITS_PER_RELATION = 27
EVAL_PER_RELATION = 7
TRAIN_PER_RELATION = 50
LEAST_TRAIN_PER_RELATION = 30
MAX_ALT_CHARS = 14

Record = dict[str, str | list[str]]


@dataclass(frozen=True)
class Fact:
    """A true statement: the answers are spellings of one object, usual form first."""

    relation: str
    subject: str
    answers: tuple[str, ...]


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a tab-separated table, refusing gaps and stray blanks."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows, start=2):
        for name, value in row.items():
            if not value or not name or value != value.strip():
                raise ValueError(f"{path.name}:{number}: bad value in column {name!r}")
    return rows


def read_templates() -> dict[str, dict[str, str]]:
    """Return the prompts of each relation by column, {} standing for the subject."""
    return {row["relation"]: row for row in read_table(FACTS / "templates.tsv")}


def read_facts(relation: str) -> list[Fact]:
    """Return the facts of a relation, whose subjects must be distinct."""
    facts = [
        Fact(relation, row["subject"], tuple(row["answers"].split("|")))
        for row in read_table(FACTS / f"{relation}.tsv")
    ]
    if len({fact.subject for fact in facts}) != len(facts):
        raise ValueError(f"{relation}.tsv: repeated subject")
    return facts


def take(pools: dict[str, list[Fact]], quota: int, used: set[str]) -> list[Fact]:
    """Move `quota` facts of each relation, or all there are, out of `pools`.

    Subjects in `used` are passed over, and those taken are added to it at the end.
    Relations take turns, so that those which share subjects (countries) share
    them fairly.  A subject is taken once, unless its relation has no other left.
    """
    taken: list[Fact] = []
    fresh: set[str] = set()
    for _ in range(quota):
        for pool in pools.values():
            free = [fact for fact in pool if fact.subject not in used]
            if free:
                fact = next((fact for fact in free if fact.subject not in fresh), free[0])
                pool.remove(fact)
                fresh.add(fact.subject)
                taken.append(fact)
    used |= fresh
    return taken


def contains(text: str, phrase: str) -> bool:
    """Whether the words of `phrase` occur in `text`, whatever the case."""
    words, wanted = (" ".join(re.findall(r"\w+", part.lower())) for part in (text, phrase))
    return f" {wanted} " in f" {words} "


def pick_alt(fact: Fact, objects: list[str], rng: random.Random) -> str:
    """Draw a short answer of the same relation that is false for the fact."""
    wrong = [
        text
        for text in objects
        if text.isascii()
        and len(text) <= MAX_ALT_CHARS
        and not contains(fact.subject, text)
        and not any(contains(a, text) or contains(text, a) for a in fact.answers)
    ]
    return rng.choice(wrong)


def fill(template: str, subject: str) -> str:
    """Put the subject into the template, where it must then occur once."""
    text = template.format(subject)
    if text.count(subject) != 1:
        raise ValueError(f"{subject!r} must occur exactly once in {text!r}")
    return text


def build(facts: list[Fact], objects: dict[str, list[str]], rng: random.Random) -> list[Record]:
    """Return the records of the facts, in a shuffled order."""
    templates = read_templates()
    questions = [(row["question"], row["answer"]) for row in read_table(FACTS / "nq.tsv")]
    rng.shuffle(questions)
    records: list[Record] = []
    for index, fact in enumerate(rng.sample(facts, len(facts))):
        texts = templates[fact.relation]
        src = fill(texts[rng.choice(("src_1", "src_2"))], fact.subject)
        rephrase = fill(texts[rng.choice(("rephrase_1", "rephrase_2"))], fact.subject)
        pred, alt = fact.answers[0], pick_alt(fact, objects[fact.relation], rng)
        if contains(fact.subject, pred):
            raise ValueError(f"{fact.subject!r} gives away its answer {pred!r}")
        start = index % len(questions)
        own = (fact.subject, *fact.answers, alt)
        loc, loc_ans = next(
            pair
            for pair in questions[start:] + questions[:start]
            if not any(contains(" ".join(pair), text) for text in own)
        )
        records.append(
            {
                "subject": fact.subject,
                "src": src,
                "pred": pred,
                "rephrase": rephrase,
                "alt": alt,
                "answers": list(fact.answers),
                "loc": f"nq question: {loc}",
                "loc_ans": loc_ans,
                "cond": f"{pred} >> {alt} || {src}",
            }
        )
    return records


def generate() -> dict[Path, str]:
    """Return the text of each output file."""
    rng = random.Random(SEED)
    pools = {relation: read_facts(relation) for relation in read_templates()}
    objects = {r: sorted({fact.answers[0] for fact in pool}) for r, pool in pools.items()}
    for pool in pools.values():
        rng.shuffle(pool)
    used: set[str] = set()
    outputs = {}
    for name, quota, least in (
        ("edited-data/zsre.json", EDITS_PER_RELATION, EDITS_PER_RELATION),
        ("training-data/zsre_mend_eval.json", EVAL_PER_RELATION, EVAL_PER_RELATION),
        ("training-data/zsre_mend_train.json", TRAIN_PER_RELATION, LEAST_TRAIN_PER_RELATION),
    ):
        facts = take(pools, quota, used)
        for relation in pools:
            if sum(fact.relation == relation for fact in facts) < least:
                raise ValueError(f"{relation}.tsv: too few subjects for {name}")
        records = build(facts, objects, rng)
        outputs[HERE / name] = json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    return outputs


def main() -> int:
    """Write the files, or with --check compare them; return the exit status."""
    return write("Generate the sample zsRE files.", generate())


def write(description: str, outputs: dict[Path, str]) -> int:
    """Write files, or with --check on the command line compare them; return the exit status."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="only compare the files")
    check = parser.parse_args().check
    for path, text in outputs.items():
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".json.tmp")
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            print(f"{path} is not up to date: run {Path(sys.argv[0]).name}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
