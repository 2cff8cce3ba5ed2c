"""What can be said about a model and an adapter: sizes and memory before training, ranks after it and along it."""
