"""What is logged of the steps' losses, and when they stop a run."""

import math

import pytest
import torch

from linchain.errors import DivergedError
from linchain.training.losses import StepLosses


def with_losses(*losses):
    steps = StepLosses()
    for step, loss in enumerate(losses, start=1):
        steps.add(step, torch.tensor(loss), [f"train.jsonl:{step}"])
    return steps


def test_the_log_has_the_mean_over_the_steps_since_the_last_one():
    losses = with_losses(1.0, 2.0)
    losses.add(2, torch.tensor(3.0), ["train.jsonl:7"])  # the second part of step 2
    assert losses.logged(2) == 3.0
    losses.add(3, torch.tensor(0.5), [])
    assert losses.logged(3) == 0.5


def test_a_checkpoint_between_two_logs_changes_nothing(tmp_path):
    whole, first = with_losses(1.0, 0.1, 0.7), with_losses(1.0, 0.1)
    first.write(tmp_path)
    resumed = StepLosses()
    resumed.read(tmp_path)
    resumed.add(3, torch.tensor(0.7), [])
    assert resumed.logged(3) == whole.logged(3)
    assert resumed.first == whole.first


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("asked", ["logged", "write"])
def test_a_loss_that_is_no_number_names_its_step_and_examples(tmp_path, loss, asked):
    losses = with_losses(1.0, loss, 1.0)
    losses.add(3, torch.tensor(1.0), ["train.jsonl:8"])
    with pytest.raises(DivergedError, match=r"no longer a number at step 2, whose examples are train\.jsonl:2$"):
        losses.logged(3) if asked == "logged" else losses.write(tmp_path)


def test_many_examples_are_not_all_listed():
    losses = StepLosses()
    losses.add(1, torch.tensor(math.nan), [f"train.jsonl:{line}" for line in range(1, 33)])
    with pytest.raises(DivergedError, match=r"train\.jsonl:10 and 22 more$"):
        losses.logged(1)


@pytest.mark.parametrize(("first", "then", "explodes"), [(2.5, 24.0, False), (2.5, 26.0, True), (0.01, 9.0, False)])
def test_a_loss_many_times_the_first_one_explodes(first, then, explodes):
    losses = with_losses(first)
    losses.logged(1)
    losses.add(2, torch.tensor(then), ["train.jsonl:5"])
    if explodes:
        with pytest.raises(DivergedError, match=r"explodes: 26 at step 2, 2\.5 in the beginning; .* train\.jsonl:5"):
            losses.logged(2)
    else:
        assert losses.logged(2) == pytest.approx(then)


def test_the_examples_of_all_processes_are_named(monkeypatch):
    monkeypatch.setattr("linchain.training.losses.exchange", lambda examples: [["train.jsonl:9"], examples])
    with pytest.raises(DivergedError, match=r"at step 1, whose examples are train\.jsonl:9, train\.jsonl:1$"):
        with_losses(math.nan).logged(1)
