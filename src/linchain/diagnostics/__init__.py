"""What can be said about a model and an adapter without training: sizes, memory, ranks."""
