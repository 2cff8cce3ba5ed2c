"""What the trainer's callbacks write and ask for."""

import signal

import pytest
from transformers import TrainerControl, TrainerState

from linchain.training import callbacks


@pytest.mark.parametrize(("step", "logged"), [(14, False), (15, True)])
def test_the_last_step_is_logged_whatever_logging_steps_says(tmp_path, step, logged):
    control = TrainerControl()
    callbacks.MetricsFile(tmp_path / "metrics.jsonl").on_step_end(
        None, TrainerState(global_step=step, max_steps=15), control
    )
    assert control.should_log is logged


def test_a_signal_that_comes_while_a_process_waits_for_the_others_stops_the_next_step(monkeypatch):
    def exchange(stopped):
        if stopped is None:
            signal.raise_signal(signal.SIGTERM)
        return [stopped, None]

    monkeypatch.setattr(callbacks, "exchange", exchange)
    monkeypatch.setattr(callbacks, "count", lambda: 2)
    asked = []
    with callbacks.StopOnSignal() as stop:
        for _ in range(2):
            control = TrainerControl()
            stop.on_step_end(None, TrainerState(), control)
            asked.append(control.should_save and control.should_training_stop)
    assert asked == [False, True]
