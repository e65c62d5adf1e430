"""The vector that makes a model say the target, v* of ROME and z of MEMIT: settings, prompts, and the search for it."""
