"""The tasks of lm-evaluation-harness, scored on the model in memory: they stand beside the tasks of tasks/.

The harness is an optional extra (requirements-lm-eval.txt); what needs it imports it where it is asked for.
"""
