"""glue_cola: is a sentence grammatical (GLUE CoLA dev), as AlphaEdit's authors ask for it.

Source: Warstadt et al. 2019, by way of GLUE. Labels: 1 (acceptable) -> Yes, 0 -> No. The prompt ends in a blank, as
there; most models never saw that before a word, and choice_accuracy and the likelihoods put the word's own blank behind
it, as the released `f1_new` does.

Differs from the released code: see tasks/glue. as_released looks for "yes" first, then "no", also inside words.
"""

from tasks.glue import GlueTask


class CoLA(GlueTask):
    name = "glue_cola"
    file = "test-glue_cola.jsonl"
    choices = ("Yes", "No")
    labels = ("No", "Yes")
    keys = ("sentence",)
    template = "Is this sentence linguistically acceptable?\nSentence: {sentence}\nAnswer: "
    cue = "Answer:"
    heard = (("yes", "Yes"), ("no", "No"))


TASK = CoLA()
