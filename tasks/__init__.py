"""The tasks: every module without a leading underscore that defines TASK, a `core.types.Task`, is one.

Those of a folder `tasks` with an __init__.py anywhere on PYTHONPATH are found too.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

EIGHT = (
    *("ClosedDomainQA", "dialogue", "NER", "NLI"),
    *("OpenDomainQA", "reasoning", "SentimentAnalysis", "summarization"),
)
"""Those of the paper, which `all` stands for. A further one is asked for by its name."""
