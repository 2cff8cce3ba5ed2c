"""Checkpoints without a training."""

from linchain.files import write_json


def save_checkpoint(checkpoints, step, weights=b"weights"):
    """What a training to 50 steps leaves at `step`."""
    with checkpoints.writing(step) as scratch:
        folder = scratch / f"checkpoint-{step}"
        write_json(folder / "trainer_state.json", {"global_step": step, "max_steps": 50, "best_global_step": None})
        (folder / "adapter_model.safetensors").write_bytes(weights)
