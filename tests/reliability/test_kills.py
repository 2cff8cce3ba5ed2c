"""A short form of tests/reliability/kills.py: some kills of training and export, in a process that may fork.

Comparisons are killed in tests/lab/test_compare.py.
"""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_killed_work_ends_as_undisturbed_work():
    command = [sys.executable, "-m", "tests.reliability.kills", "--kills", "8", "--seed", "7"]
    command += ["--only", "train", "export"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    tallies = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(tallies) == 4
    assert all(tally["kills"] for tally in tallies)
    assert [tally["different"] for tally in tallies] == [[]] * len(tallies)
