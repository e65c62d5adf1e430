"""What the report draws: scores as curves, edits and the trade-off as points."""
