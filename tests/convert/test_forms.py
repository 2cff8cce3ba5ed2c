"""The whole table of conversions, end to end: what it lists is written and loads elsewhere, what it does not is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, MissConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from linchain import BoneConfig, LinChainConfig
from linchain.convert import export
from linchain.convert.forms import APPROXIMATE, CONVERSIONS, EXACT, NAMES, TARGETS
from linchain.errors import LinchainError
from linchain.ops import reference
from tests.tuners.common import former_bone_config

# what PEFT's former Bone was, PEFT's remarks on Conv1D
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

IDS = torch.arange(60).view(2, 30)
TARGETS_OF: dict[str, Any] = {"target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
RANDOM: dict[str, Any] = {"init_weights": False, **TARGETS_OF}
CONFIGS: dict[str, Any] = {
    "linchain": LinChainConfig(r=4, chain_length=2, **RANDOM),
    "lora": LoraConfig(r=4, init_lora_weights=False, **TARGETS_OF),
    "bone-col": BoneConfig(r=8, form="col", **RANDOM),
    "bone-row": BoneConfig(r=8, form="row", **RANDOM),
    "bone-plain": BoneConfig(r=5, form="plain", **RANDOM),
    "miss": MissConfig(r=5, **RANDOM),
    "miss-mini": MissConfig(r=5, **TARGETS_OF, init_weights="mini", mini_r=4),
    "miss-bat": MissConfig(r=8, **TARGETS_OF, init_weights="bat"),
}
# what an adapter of each form loads as
CLASSES = {"lora": LoraConfig, "linchain": LinChainConfig, "bone": BoneConfig, "miss": MissConfig}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(IDS)[0]


def save_adapter(base: Path, config: Any, folder: Path, auto: Any = AutoModelForCausalLM, **options: Any) -> Any:
    """Save an adapter with everything random for `base` in `folder`; returns the live model."""
    torch.manual_seed(1)
    model = get_peft_model(auto.from_pretrained(base, **options), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.03 if "block" in name else 0.2)
    model.save_pretrained(str(folder))
    return model.eval()


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def saved(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder with an adapter of every kind for the tiny model, and what each computes."""
    folder = tmp_path_factory.mktemp("kinds")
    found = {kind: logits(save_adapter(tiny_model, config, folder / kind)) for kind, config in CONFIGS.items()}
    # with mixers that are identities, as an authors' checkpoint, the LoRA stays what it is
    shutil.copytree(folder / "lora", folder / "fork")
    weights = folder / "fork" / "adapter_model.safetensors"
    tensors = load_file(weights)
    for key in [key for key in tensors if ".lora_A." in key]:
        tensors[key.replace("lora_A.weight", "lora_mixer.0.weight")] = torch.eye(4)
    save_file(tensors, weights, {"format": "pt"})
    edit_config(folder / "fork", lora_use_mixer=True, mixer_num=1)
    return folder, found | {"fork": found["lora"]}


def test_the_documentation_has_this_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")
    ]
    start = next(i for i, row in enumerate(rows) if row[0] == "from")
    assert rows[start] == ["from", *(f"`{to}`" for to in TARGETS)]
    found = {row[0]: dict(zip(TARGETS, row[1:], strict=True)) for row in rows[start + 1 : start + 1 + len(NAMES)]}
    words = {None: "", APPROXIMATE: f"`{APPROXIMATE}`", EXACT: EXACT}
    assert found == {NAMES[kind]: {to: words[ways.get(to)] for to in TARGETS} for kind, ways in CONVERSIONS.items()}


PAIRS = [(kind, to) for kind in CONVERSIONS for to in TARGETS]


def test_every_kind_and_every_target_is_tried() -> None:
    assert CONVERSIONS.keys() == NAMES.keys() == CONFIGS.keys() | {"fork"}
    assert {to for ways in CONVERSIONS.values() for to in ways} == set(TARGETS) == CLASSES.keys() | {"merged"}


@pytest.mark.parametrize(("kind", "to"), PAIRS)
def test_the_table(kind: Any, to: str, saved: tuple[Path, dict[str, Tensor]], tiny_model: Path, tmp_path: Path) -> None:
    folder, expected = saved
    how = CONVERSIONS[kind].get(to)
    if how is None:
        with pytest.raises(LinchainError) as refused:
            export(folder / kind, tmp_path / "out", to)
        message, _, offers = str(refused.value).partition(" It converts to ")
        what = f"{folder / kind} is a {NAMES[kind]} adapter"
        assert message in (f"{what} already.", f"{what}, which does not convert to {to}.")
        words = set(re.split(", | ", offers.replace("(approximately, with --svd-rank)", "").strip()))
        assert words == CONVERSIONS[kind].keys()
        assert ("lora (approximately" in offers) == (APPROXIMATE in CONVERSIONS[kind].values())
        assert list(tmp_path.iterdir()) == []
        return
    # all 32 singular values of the narrower side: an approximation with nothing left out
    done = export(folder / kind, tmp_path / "out", to, svd_rank=32 if how == APPROXIMATE else None)
    assert (done.approximation is None) == (how != APPROXIMATE)
    assert done.comparison.passed
    assert done.comparison.effect > 0.5
    assert done.source == f"{NAMES[kind]} adapter in {folder / kind}"
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out" if to == "merged" else tiny_model)
    if to != "merged":
        model = PeftModel.from_pretrained(model, tmp_path / "out")
        assert type(model.peft_config["default"]) is CLASSES[to]
    torch.testing.assert_close(logits(model), expected[kind], rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("kind", ["bone-col", "bone-row", "miss-bat"])
def test_an_approximation_is_written_however_far_it_is_and_says_so(
    kind: str, saved: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    folder, _ = saved
    done = export(folder / kind, tmp_path / "out", "lora", svd_rank=2)
    assert not done.comparison.passed
    assert done.approximation is not None
    assert 0.1 < done.approximation.error <= done.approximation.worst < 1
    assert done.description == "plain LoRA adapter of rank 2 (an approximation)"
    readme = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert f"from a {kind.replace('miss-', 'MiSS ')} adapter, which no LoRA equals" in readme
    assert f"**It is not the same model**: {done.approximation}." in readme
    closer = export(folder / kind, tmp_path / "closer", "lora", svd_rank=8)
    assert closer.approximation is not None
    assert closer.approximation.error < done.approximation.error


@pytest.mark.parametrize("to", ["lora", "merged", "miss"])
def test_what_is_not_finite_is_not_written(to: str, saved: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    shutil.copytree(saved[0] / "bone-col", tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    tensors[next(iter(tensors))][0, 0, 0] = torch.nan
    save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(LinchainError, match="holds values that are not finite"):
        export(tmp_path / "adapter", tmp_path / "out", to, svd_rank=4 if to == "lora" else None)
    assert not (tmp_path / "out").exists()


DENSE: dict[str, Any] = {
    "bone-col": reference.bone_col_weight,
    "bone-row": reference.bone_row_weight,
    "bone-plain": reference.bone_plain_weight,
}


@pytest.mark.parametrize("kind", DENSE)
def test_a_merged_bfloat16_weight_is_the_exact_one_rounded_once(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    save_adapter(base, CONFIGS[kind], tmp_path / "adapter")
    export(tmp_path / "adapter", tmp_path / "out", "merged")
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "out"))
    blocks = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    moved = 0
    for name, weight in before.items():
        block = blocks.get(f"base_model.model.{name.removesuffix('.weight')}.bone_block")
        assert after[name].dtype == torch.bfloat16
        if block is None:
            assert torch.equal(after[name], weight), name
            continue
        exact = DENSE[kind](weight.double(), block.double())
        # half of bfloat16's last digit (8 binary ones), and float32's own rounding
        half = torch.ldexp(torch.ones_like(exact), torch.frexp(exact).exponent - 9)
        assert ((after[name].double() - exact).abs() <= half * (1 + 1e-3) + 1e-6).all(), name
        moved += 1
    assert moved == 6


@pytest.mark.parametrize("init_weights", [True, "bat"])
def test_checkpoints_of_pefts_former_bone(init_weights: Any, tiny_model: Path, tmp_path: Path) -> None:
    kind, name = ("miss-bat", "bone-col") if init_weights == "bat" else ("miss", "bone-plain")
    expected = logits(save_adapter(tiny_model, CONFIGS[kind], tmp_path / "live"))
    tensors = load_file(tmp_path / "live" / "adapter_model.safetensors")
    folder = tmp_path / "bone"
    folder.mkdir()
    renamed = {key.replace("miss_block", "bone_block"): tensor for key, tensor in tensors.items()}
    save_file(renamed, folder / "adapter_model.safetensors", {"format": "pt"})
    targets = ["q_proj", "v_proj", "down_proj"]
    config = former_bone_config(
        init_weights, CONFIGS[kind].r, targets, base_model_name_or_path=str(tiny_model), task_type="CAUSAL_LM"
    )
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for to, how in CONVERSIONS[name].items():
        out = tmp_path / f"out-{to}"
        done = export(folder, out, to, svd_rank=32 if how == APPROXIMATE else None)
        assert done.source == f"{name} adapter, saved by PEFT's former Bone in {folder}"
        model: Any = AutoModelForCausalLM.from_pretrained(out if to == "merged" else tiny_model)
        model = model if to == "merged" else PeftModel.from_pretrained(model, out)
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=2e-4)
    written = load_file(tmp_path / "out-miss" / "adapter_model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(("kind", "to"), [("bone-row", "merged"), ("bone-col", "miss"), ("miss", "lora")])
def test_a_classifier_keeps_its_head(kind: str, to: str, tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"pad_token_id": 1}))
    auto = AutoModelForSequenceClassification
    adapter = type(CONFIGS[kind])(**CONFIGS[kind].to_dict() | {"task_type": "SEQ_CLS", "peft_type": None})
    live = save_adapter(base, adapter, tmp_path / "adapter", auto, num_labels=3)
    assert export(tmp_path / "adapter", tmp_path / "out", to).comparison.passed
    model: Any = auto.from_pretrained(tmp_path / "out" if to == "merged" else base, num_labels=3)
    model = model if to == "merged" else PeftModel.from_pretrained(model, tmp_path / "out")
    assert logits(model).shape == (2, 3)
    torch.testing.assert_close(logits(model), logits(live), rtol=1e-5, atol=1e-5)


def test_layers_that_pefts_miss_does_not_take(tiny_model: Path, tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
    GPT2LMHeadModel(GPT2Config(vocab_size=400, **sizes)).save_pretrained(tmp_path / "gpt2")
    config = BoneConfig(r=8, form="col", target_modules=["c_attn"], task_type="CAUSAL_LM")
    live = save_adapter(tmp_path / "gpt2", config, tmp_path / "adapter")
    with pytest.raises(LinchainError, match=r"--to miss: PEFT does not load it on .*Conv1D"):
        export(tmp_path / "adapter", tmp_path / "out", "miss")
    assert not (tmp_path / "out").exists()
    assert export(tmp_path / "adapter", tmp_path / "lora", "lora", svd_rank=32).comparison.passed
    export(tmp_path / "adapter", tmp_path / "merged", "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(live), rtol=1e-5, atol=1e-4)
