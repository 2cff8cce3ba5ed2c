"""Data, prompt, answer extraction: from a record of a file to tokens and a gold answer.

`records` reads data wherever it lies, one file a format says how a record becomes text, `encoding` turns that text into
tokens with a loss mask, `answers` compares generated text with a gold answer.
"""
