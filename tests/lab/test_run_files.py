"""A damaged file of a run is named with the line and the key, before anything is computed from it."""

import json

import pytest

from linchain.errors import LinchainError
from linchain.files import write_text
from linchain.lab.trials import Trial

RESULT = {
    "scores": {},
    "parameters": {"trainable": 1, "total": 2},
    "seconds": 1.0,
    "resumed_from_step": None,
    "cost": None,
}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("result.json", "[]", r"result\.json: expected a mapping of keys to values, found list"),
        ("result.json", "{}", r"result\.json: 5 mistakes"),
        ("result.json", '{"a', r"result\.json: not valid JSON"),
        ("result.json", "[" * 10**5, r"result\.json: not valid JSON"),
        ("result.json", json.dumps(RESULT), r"result\.json: scores: none of the validation split"),
        ("error.json", "[]", r"error\.json: expected a mapping"),
        ("error.json", '{"error": "full", "diverged": "no"}', r"error\.json: diverged: must be"),
        ("predictions/validation.jsonl", None, r"validation\.jsonl cannot be read: No such file"),
        ("predictions/validation.jsonl", '{"id": 0, "correct": "no"}\n', r"validation\.jsonl:1: correct: must be"),
        ("metrics.jsonl", '{"step": 1, "loss": 2.0}\n[]\n', r"metrics\.jsonl:2: expected a mapping"),
        ("metrics.jsonl", f'{{"step": {10**300}, "loss": 2.0}}\n', r"metrics\.jsonl:1: step: must be less"),
        ("metrics.jsonl", "\N{LATIN SMALL LETTER E WITH ACUTE}\n".encode("latin-1"), r"metrics\.jsonl cannot be read"),
        ("diagnostics.jsonl", '{"step": 0, "factors": [1]}\n', r"diagnostics\.jsonl:1: factors: must be a mapping"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, says):
    trial = Trial("lora", "search", None, 1e-3, None, tmp_path, {})
    if content is not None:
        write_text(tmp_path / name, "")
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    read = {
        "result.json": lambda: trial.result,
        "error.json": lambda: trial.failure,
        "predictions/validation.jsonl": lambda: trial.predictions("validation"),
        "metrics.jsonl": lambda: trial.metrics,
        "diagnostics.jsonl": lambda: trial.diagnostics,
    }
    with pytest.raises(LinchainError, match=says):
        read[name]()


def test_what_is_read_stands_there_as_it_was_written(tmp_path):
    rows = [{"step": 1, "loss": None}, {"step": 2, "eval_loss": float("inf"), "also": [1]}]
    write_text(tmp_path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert Trial("lora", "final", None, 1e-3, 1, tmp_path, {}).metrics == rows
