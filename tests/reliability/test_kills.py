"""A short form of tests/reliability/kills.py: some kills of each subject, in a process that may fork."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_killed_work_ends_as_undisturbed_work():
    command = [sys.executable, "-m", "tests.reliability.kills", "--kills", "6", "--seed", "7"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    tallies = [json.loads(line) for line in ended.stdout.splitlines()]
    assert all(tally["kills"] for tally in tallies)
    assert sum(tally["kills"] for tally in tallies) >= 6
    assert [tally["different"] for tally in tallies] == [[]] * len(tallies)
