"""Each of the three seeds moves the run, and moves nothing but its own part."""

import json

import pytest
from safetensors.torch import load_file

from linchain.training.load_config import build_config
from linchain.training.run import train
from linchain.training.run_folder import RunFolder


def run(tiny_model, folder, **seeds):
    values = {
        "model": str(tiny_model),
        "method": {"name": "linchain", "r": 4, "chain_length": 2, "lora_dropout": 0.3, "target_modules": ["q_proj"]},
        "data": {"train": "starter:two_step", "limit": 24},
        "training": {"max_steps": 3, "batch_size": 4, "logging_steps": 1, "save_steps": 1, "seed": 1, **seeds},
        "output": str(folder),
    }
    train(build_config(values))
    files = RunFolder(folder)
    losses = [json.loads(line)["loss"] for line in files.metrics.read_text().splitlines()]
    return losses, load_file(files.adapter / "adapter_model.safetensors")


def same(left, right):
    return all(left[key].equal(right[key]) for key in left)


@pytest.fixture(scope="module")
def reference(tiny_model, tmp_path_factory):
    return run(tiny_model, tmp_path_factory.mktemp("seeds") / "reference")


@pytest.mark.parametrize("part", ["init", "data", "dropout"])
def test_a_seed_moves_the_run(tiny_model, tmp_path, reference, part):
    losses, adapter = run(tiny_model, tmp_path / "run", **{f"{part}_seed": 2})
    assert not same(adapter, reference[1])
    # B starts at zero: the first loss knows of the data alone, whatever A and dropout are
    assert (losses[0] == reference[0][0]) is (part != "data")


def test_seeds_that_are_given_apart_are_those_of_the_one_seed(tiny_model, tmp_path, reference):
    losses, adapter = run(tiny_model, tmp_path / "run", seed=9, init_seed=1, data_seed=1, dropout_seed=1)
    assert losses == reference[0]
    assert same(adapter, reference[1])
