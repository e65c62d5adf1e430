"""Generate the sample edits in the other formats from the fact tables in `facts/`.

Written are, below edited-data/: counterfact.json, 200 records in CounterFact's
own format; counterfact_flat.jsonl, the first of these in the flat format;
qaedit.json, questions with their true answers and five unrelated questions
each; knowedit.json, cities moved to another country, with questions of
portability and locality by kind.

The output depends on nothing but the tables, so running the script again
rewrites the same bytes; `--check` reports whether the files on disk are the
ones that the tables give.
"""

import json
import random
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from make_zsre import FACTS, HERE, Fact, contains, fill, pick_alt, read_facts, read_table, read_templates, write

SEED = 1
COUNTERFACT = 200
SHORT = 24
NEIGHBOURS = 10
LEAST_NEIGHBOURS = 4
UNRELATED = 5
STATEMENTS = (
    *("currency", "city_country", "landmark_city", "native_language", "field"),
    *("manufacturer", "developer", "headquarters", "sport"),
)
QUESTIONS = ("language", "author", "director", "composer", "painter", "year", "symbol", "birth_country", "performer")
OPENINGS = (
    "The shop on the corner opens at nine.",
    "It rained for most of the afternoon.",
    "She closed the book and put it back on the shelf.",
    "Two of the chairs had to be repaired.",
    "The last train had already left.",
    "Nobody had watered the plants all week.",
    "His brother keeps bees.",
    "The committee meets again in spring.",
    "They painted the fence green.",
    "A bowl of soup stood on the table.",
    "The map was older than the road.",
    "Her bicycle needs a new chain.",
)

Record = dict[str, Any]
Tables = dict[str, list[Fact]]


def in_turn(tables: Tables, count: int, rng: random.Random) -> list[Fact]:
    """Draw `count` facts, the relations taking turns while they last, in a shuffled order."""
    pools = [rng.sample(facts, len(facts)) for facts in tables.values()]
    drawn = []
    while len(drawn) < count:
        pools = [pool for pool in pools if pool]
        drawn += [pool.pop() for pool in pools][: count - len(drawn)]
    return rng.sample(drawn, count)


def counterfact(tables: Tables, rng: random.Random) -> list[Record]:
    """Statements with a false object, neighbours with the same true one."""
    templates = read_templates()
    known: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for relation in STATEMENTS:
        for fact in tables[relation]:
            known[relation, fact.answers[0]].append(fact)
    enough = {
        relation: [fact for fact in tables[relation] if len(known[relation, fact.answers[0]]) > LEAST_NEIGHBOURS]
        for relation in STATEMENTS
    }
    records: list[Record] = []
    for index, fact in enumerate(in_turn(enough, COUNTERFACT, rng)):
        texts = templates[fact.relation]
        prompts = [texts["src_1"], texts["src_2"]]
        others = [one for one in known[fact.relation, fact.answers[0]] if fact.subject not in one.subject]
        new = pick_alt(fact, sorted({one.answers[0] for one in tables[fact.relation]}), rng)
        records.append(
            {
                "case_id": index,
                "requested_rewrite": {
                    "prompt": rng.choice(prompts),
                    "relation_id": fact.relation,
                    "target_new": {"str": new},
                    "target_true": {"str": fact.answers[0]},
                    "subject": fact.subject,
                },
                "paraphrase_prompts": [
                    f"{rng.choice(OPENINGS)} {fill(texts[name], fact.subject)}" for name in ("rephrase_1", "rephrase_2")
                ],
                "neighborhood_prompts": [
                    fill(rng.choice(prompts), other.subject)
                    for other in rng.sample(others, min(NEIGHBOURS, len(others)))
                ],
                "attribute_prompts": [],
                "generation_prompts": [],
            }
        )
    return records


def flat(record: Record) -> Record:
    """A record of CounterFact in the flat format, with one prompt of each kind."""
    asked = record["requested_rewrite"]
    return {
        "case_id": record["case_id"],
        "prompt": fill(asked["prompt"], asked["subject"]),
        "target_new": asked["target_new"]["str"],
        "subject": asked["subject"],
        "ground_truth": asked["target_true"]["str"],
        "rephrase_prompt": record["paraphrase_prompts"][0],
        "locality_prompt": record["neighborhood_prompts"][0],
        "locality_ground_truth": asked["target_true"]["str"],
    }


def qaedit(tables: Tables, rng: random.Random) -> list[Record]:
    """Questions to be answered rightly, and unrelated ones."""
    templates = read_templates()
    unrelated = [(row["question"], row["answer"]) for row in read_table(FACTS / "nq.tsv")]
    records: list[Record] = []
    for index, fact in enumerate(in_turn({name: tables[name] for name in QUESTIONS}, SHORT, rng)):
        texts = templates[fact.relation]
        own = (fact.subject, *fact.answers)
        apart = [pair for pair in unrelated if not any(contains(" ".join(pair), text) for text in own)]
        records.append(
            {
                "id": index,
                "source": fact.relation,
                "prompt": fill(texts["src_1"], fact.subject),
                "target": fact.answers[0],
                "subject": fact.subject,
                "rephrase": fill(texts["rephrase_1"], fact.subject),
                "locality": [{"loc": loc, "loc_ans": answer} for loc, answer in rng.sample(apart, UNRELATED)],
            }
        )
    return records


def knowedit(tables: Tables, rng: random.Random) -> list[Record]:
    """Cities in another country: what follows from that, and what does not."""
    capital, currency = ({fact.subject: fact for fact in tables[name]} for name in ("capital", "currency"))
    cities = tables["city_country"]
    countries = sorted({city.answers[0] for city in cities} & capital.keys() & currency.keys())
    records: list[Record] = []
    for city in rng.sample([city for city in cities if city.answers[0] in countries], SHORT):
        name, old = city.subject, city.answers[0]
        new = rng.choice([country for country in countries if country != old and not contains(country, old)])
        other = rng.choice([one for one in cities if one.answers[0] not in (old, new)])
        records.append(
            {
                "subject": name,
                "prompt": f"{name} is a city in the country of",
                "target_new": new,
                "ground_truth": old,
                "rephrase": f"The city of {name} is located in",
                "portability": {
                    "Logical_Generalization": [
                        {
                            "prompt": f"Question: Is {name} a city in {new}, yes or no? Answer:",
                            "ground_truth": [["yes"], ["Yes"]],
                        }
                    ],
                    "Reasoning": [
                        {
                            "prompt": f"The capital of the country that {name} lies in is",
                            "ground_truth": [list(capital[new].answers)],
                        },
                        {
                            "prompt": f"The currency of the country that {name} lies in is the",
                            "ground_truth": [list(currency[new].answers)],
                        },
                    ],
                },
                "locality": {
                    "Relation_Specificity": [
                        {
                            "prompt": f"{other.subject} is a city in the country of",
                            "ground_truth": [list(other.answers)],
                        }
                    ],
                    "Forgetfulness": [
                        {
                            "prompt": f"{name} is a city in a country that is not {new}, but",
                            "ground_truth": [list(city.answers)],
                        }
                    ],
                },
            }
        )
    return records


def generate() -> dict[Path, str]:
    """Return the text of each output file."""
    rng = random.Random(SEED)
    tables = {relation: read_facts(relation) for relation in read_templates()}
    nested = counterfact(tables, rng)
    lists = {"counterfact": nested, "qaedit": qaedit(tables, rng), "knowedit": knowedit(tables, rng)}
    texts = {f"{name}.json": json.dumps(found, indent=1, ensure_ascii=False) + "\n" for name, found in lists.items()}
    lines = [json.dumps(flat(record), ensure_ascii=False) + "\n" for record in nested[:SHORT]]
    return {
        HERE / "edited-data" / name: text for name, text in {**texts, "counterfact_flat.jsonl": "".join(lines)}.items()
    }


if __name__ == "__main__":
    sys.exit(write("Generate the sample edits in other formats.", generate()))
