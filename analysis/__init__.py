"""The report: result files in, one HTML page, its figures and a table out. Knows no model and runs none."""
