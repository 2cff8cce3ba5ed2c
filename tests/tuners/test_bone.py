"""Bone in PEFT: what the contract suite does not see (configuration, old checkpoints, several adapters, conditioning)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from accelerate import cpu_offload
from hypothesis import given, settings
from peft import MissConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linchain import BoneConfig, LinchainError
from linchain.tuners.bone.layer import BoneLinear

from .common import former_bone_config

EXACT = {"rtol": 1e-12, "atol": 1e-12}
FORMS = ("col", "row", "plain")
every_form = pytest.mark.parametrize("form", FORMS)


def mlp(dtype: torch.dtype = torch.float64, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8, bias), nn.Tanh(), nn.Linear(8, 16, bias)).to(dtype)


def bone(form: str, model: nn.Module | None = None, **options: Any) -> PeftModel:
    torch.manual_seed(1)
    options = {"r": 4, "init_weights": False, "target_modules": ["0", "2"], **options}
    return get_peft_model(mlp() if model is None else model, BoneConfig(form=form, **options))


def x(dtype: torch.dtype = torch.float64) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(3, 5, 12).to(dtype)


def blocks(model: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in model.named_parameters() if "_block" in name]


@settings(deadline=None, max_examples=20)
@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_col_is_pefts_bat(sizes: tuple[int, int, int, int], bias: bool, dtype: torch.dtype) -> None:
    r, outs, ins, tokens = sizes
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    torch.manual_seed(r + 10 * outs + 100 * ins)
    base = nn.Linear(ins * r, outs * r, bias).to(dtype)
    start = 0.3 * torch.randn(outs, r, r, dtype=dtype)
    inputs = torch.randn(tokens, ins * r, dtype=dtype)
    found = []
    for config in (BoneConfig(r=r, target_modules=["0"]), MissConfig(r=r, init_weights="bat", target_modules=["0"])):
        twin = nn.Sequential(nn.Linear(ins * r, outs * r, bias).to(dtype))
        twin[0].load_state_dict(base.state_dict())
        model = get_peft_model(twin, config)
        (block,) = blocks(model)
        with torch.no_grad():
            block.copy_(start)
        leaf = inputs.clone().requires_grad_()
        y = model(leaf)
        y.square().sum().backward()
        model.merge_adapter()
        merged = model.base_model.model[0].get_base_layer().weight.detach()
        found.append((y.detach(), leaf.grad, block.grad, merged))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_plain_is_pefts_miss_also_where_r_does_not_divide() -> None:
    ours = bone("plain", r=5)
    theirs = get_peft_model(mlp(), MissConfig(r=5, target_modules=["0", "2"]))
    with torch.no_grad():
        for one, other in zip(blocks(ours), blocks(theirs), strict=True):
            other.copy_(one)
    torch.testing.assert_close(ours(x()), theirs(x()), **EXACT)


@every_form
def test_parameters(form: str) -> None:
    expected = {"col": [(2, 4, 4), (4, 4, 4)], "row": [(3, 4, 4), (2, 4, 4)], "plain": [(4, 8), (4, 16)]}
    model = bone(form, init_weights=True)
    assert [tuple(p.shape) for p in blocks(model)] == expected[form]
    assert all(not p.any() for p in blocks(model))


@pytest.mark.parametrize("form", ["col", "row"])
def test_widths_that_do_not_fit_are_refused_before_anything_is_replaced(form: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 12))
    with pytest.raises(LinchainError) as caught:
        get_peft_model(model, BoneConfig(r=8, form=form, target_modules=["0", "1"]))
    assert "r=8 does not fit target module '1'" in str(caught.value)
    assert "12 x 8" in str(caught.value)
    assert "fit all 2 target modules: 1, 2, 4" in str(caught.value)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("targets", ["all-linear", ["0", "1"]])
def test_a_misfit_leaves_the_model_as_it_was(targets: Any) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 12))
    with pytest.raises(LinchainError, match="r=8 does not fit target module '1'"):
        get_peft_model(model, BoneConfig(r=8, target_modules=targets))
    assert type(model[0]) is nn.Linear
    adapted = get_peft_model(model, BoneConfig(r=4, target_modules=["0", "1"]))
    with pytest.raises(LinchainError, match="r=8 does not fit target module '1'"):
        adapted.add_adapter("other", BoneConfig(r=8, target_modules=targets))
    assert not [name for name in adapted.state_dict() if ".other" in name]


def test_a_second_adapter_on_all_linear_layers() -> None:
    """PEFT knows an adapted linear layer by its class's name."""
    model = bone("col", target_modules=["0"])
    model.add_adapter("other", BoneConfig(r=4, target_modules="all-linear"))
    model.add_adapter("regex", BoneConfig(r=4, target_modules="(0|2).*"))
    for name in ("other", "regex"):
        assert [n for n, _ in model.named_parameters() if n.endswith(name)] == [
            f"base_model.model.{i}.bone_block.{name}" for i in (0, 2)
        ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r": 0}, "r must be a positive integer, got 0"),
        ({"r": True}, "r must be a positive integer, got True"),
        ({"form": "rows"}, "form='rows' is unknown; did you mean 'row'? Accepted: 'col', 'row', 'plain'"),
        ({"bias": "lora_only"}, "bias='lora_only' is unknown"),
        ({"init_weights": "bat"}, 'init_weights="bat" is form="col" here'),
        ({"target_modules": "(", "r": 4}, "is no regular expression"),
        ({"target_modules": ".*q", "layers_to_transform": [0]}, "layers_to_transform cannot be used when"),
        ({"target_modules": ["1"], "r": 4}, "target module '1' is a Embedding: Bone adapts linear layers"),
        ({"target_modules": ["0"], "r": 9, "form": "plain"}, "r=9 is more than target module '0' takes"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(LinchainError) as caught:
        get_peft_model(nn.Sequential(nn.Linear(8, 8), nn.Embedding(4, 4)), BoneConfig(**options))
    assert words in str(caught.value)


def test_col_refuses_a_layer_with_a_forward_of_its_own() -> None:
    class Clipped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).clamp(-1, 1)

    with pytest.raises(LinchainError, match="a Clipped with a forward of its own"):
        bone("col", nn.Sequential(Clipped(8, 8)), target_modules=["0"])
    base = Clipped(8, 8).double()
    model = bone("row", nn.Sequential(copy.deepcopy(base)), target_modules=["0"])
    inputs, block = 3 * torch.randn(2, 8).double(), blocks(model)[0]
    z = torch.einsum("tjk,jlk->tjl", inputs.view(2, 2, 4), block)
    expected = base(inputs + z.flatten(1)) + z.sum(1).repeat(1, 2)
    torch.testing.assert_close(model(inputs), expected, **EXACT)


def test_col_says_that_it_cannot_read_offloaded_weights() -> None:
    model = bone("col", target_modules=["0"])
    model.base_model.model[0].base_layer.to("meta")
    with pytest.raises(LinchainError, match="0: the input is on cpu, the weight on meta"):
        model(x())


def test_tensor_parallelism_is_refused() -> None:
    model = mlp()
    model[0]._hf_tp_plan = "colwise"
    with pytest.raises(LinchainError, match="Bone does not support tensor parallelism"):
        bone("row", model)


@every_form
def test_several_active_adapters_move_the_weight_in_turn(form: str) -> None:
    """Forward, merged weight and gradients agree, whatever form the second adapter has."""
    for other in FORMS:
        model = bone(form)
        model.add_adapter("other", BoneConfig(r=2, form=other, init_weights=False, target_modules=["0", "2"]))
        model.base_model.set_adapter(["default", "other"])
        y = model(x())
        gradients = torch.autograd.grad(y.square().sum(), blocks(model))
        assert all(g.abs().sum() > 0 for g in gradients)
        dense = nn.functional.linear(
            torch.tanh(nn.functional.linear(x(), *moved(model, 0))), *moved(model, 2)
        )  # fmt: skip
        torch.testing.assert_close(y, dense, **EXACT)
        for ours, plain in zip(gradients, torch.autograd.grad(dense.square().sum(), blocks(model)), strict=True):
            torch.testing.assert_close(ours, plain, **EXACT)
        model.eval().merge_adapter()
        torch.testing.assert_close(model(x()), y, **EXACT)
        model.unmerge_adapter()
        torch.testing.assert_close(model(x()), y, rtol=1e-9, atol=1e-9)


def moved(model: PeftModel, index: int) -> tuple[Tensor, Tensor]:
    layer = model.base_model.model[index]
    return layer._moved_weight(["default", "other"]), layer.base_layer.bias


def test_ill_conditioned_blocks_are_not_unmerged() -> None:
    model = bone("col", mlp(torch.float32), target_modules=["2"])
    with torch.no_grad():
        blocks(model)[0][1] = -torch.eye(4) * (1 - 1e-6)  # I + B nearly vanishes in one direction …
        blocks(model)[0][1, 0, 0] = 0.0  # … and is 1 in another
    y = model(x(torch.float32))
    model.merge_adapter()
    with pytest.raises(LinchainError) as caught:
        model.unmerge_adapter()
    assert "adapter 'default' cannot be unmerged from 2" in str(caught.value)
    assert "I + B has condition number 9.87e+05" in str(caught.value)
    assert "keep_weight=True" in str(caught.value)
    torch.testing.assert_close(model(x(torch.float32)), y)  # still merged, as it was


@every_form
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_kept_weights_come_back_to_the_bit(form: str, dtype: torch.dtype) -> None:
    model = bone(form, mlp(dtype), keep_weight=True)
    model.add_adapter("other", BoneConfig(r=4, init_weights=False, target_modules=["0"]))
    with torch.no_grad():
        blocks(model)[0].mul_(1e3)
    before = [layer.weight.detach().clone() for layer in (model.base_model.model[0], model.base_model.model[2])]
    for _ in range(2):
        model.merge_adapter(["default"])
        model.merge_adapter(["other"])
        assert not torch.equal(model.base_model.model[0].weight, before[0])
        model.unmerge_adapter()
        for layer, weight in zip((model.base_model.model[0], model.base_model.model[2]), before, strict=True):
            assert torch.equal(layer.weight, weight)


@every_form
def test_a_kept_weight_follows_its_layer(form: str) -> None:
    """Cast while merged, it comes back cast; merged for good, nothing is kept."""
    model = bone(form, mlp(torch.float32), keep_weight=True)
    expected = mlp(torch.float32).double()(x())
    model.merge_adapter()
    model.double()
    model.unmerge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(model(x()), expected, **EXACT)
    layers = [module for module in model.modules() if isinstance(module, BoneLinear)]
    model.merge_and_unload()
    assert [layer._kept for layer in layers] == [None, None]


def test_what_cannot_come_back_is_not_unmerged() -> None:
    """plain is never ill-conditioned, but an update far above the weight drowns it."""
    model = bone("plain", mlp(torch.bfloat16), target_modules=["0"])
    with torch.no_grad():
        blocks(model)[0].normal_(std=100)
    model.merge_adapter()
    with pytest.raises(LinchainError, match=r"would be amplified .* half of bfloat16's digits come back"):
        model.unmerge_adapter()
    model = bone("row", mlp(torch.float32), target_modules=["0"])
    with torch.no_grad():
        blocks(model)[0].copy_(-torch.eye(4))
    model.merge_adapter()
    with pytest.raises(LinchainError, match="I \\+ B is singular"):
        model.unmerge_adapter()


def test_a_merged_adapter_is_not_deleted() -> None:
    layer = bone("col").base_model.model[0]
    layer.merge()
    with pytest.raises(LinchainError, match="adapter 'default' is merged into 0: unmerge it before deleting it"):
        layer.delete_adapter("default")


@every_form
def test_conv1d_layers(form: str) -> None:
    """GPT-2's layers keep their weight transposed."""
    linear = mlp()
    transposed = nn.Sequential(Conv1D(8, 12), nn.Tanh(), Conv1D(16, 8)).double()
    with torch.no_grad():
        for index in (0, 2):
            transposed[index].weight.copy_(linear[index].weight.T)
            transposed[index].bias.copy_(linear[index].bias)
    one, other = bone(form, linear), bone(form, transposed)
    torch.testing.assert_close(one(x()), other(x()), **EXACT)
    gradients = [torch.autograd.grad(model(x()).square().sum(), blocks(model)) for model in (one, other)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    delta = other.base_model.model[0].get_delta_weight("default")
    assert delta.shape == (12, 8)
    other.merge_adapter()
    assert other.base_model.model[0].base_layer.weight.is_contiguous()
    torch.testing.assert_close(other(x()), one(x()), **EXACT)
    other.unmerge_adapter()
    torch.testing.assert_close(other(x()), one(x()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("init_weights", "form"), [("bat", "col"), (True, "plain")])
def test_checkpoints_of_pefts_former_bone_load(tmp_path: Path, init_weights: Any, form: str) -> None:
    """As PEFT 0.15 wrote them: no `form`, and the start says what they hold."""
    config = former_bone_config(init_weights, r=4, target_modules=["0", "2"])
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    reference = bone(form)
    tensors = {f"base_model.model.{i}.bone_block": blocks(reference)[i // 2].detach() for i in (0, 2)}
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match=f"former Bone.* is read as bone-{form}"):
        loaded = PeftModel.from_pretrained(mlp(), tmp_path)
    torch.testing.assert_close(loaded(x()), reference(x()), **EXACT)
    loaded.save_pretrained(tmp_path / "again")
    again = PeftConfig.from_pretrained(tmp_path / "again")
    assert (again.form, again.init_weights) == (form, True)


def test_biases_of_pefts_former_bone_were_not_saved() -> None:
    with pytest.warns(UserWarning, match="bias='Bone_only': PEFT's former Bone did not save its biases"):
        config = BoneConfig(peft_type="BONE", init_weights="bat", bias="Bone_only")  # type: ignore[arg-type]
    assert (config.form, config.bias) == ("col", "none")


def test_default_form_is_col_and_is_saved(tmp_path: Path) -> None:
    config = BoneConfig(r=4, keep_weight=True, target_modules=["0"])
    get_peft_model(mlp(), config).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (saved["peft_type"], saved["form"], saved["r"], saved["keep_weight"]) == ("BONE", "col", 4, True)


def test_mixed_batches_are_refused() -> None:
    model = bone("row").eval()
    with pytest.raises(LinchainError, match="does not support batches of several adapters"):
        model(x(), adapter_names=["default", "__base__", "default"])


@every_form
def test_biases_train_where_asked(form: str) -> None:
    model = bone(form, bias="bone_only")
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sum("bias" in name for name in names) == 2
    model(x()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


@every_form
def test_delta_weight_is_the_change_that_merging_makes(form: str) -> None:
    model = bone(form)
    layer = model.base_model.model[0]
    before, delta = layer.weight.detach().clone(), layer.get_delta_weight("default")
    model.merge_adapter()
    torch.testing.assert_close(layer.weight, before + delta, **EXACT)


@every_form
def test_offloaded_blocks_are_refused(form: str) -> None:
    """accelerate brings back what a module's own forward reads; nothing calls the dictionary that holds the blocks."""
    model = cpu_offload(bone(form), torch.device("cpu"))
    with pytest.raises(LinchainError, match="blocks of adapter 'default' are offloaded"):
        model(x())
