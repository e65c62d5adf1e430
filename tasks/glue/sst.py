"""glue_sst: the sentiment of a snippet of a film review (GLUE SST-2 dev), as AlphaEdit's authors ask for it.

Source: Socher et al. 2013, by way of GLUE. Labels: 1 -> positive, 0 -> negative. No blank stands between "Review :" and
the text, as there; the task SentimentAnalysis asks about the same snippets in other words.

Differs from the released code: see tasks/glue. as_released looks for "positive" first ("not positive" is positive).
"""

from tasks.glue import GlueTask


class SST(GlueTask):
    name = "glue_sst"
    file = "test-glue_sst.jsonl"
    choices = ("positive", "negative")
    labels = ("negative", "positive")
    keys = ("sentence",)
    template = "Review :{sentence}\nSentiment :"
    cue = "Sentiment :"
    heard = (("positive", "positive"), ("negative", "negative"))


TASK = SST()
