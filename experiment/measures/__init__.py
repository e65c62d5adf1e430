"""What is measured beside the scores: how likely texts are, drift from the unedited model, collapse."""

NAMES = ("text_logprob", "reference_logprob", "choice_probability", "drift")
"""The words of --measures; core.lm.likelihood says what they are. A drift brings reference_logprob along."""
