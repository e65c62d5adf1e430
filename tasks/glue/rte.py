"""glue_rte: recognising textual entailment (GLUE RTE dev), as AlphaEdit's authors ask for it.

Source: Wang et al. 2019 (GLUE). Labels: 0 (entailment) -> True, 1 (not_entailment) -> False, as GLUE defines them.

Differs from the released code: that takes label 1 for "True" and 0 for "False", the wrong way round, so that its score
rewards a model for denying what follows; as_released does so too. Without examples, which would teach a model the
inverted answers, a falling as_released need not be damage, nor a rising one recovery. It looks for "false" first, then
"true". For the rest see tasks/glue.
"""

from tasks.glue import GlueTask


class RTE(GlueTask):
    name = "glue_rte"
    file = "test-glue_rte.jsonl"
    choices = ("True", "False")
    labels = ("True", "False")
    template = "{sentence1}\nquestion: {sentence2} True or False?\nanswer:"
    cue = "answer:"
    heard = (("false", "False"), ("true", "True"))

    def taught(self, label: str) -> str:
        return {"True": "False", "False": "True"}[label]


TASK = RTE()
