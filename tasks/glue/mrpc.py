"""glue_mrpc: do two sentences say the same (GLUE MRPC dev), as AlphaEdit's authors ask for it.

Source: Dolan and Brockett 2005, by way of GLUE. Labels: 1 (a paraphrase) -> Yes, 0 -> No. The full stop in "Are the
sentences paraphrases of each other." is theirs.

Differs from the released code: see tasks/glue. as_released looks for "yes" first, then "no", also inside words
("not", "know").
"""

from tasks.glue import GlueTask


class MRPC(GlueTask):
    name = "glue_mrpc"
    file = "test-glue_mrpc.jsonl"
    choices = ("Yes", "No")
    labels = ("No", "Yes")
    template = "Are the sentences paraphrases of each other.\nSentence 1: {sentence1}\nSentence 2: {sentence2}\nAnswer:"
    cue = "Answer:"
    heard = (("yes", "Yes"), ("no", "No"))


TASK = MRPC()
