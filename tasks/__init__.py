"""The tasks: every module without a leading underscore that defines TASK, a `core.types.Task`, is one.

Those of a folder `tasks` with an __init__.py anywhere on PYTHONPATH are found too.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

EIGHT = (
    *("ClosedDomainQA", "dialogue", "NER", "NLI"),
    *("OpenDomainQA", "reasoning", "SentimentAnalysis", "summarization"),
)
"""Those of the paper."""
SIX = ("glue_cola", "glue_mmlu", "glue_mrpc", "glue_nli", "glue_rte", "glue_sst")
"""Those of AlphaEdit's authors, which many papers after it report."""
GROUPS = {"all": EIGHT, "glue": SIX}
"""Words for several tasks. A further task is asked for by its name."""
