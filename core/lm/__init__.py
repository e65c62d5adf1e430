"""Look into a language model and change it: the only room that knows torch modules."""
