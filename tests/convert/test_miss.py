"""MiSS → LoRA and MiSS ↔ Bone: one formula under several names, in stock PEFT's classes, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import MissConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from linchain import BoneConfig
from linchain.convert.adapter import adapter_of
from linchain.convert.miss import bone_to_miss, miss_to_bone, miss_to_lora
from tests.convert.test_fold import as_lora, assert_same

# PEFT's remark on Conv1D, whose weight is transposed
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out")


def base(width: int, out: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, out), nn.Tanh(), nn.Linear(out, width)).double()


def adapted(model: nn.Module, config: Any) -> PeftModel:
    """`model` with an adapter of which everything is random."""
    torch.manual_seed(1)
    model = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return model.eval()


def loaded(model: nn.Module, config: Any, tensors: dict[str, Tensor]) -> PeftModel:
    """`model` with an adapter, every tensor of which is one of `tensors` and the other way round."""
    model = get_peft_model(model, config)
    assert get_peft_model_state_dict(model).keys() == tensors.keys()
    set_peft_model_state_dict(model, tensors)
    return model.eval()


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@st.composite
def plain_shapes(draw: st.DrawFn) -> tuple[int, int, Any]:
    """Widths that r need not divide, and the configuration of a MiSS (default or mini) or a bone-plain for them."""
    width, out = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    options = {"r": draw(st.integers(1, width)), "target_modules": ["0"]}
    form = draw(st.sampled_from(["bone", "miss", "mini"]))
    if form == "bone":
        return width, out, BoneConfig(form="plain", **options)
    if form == "miss":
        return width, out, MissConfig(**options)
    mini = draw(st.sampled_from([n for n in range(1, out + 1) if out % n == 0]))
    return width, out, MissConfig(init_weights="mini", mini_r=mini, **options)


@given(plain_shapes())
def test_miss_is_a_lora(shape: tuple[int, int, Any]) -> None:
    width, out, config = shape
    model = adapted(base(width, out), config)
    found, tensors = miss_to_lora(*adapter_of(model, "default"), {"base_model.model.0": (width, out)})
    assert tensors["base_model.model.0.lora_A.weight"].shape == (config.r, width)
    assert tensors["base_model.model.0.lora_B.weight"].shape == (out, config.r)
    x = torch.randn(5, width, dtype=torch.float64)
    before, after = model(x), as_lora(base(width, out), found, tensors)(x)
    assert not torch.allclose(before, base(width, out)(x))
    assert_same(before, after)


def test_bone_plain_on_a_conv1d_is_a_lora() -> None:
    def conv() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(Conv1D(5, 7)).double()

    model = adapted(conv(), BoneConfig(r=3, form="plain", target_modules=["0"]))
    config, tensors = miss_to_lora(*adapter_of(model, "default"), {"base_model.model.0": (7, 5)})
    x = torch.randn(4, 7, dtype=torch.float64)
    assert_same(model(x), as_lora(conv(), config, tensors)(x))


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=25)
def test_bat_and_bone_col_are_one_tensor(r: int, tiles: int, rows: int) -> None:
    width, out = r * tiles, r * rows
    options = {"r": r, "target_modules": ["0", "2"]}
    miss = adapted(base(width, out), MissConfig(init_weights="bat", **options))
    config, tensors = adapter_of(miss, "default")
    bone_config, bone_tensors = miss_to_bone(config, tensors)
    assert (bone_config.form, bone_config.r) == ("col", r)
    x = torch.randn(5, width, dtype=torch.float64)
    assert_same(miss(x), loaded(base(width, out), bone_config, bone_tensors)(x))

    back, back_tensors = bone_to_miss(bone_config, bone_tensors)
    assert back.to_dict() == config.to_dict()
    assert equal(back_tensors, tensors)
    again, again_tensors = miss_to_bone(back, back_tensors)
    assert again.to_dict() == bone_config.to_dict()
    assert equal(again_tensors, bone_tensors)


@pytest.mark.parametrize("form", ["col", "plain"])
def test_bone_in_stock_pefts_miss(form: str) -> None:
    bone = adapted(base(12, 8), BoneConfig(r=4, form=form, target_modules=["0", "2"]))
    config, tensors = bone_to_miss(*adapter_of(bone, "default"))
    assert type(config) is MissConfig
    assert config.init_weights == {"col": "bat", "plain": True}[form]
    originals = get_peft_model_state_dict(bone)
    assert equal({key.replace("miss_block", "bone_block"): tensor for key, tensor in tensors.items()}, originals)
    x = torch.randn(5, 12, dtype=torch.float64)
    assert_same(bone(x), loaded(base(12, 8), config, tensors)(x))


BIASES = [("lora_only", "bone_only", "MiSS_only"), ("all", "all", "all"), ("none", "none", "none")]


@pytest.mark.parametrize(("lora_bias", "bone_bias", "miss_bias"), BIASES, ids=["only", "all", "none"])
def test_biases_are_carried(lora_bias: str, bone_bias: str, miss_bias: str) -> None:
    options = {"r": 4, "target_modules": ["0"]}
    x = torch.randn(5, 8, dtype=torch.float64)
    miss = adapted(base(8, 12), MissConfig(init_weights="bat", bias=miss_bias, **options))
    found, tensors = miss_to_bone(*adapter_of(miss, "default"))
    assert found.bias == bone_bias
    assert sum(key.endswith(".bias") for key in tensors) == {"all": 2, "none": 0}.get(lora_bias, 1)
    assert_same(miss(x), loaded(base(8, 12), found, tensors)(x))

    plain = adapted(base(8, 12), BoneConfig(form="plain", bias=bone_bias, **options))
    found, tensors = bone_to_miss(*adapter_of(plain, "default"))
    assert found.bias == miss_bias
    assert_same(plain(x), loaded(base(8, 12), found, tensors)(x))
    for model in (plain, adapted(base(8, 12), MissConfig(bias=miss_bias, **options))):
        lora, factors = miss_to_lora(*adapter_of(model, "default"), {"base_model.model.0": (8, 12)})
        assert lora.bias == lora_bias
        assert_same(model(x), as_lora(base(8, 12), lora, factors)(x))


def test_modules_saved_in_full_are_carried() -> None:
    miss = adapted(base(8, 12), MissConfig(r=4, target_modules=["0"], modules_to_save=["2"]))
    config, tensors = miss_to_lora(*adapter_of(miss, "default"), {"base_model.model.0": (8, 12)})
    assert config.modules_to_save == ["2"]
    x = torch.randn(5, 8, dtype=torch.float64)
    assert_same(miss(x), as_lora(base(8, 12), config, tensors)(x))


SHARED: dict[str, Any] = {
    "target_modules": ["q_proj", "up_proj"],
    "exclude_modules": ["lm_head"],
    "layers_to_transform": [1, 2],
    "layers_pattern": "layers",
    "modules_to_save": ["score"],
    "task_type": "SEQ_CLS",
    "base_model_name_or_path": "a-model",
}


@pytest.mark.parametrize("convert", ["to lora", "to bone", "to miss"])
def test_settings_that_both_have_are_kept(convert: str, recwarn: pytest.WarningsRecorder) -> None:
    bone = BoneConfig(r=3, **SHARED)
    miss = MissConfig(r=3, init_weights="bat", **SHARED)
    found: Any = {
        "to lora": lambda: miss_to_lora(MissConfig(r=3, **SHARED), {}, {}),
        "to bone": lambda: miss_to_bone(miss, {}),
        "to miss": lambda: bone_to_miss(bone, {}),
    }[convert]()[0]
    kept = {name: getattr(found, name) for name in SHARED}
    assert kept == SHARED | {"target_modules": {"q_proj", "up_proj"}, "exclude_modules": {"lm_head"}}
    assert found.r == 3
    assert [str(warning.message) for warning in recwarn] == []


def test_scale_and_dropout_of_the_lora() -> None:
    lora, _ = miss_to_lora(MissConfig(r=6, miss_dropout=0.25), {}, {})
    assert (lora.r, lora.lora_alpha, lora.use_rslora, lora.lora_dropout) == (6, 6, False, 0.25)
    lora, _ = miss_to_lora(BoneConfig(r=6, form="plain"), {}, {})
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (6, 6, 0)


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (
            lambda: miss_to_bone(MissConfig(init_weights="bat", miss_dropout=0.1), {}),
            r"miss_dropout=0\.1 is left out: BoneConfig has nothing like it",
        ),
        (
            lambda: bone_to_miss(BoneConfig(keep_weight=True), {}),
            "keep_weight=True is left out: MissConfig has nothing",
        ),
        (
            lambda: miss_to_lora(BoneConfig(form="plain", keep_weight=True), {}, {}),
            "keep_weight=True is left out: LoraConfig has nothing",
        ),
    ],
    ids=["miss_dropout", "keep_weight to MiSS", "keep_weight to LoRA"],
)
def test_settings_without_a_counterpart_are_remarked_on(convert: Any, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        convert()
