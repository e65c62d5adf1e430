"""The report: result files in, one HTML page, its figures and a table out. Knows no model and runs none."""

GENERATOR = "report of model-editing-ability"
"""What a page says made it: by it an older report is known, and replaced."""
