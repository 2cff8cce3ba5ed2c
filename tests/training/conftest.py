import json

import pytest

from linchain.training.load_config import build_config
from tests.training.short_runs import numbers


@pytest.fixture
def configure(tmp_path, tiny_model):
    """Builds the configuration of a run of 10 steps, 3 and a half epochs, into the folder `name`."""
    for name, records in (("train", numbers(22)), ("test", numbers(6, 30))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def build(name, **sections):
        values = {
            "model": str(tiny_model),
            "method": {"name": "linchain", "r": 4, "lora_dropout": 0.1},
            "data": {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")},
            "training": {
                "max_steps": 10,
                "batch_size": 4,
                "gradient_accumulation_steps": 2,
                "learning_rate": 1e-2,
                "warmup_steps": 2,
                "logging_steps": 1,
                "save_steps": 4,
            },
            "evaluation": {"max_new_tokens": 4},
            "output": str(tmp_path / name),
        }
        for section, changes in sections.items():
            values[section] = {**values[section], **changes}
        return build_config(values)

    return build
