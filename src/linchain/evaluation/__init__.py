"""Scores of a model on a task, with per-example predictions and intervals."""
