"""Naive twins of the editors: the equations one by one, whole prompts through the whole model, no result kept.

They share the model table, tokenisation and weight layout with the project (core/), none of its shortcuts. Tests
compare with them; benchmarks take them as the baseline.
"""
