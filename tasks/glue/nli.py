"""glue_nli: recognising textual entailment again (GLUE RTE train), in the words of the task NLI with a capital A.

Source: Wang et al. 2019 (GLUE), the rows that the task NLI has, too. Labels: entailment -> True, not_entailment ->
False, here the right way round.

Differs from the released code: see tasks/glue. That takes any other label for "not entailment"; here it is refused.
as_released looks for "true" first ("untrue" is true).
"""

from core import readers as files
from tasks.glue import GlueTask


class GlueNLI(GlueTask):
    name = "glue_nli"
    file = "test-glue_nli.jsonl"
    choices = ("True", "False")
    template = "{sentence1} entails the {sentence2} True or False? Answer:"
    cue = "True or False? Answer:"
    heard = (("true", "True"), ("false", "False"))

    def label(self, record: files.Record, where: str) -> str:
        labels = {"entailment": "True", "not_entailment": "False"}
        return files.label(files.field(record, self.label_key, str, where), labels, where)


TASK = GlueNLI()
