"""What the trainer's callbacks write and ask for."""

import pytest
from transformers import TrainerControl, TrainerState

from linchain.training.callbacks import MetricsFile


@pytest.mark.parametrize(("step", "logged"), [(14, False), (15, True)])
def test_the_last_step_is_logged_whatever_logging_steps_says(tmp_path, step, logged):
    control = TrainerControl()
    MetricsFile(tmp_path / "metrics.jsonl").on_step_end(None, TrainerState(global_step=step, max_steps=15), control)
    assert control.should_log is logged
