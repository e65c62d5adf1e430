"""CounterFact in flat records, as EasyEdit and those after it publish it: JSON, or one object a line.

The rephrased prompt and the locality prompts may be one string or a list; one answer may stand for all of a list.
"""

from collections.abc import Mapping

from edit_sets._select import Selecting


class CounterFactFlat(Selecting):
    name = "counterfact_flat"
    file = "edited-data/counterfact_flat.jsonl"
    keys: Mapping[str, str] = {
        **{"prompt": "prompt", "subject": "subject", "target": "target_new", "old": "ground_truth"},
        **{"rephrase": "rephrase_prompt", "locality": "locality_prompt", "locality_answer": "locality_ground_truth"},
        **{"case": "case_id", "relation": "relation_id"},
    }
    several = ("rephrase", "locality", "locality_answer")


EDIT_SET = CounterFactFlat()
