"""Edit a model and score it, once or as a grid."""
