"""What a run needs: models, data, second moments and settings are located, fetched, checked and suggested."""
