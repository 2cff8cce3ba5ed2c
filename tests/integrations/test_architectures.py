"""Every architecture trains, merges, saves, loads and exports with each of our methods; see docs/architectures.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from linchain import BoneConfig, LinChainConfig
from linchain.convert.export import export
from tests.integrations.tiny_models import ARCHITECTURES, Architecture, logits, train

METHODS: dict[str, Callable[..., Any]] = {
    "linchain": lambda **options: LinChainConfig(r=4, chain_length=2, init_weights="orthogonal", **options),
    "bone-col": lambda **options: BoneConfig(r=8, form="col", **options),
    "bone-row": lambda **options: BoneConfig(r=8, form="row", **options),
}
EXPORTS = {"linchain": ("lora", "merged"), "bone-col": ("merged",), "bone-row": ("merged",)}
# Bone adapts modules, not parameters of stacked experts
CASES = [
    (name, method)
    for name, architecture in ARCHITECTURES.items()
    for method in METHODS
    if method == "linchain" or "target_parameters" not in architecture.targets
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an architecture's base model, written when first asked for."""
    root = tmp_path_factory.mktemp("architectures")

    def folder(name: str) -> Path:
        path = root / name.replace(" ", "-")
        if not path.exists():
            ARCHITECTURES[name].build().save_pretrained(path)
        return path

    return folder


def load(architecture: Architecture, folder: Path) -> Any:
    import transformers

    return getattr(transformers, architecture.model).from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_trains_merges_saves_and_exports(
    name: str, method: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    architecture, folder = ARCHITECTURES[name], folders(name)
    batch = architecture.batch()
    base = load(architecture, folder)
    before = logits(base, batch)
    torch.manual_seed(2)
    config = METHODS[method](task_type=architecture.task_type, **architecture.targets)
    model = get_peft_model(base, config)
    start = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    trainable = {key for key, p in model.named_parameters() if p.requires_grad}

    losses = train(model, batch, steps=2)  # two, because at first B = 0 and A and the chain have no gradient
    assert losses[-1] < losses[0]
    changed = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, start[key])}
    assert changed == trainable
    adapted = logits(model, batch)
    assert (adapted - before).abs().max() > 1e-3
    with model.disable_adapter():
        torch.testing.assert_close(logits(model, batch), before, rtol=0, atol=0)

    model.save_pretrained(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(load(architecture, folder), tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded, batch), adapted, rtol=0, atol=0)
    torch.testing.assert_close(logits(model.merge_and_unload(), batch), adapted, rtol=1e-4, atol=1e-4)

    for to in EXPORTS.get(method, ()):
        assert export(tmp_path / "adapter", tmp_path / to, to).comparison.passed
