"""What every experiment shares: types, model, generation, readers, metrics, results. Imports no editor, no task."""
