"""Harnesses for fuzzing what linchain reads: configurations, data, adapters. README.md says how to run them."""
