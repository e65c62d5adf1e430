"""Generate the sample of the six glue tasks from `texts/` and the fact tables in `facts/`.

Written are, below task-data/, test-glue_<task>.jsonl with 48 records each, as
many of each label as of any other. Reviews and sentences are those of the
tables in texts/; statements, pairs of them and questions are made of facts.

The output depends on nothing but the tables, so running the script again
rewrites the same bytes; `--check` reports whether the files on disk are the
ones that the tables give.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from make_edit_sets import QUESTIONS, STATEMENTS, Tables, in_turn
from make_zsre import HERE, Fact, contains, fill, read_facts, read_table, read_templates, write

SEED = 2
RECORDS = 48
LETTERS = 4

Record = dict[str, Any]


def texts(name: str, rng: random.Random) -> list[Record]:
    """The texts of a table in an order of chance: label 1 of those that are good, else 0."""
    rows = read_table(HERE / "texts" / f"{name}.tsv")
    both = [{"sentence": row[column], "label": label} for row in rows for label, column in enumerate(("bad", "good"))]
    return rng.sample(both, len(both))


def same(one: Fact, other: Fact) -> bool:
    """Whether facts of one relation could be mistaken for each other: an answer or the subject is in both."""
    pairs = [(a, b) for a in (one.subject, *one.answers) for b in (other.subject, *other.answers)]
    return any(contains(a, b) or contains(b, a) for a, b in pairs)


def pairs(tables: Tables, rng: random.Random) -> list[tuple[Fact, Fact, bool]]:
    """Two facts of one relation each, and whether what is made of them is to be true."""
    firsts = in_turn({name: tables[name] for name in STATEMENTS}, RECORDS, rng)
    truths = rng.sample([True, False] * (RECORDS // 2), RECORDS)
    return [
        (fact, rng.choice([other for other in tables[fact.relation] if not same(fact, other)]), true)
        for fact, true in zip(firsts, truths, strict=True)
    ]


def stated(fact: Fact, template: str, answer: str | None = None) -> str:
    """The fact as a sentence, or one with another answer."""
    text = f"{fill(read_templates()[fact.relation][template], fact.subject)} {answer or fact.answers[0]}."
    return text[0].upper() + text[1:]


def mrpc(tables: Tables, rng: random.Random) -> list[Record]:
    """A fact in two wordings, or two facts of one relation."""
    return [
        {
            "sentence1": stated(fact, rng.choice(("src_1", "src_2"))),
            "sentence2": stated(fact if true else other, rng.choice(("rephrase_1", "rephrase_2"))),
            "label": int(true),
        }
        for fact, other, true in pairs(tables, rng)
    ]


def entailed(tables: Tables, rng: random.Random, labels: tuple[Any, Any]) -> list[Record]:
    """Two facts of one relation, then one of them in other words, or with the answer of the other.

    `labels` are those of what does not follow and of what does.
    """
    records: list[Record] = []
    for fact, other, true in pairs(tables, rng):
        told = [stated(one, "src_1") for one in (fact, other)]
        records.append(
            {
                "sentence1": " ".join(rng.sample(told, 2)),
                "sentence2": stated(
                    fact, rng.choice(("rephrase_1", "rephrase_2")), (fact if true else other).answers[0]
                ),
                "label": labels[true],
            }
        )
    return records


def mmlu(tables: Tables, rng: random.Random) -> list[Record]:
    """Questions with the right answer and three others of the same relation."""
    templates = read_templates()
    places = rng.sample(list(range(LETTERS)) * (RECORDS // LETTERS), RECORDS)
    records: list[Record] = []
    facts = in_turn({name: tables[name] for name in QUESTIONS}, RECORDS, rng)
    for fact, place in zip(facts, places, strict=True):
        wrong = sorted({other.answers[0] for other in tables[fact.relation] if not same(fact, other)})
        choices = rng.sample(wrong, LETTERS - 1)
        choices.insert(place, fact.answers[0])
        records.append(
            {"question": fill(templates[fact.relation]["src_1"], fact.subject), "choices": choices, "answer": place}
        )
    return records


def generate() -> dict[Path, str]:
    """Return the text of each output file."""
    rng = random.Random(SEED)
    tables = {relation: read_facts(relation) for relation in read_templates()}
    files = {
        "sst": texts("reviews", rng),
        "cola": texts("sentences", rng),
        "mrpc": mrpc(tables, rng),
        "rte": entailed(tables, rng, (1, 0)),
        "nli": entailed(tables, rng, ("not_entailment", "entailment")),
        "mmlu": mmlu(tables, rng),
    }
    return {
        HERE / "task-data" / f"test-glue_{name}.jsonl": "".join(
            json.dumps(record, ensure_ascii=False) + "\n" for record in records
        )
        for name, records in files.items()
    }


if __name__ == "__main__":
    sys.exit(write("Generate the sample of the glue tasks.", generate()))
