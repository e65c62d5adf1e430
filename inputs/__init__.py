"""What a run needs, found, fetched and checked: models, data, second moments, settings."""
