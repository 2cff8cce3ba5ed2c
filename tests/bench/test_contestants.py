"""Who takes part: everyone can step, all share the frozen weights, and the naive chain computes what ours does."""

from __future__ import annotations

import pytest
import torch

from linchain.bench.contestants import CONTESTANTS, FLOOR, FLOOR_AGAIN, FULL, adapted_modules, choose
from linchain.bench.workload import Workload
from linchain.errors import LinchainError
from tests.bench.common import TINY, trainees

NAMES = [contestant.name for contestant in CONTESTANTS]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_everyone_takes_a_step_and_leaves_the_shared_weights_alone(dtype: str) -> None:
    workload = Workload(**TINY, dtype=dtype)
    floor, *others = trainees(workload, *(contestant.name for contestant in choose(None, workload)))
    frozen = {name: tensor.clone() for name, tensor in floor.model.state_dict().items()}
    for trainee in others:
        trained = [p for p in trainee.model.parameters() if p.requires_grad]
        assert (trainee.name == FLOOR_AGAIN) == (not trained)
        trainee.forward().backward()
        # the embedding's rows are not looked up: the batch is of embeddings
        without = [p for p in trained if p.grad is None or not p.grad.any()]
        assert len(without) == (trainee.name == FULL), trainee.name
        trainee.step()
        assert all(p.grad is None for p in trained)
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in floor.model.state_dict().items())


def test_the_frozen_weights_are_shared_except_where_they_are_trained() -> None:
    floor, linchain, bone, full = trainees(Workload(**TINY), FLOOR, "linchain", "bone-col", FULL)
    weight = floor.model.model.layers[0].self_attn.q_proj.weight
    for other in (linchain, bone):
        assert adapted_modules(other.model)[0].get_base_layer().weight is weight
    assert full.model.model.layers[0].self_attn.q_proj.weight.data_ptr() != weight.data_ptr()
    assert not hasattr(floor.model.model.layers[0].self_attn.q_proj, "lora_A")


def test_nothing_that_is_trained_is_zero() -> None:
    for trainee in trainees(Workload(**TINY), *NAMES[2:-1]):
        assert all(p.any() for p in trainee.model.parameters() if p.requires_grad), trainee.name


@pytest.mark.parametrize(("naive", "length"), [("naive-linchain", 3), ("naive-moslora", 1)])
def test_the_naive_chain_equals_ours(naive: str, length: int) -> None:
    ours, theirs = trainees(Workload(**TINY, dtype="float32", chain_length=length), "linchain", naive)
    with torch.no_grad():
        for own, other in zip(adapted_modules(ours.model), adapted_modules(theirs.model), strict=True):
            a, *mixers = other.lora_A["default"]
            a.weight.copy_(own.lora_A["default"].weight)
            other.lora_B["default"].weight.copy_(own.lora_B["default"].weight)
            for mixer, factor in zip(mixers, own.lora_A["default"].factors(), strict=True):
                mixer.weight.copy_(factor)
    losses = [trainee.forward() for trainee in (ours, theirs)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    for own, other in zip(adapted_modules(ours.model), adapted_modules(theirs.model), strict=True):
        torch.testing.assert_close(own.lora_A["default"].weight.grad, other.lora_A["default"][0].weight.grad)


@pytest.mark.parametrize(
    ("name", "dtypes"),
    [
        ("linchain", {torch.float32}),
        ("linchain-bf16", {torch.bfloat16}),
        ("peft-lora", {torch.float32}),
        ("peft-lora-autocast", {torch.float32}),
        ("peft-lora-bf16", {torch.bfloat16}),
        ("naive-linchain", {torch.float32}),
        ("full", {torch.bfloat16}),
    ],
)
def test_what_is_trained_has_the_dtype_that_the_name_says(name: str, dtypes: set[torch.dtype]) -> None:
    (trainee,) = trainees(Workload(**TINY), name)
    assert {p.dtype for p in trainee.model.parameters() if p.requires_grad} == dtypes


def test_the_floors_are_always_among_the_chosen() -> None:
    assert [c.name for c in choose(["peft-lora"], Workload())] == [FLOOR, FLOOR_AGAIN, "peft-lora"]


def test_unknown_and_senseless_contestants_are_refused_by_name() -> None:
    with pytest.raises(LinchainError, match="unknown contestant 'linchian'; did you mean 'linchain'"):
        choose(["linchian"], Workload())
    with pytest.raises(LinchainError, match="'peft-lora-bf16' needs --dtype bfloat16"):
        choose(["peft-lora-bf16"], Workload(dtype="float32"))
