"""In evaluation a chain is folded once, and never used once its parameters have changed, however they did."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils.hotswap import hotswap_adapter
from torch import Tensor, nn

from linchain import LinChainConfig
from linchain.tuners.linchain import chain, layer
from linchain.tuners.linchain.remembered import Remembers, forget_all
from tests.integrations.tiny_models import ARCHITECTURES, LLAMA_TARGETS
from tests.tuners.common import EXACT, linchain
from tests.tuners.common import x as sequences_of_five

# a plain chain, one of other widths, none at all; and layers that go through PEFT's forward, which calls A
KINDS: dict[str, dict[str, Any]] = {
    "n = 3": {"chain_length": 3},
    "n = 0": {"chain_length": 0},
    "4-6-2": {"chain_widths": [4, 6, 2]},
    "A is called": {"chain_length": 2, "lora_bias": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def x() -> Tensor:
    """Sequences of one token, for which a result may be remembered."""
    return sequences_of_five()[:, :1]


def evaluated(kind: str, model: nn.Module | None = None) -> PeftModel:
    """A model that remembers: it ran twice in evaluation."""
    model = linchain(model, **KINDS[kind]).eval()
    output(model)
    output(model)
    return model


@torch.no_grad()
def output(model: nn.Module, **kwargs: Any) -> Tensor:
    dtype = next(model.parameters()).dtype
    return model(x().to(dtype), **kwargs).double()


def fresh(model: nn.Module, **kwargs: Any) -> Tensor:
    """The output of a model with the same values that remembers nothing."""
    twin = copy.deepcopy(model)
    forget_all(twin)
    return output(twin, **kwargs)


def trained(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def changed(model: PeftModel) -> dict[str, Tensor]:
    """A state for the adapter other than its own."""
    return {key: value * 1.5 for key, value in get_peft_model_state_dict(model).items()}


def step(model: PeftModel, make: Callable[..., torch.optim.Optimizer], **options: Any) -> None:
    optimizer = make(trained(model), lr=0.1, **options)
    model(x()).square().sum().backward()
    output(model)  # between the backward and the step
    optimizer.step()


def replaced(model: PeftModel) -> None:
    """The adapter deleted, and another added under its name."""
    config = model.peft_config["default"]
    model.delete_adapter("default")
    torch.manual_seed(5)
    model.add_adapter("default", config)
    model.set_adapter("default")


def scaled(model: PeftModel, scale: Callable[[Any], None]) -> None:
    for module in model.modules():
        if isinstance(module, layer.LinChainLayer):
            scale(module)


def hotswapped(model: PeftModel, folder: Path) -> None:
    other = copy.deepcopy(model)
    set_peft_model_state_dict(other, changed(other))
    other.save_pretrained(folder)
    hotswap_adapter(model, str(folder), adapter_name="default")


def loaded(model: PeftModel, folder: Path) -> None:
    other = copy.deepcopy(model)
    set_peft_model_state_dict(other, changed(other))
    other.save_pretrained(folder)
    model.load_adapter(folder, "default")


def through_data(model: PeftModel, then: Callable[[PeftModel], Any]) -> None:
    """What no version tells of, until something is done to the whole model."""
    for parameter in trained(model):
        parameter.data.mul_(1.5)
    then(model)


@torch.inference_mode()
def in_inference_mode(model: PeftModel) -> None:
    for parameter in trained(model):
        parameter.mul_(1.5)


def load_assigning(model: PeftModel) -> None:
    state = {name: value * 1.5 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


CHANGES: dict[str, Callable[[PeftModel, Path], Any]] = {
    "AdamW": lambda model, _: step(model, torch.optim.AdamW, foreach=False),
    "AdamW, foreach": lambda model, _: step(model, torch.optim.AdamW, foreach=True),
    "AdamW, fused": lambda model, _: step(model, torch.optim.AdamW, fused=True),
    "SGD, fused": lambda model, _: step(model, torch.optim.SGD, fused=True),
    "load_state_dict": lambda model, _: model.load_state_dict({k: v * 1.5 for k, v in model.state_dict().items()}),
    "load_state_dict, assigned": lambda model, _: load_assigning(model),
    "set_peft_model_state_dict": lambda model, _: set_peft_model_state_dict(model, changed(model)),
    "load_adapter": loaded,
    "deleted and added again": lambda model, _: replaced(model),
    "set_scale": lambda model, _: scaled(model, lambda module: module.set_scale("default", 3.0)),
    "scale_layer": lambda model, _: scaled(model, lambda module: module.scale_layer(3.0)),
    "through data, train": lambda model, _: through_data(model, lambda model: model.train().eval()),
    "through data, move": lambda model, _: through_data(model, lambda model: model.to("cpu")),
    "through data, load": lambda model, _: through_data(model, lambda model: model.load_state_dict({}, strict=False)),
    "in inference mode": lambda model, _: in_inference_mode(model),
    "rounded": lambda model, _: model.to(torch.bfloat16).to(torch.float64),
}


@every_kind
@pytest.mark.parametrize("change", CHANGES)
def test_never_stale(kind: str, change: str, tmp_path: Path) -> None:
    model = evaluated(kind)
    before = output(model)
    CHANGES[change](model, tmp_path)
    assert not model.training
    after = output(model)
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(after, fresh(model), **EXACT)
    torch.testing.assert_close(output(model), after, **EXACT)


@pytest.mark.parametrize("kind", ["n = 3", "n = 0"])
def test_hotswapping(kind: str, tmp_path: Path) -> None:
    """PEFT writes through `.data`."""
    model = evaluated(kind)
    before = output(model)
    hotswapped(model, tmp_path)
    after = output(model)
    assert (after - before).abs().max() > 1e-4
    torch.testing.assert_close(after, fresh(model), **EXACT)


@every_kind
def test_there_and_back(kind: str) -> None:
    model = evaluated(kind)
    before = output(model)
    back: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "merged": (model.merge_adapter, model.unmerge_adapter),
        "scaled": (
            lambda: scaled(model, lambda module: module.scale_layer(3.0)),
            lambda: scaled(model, lambda module: module.unscale_layer()),
        ),
        "trained": (model.train, model.eval),
        "off": (model.base_model.disable_adapter_layers, model.base_model.enable_adapter_layers),
    }
    for there, again in back.values():
        there()
        output(model)
        again()
        model.eval()
        torch.testing.assert_close(output(model), before, **EXACT)


@every_kind
def test_other_dtypes_are_remembered_apart(kind: str) -> None:
    model = evaluated(kind)
    model.to(torch.float32)
    torch.testing.assert_close(output(model), fresh(model), **EXACT)
    with torch.autocast("cpu", torch.bfloat16):
        rough = output(model)
    assert 0 < (rough - output(model)).abs().max() < 0.1
    torch.testing.assert_close(output(model), fresh(model), **EXACT)


@pytest.mark.parametrize("kind", ["n = 3", "n = 0", "4-6-2"])
def test_swapped_and_mixed_adapters(kind: str) -> None:
    model = evaluated(kind)
    torch.manual_seed(6)
    model.add_adapter("other", copy.deepcopy(model.peft_config["default"]))
    alone = {}
    for _ in range(2):
        for name in ("other", "default"):
            model.set_adapter(name)
            alone[name] = output(model.eval())
            torch.testing.assert_close(alone[name], fresh(model), **EXACT)
    assert (alone["other"] - alone["default"]).abs().max() > 1e-4
    names = ["default", "other", "default"]
    for _ in range(2):
        mixed = output(model, adapter_names=names)
        for row, name in enumerate(names):
            torch.testing.assert_close(mixed[row], alone[name][row], **EXACT)
        set_peft_model_state_dict(model, changed(model), adapter_name="default")
        model.set_adapter("default")
        alone["default"] = output(model.eval())


@every_kind
def test_inference_mode_leaves_nothing_that_training_trips_over(kind: str) -> None:
    model = linchain(**KINDS[kind]).eval()
    with torch.inference_mode():
        first = output(model)
    torch.testing.assert_close(output(model), first, **EXACT)
    y = model(x())
    torch.testing.assert_close(y, first, **EXACT)
    y.sum().backward()
    with torch.inference_mode():
        built = linchain(**KINDS[kind]).eval()
        expected = output(built)
        for parameter in built.parameters():
            parameter.mul_(1.5)
        assert (output(built) - expected).abs().max() > 1e-4


@every_kind
def test_nothing_piles_up_nor_travels(kind: str) -> None:
    model = evaluated(kind)
    for i in range(5):
        scaled(model, lambda module, i=i: module.set_scale("default", 1.0 + i))
        output(model)
        model.add_adapter(f"other-{i}", copy.deepcopy(model.peft_config["default"]))
        model.set_adapter(f"other-{i}")
        output(model.eval())
        model.set_adapter("default")
        model.delete_adapter(f"other-{i}")
        output(model.eval())
    kept = [module._remembered for module in model.modules() if isinstance(module, Remembers)]
    assert all(len(values or {}) <= 1 for values in kept)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(m._remembered is None for m in twin.modules() if isinstance(m, Remembers))
        torch.testing.assert_close(output(twin), output(model), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_generation_folds_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fold a layer, for all tokens of a call."""
    architecture = ARCHITECTURES["llama"]
    torch.manual_seed(0)
    config = LinChainConfig(r=4, init_weights=False, target_modules=LLAMA_TARGETS, **KINDS[kind])
    model = get_peft_model(architecture.build(), config).eval()
    folds = []

    def counting(function: Any) -> Any:
        return lambda *args: folds.append(1) or function(*args)

    monkeypatch.setattr(layer, "ready", counting(layer.ready))
    monkeypatch.setattr(chain.ChainedA, "folded_weight", counting(chain.ChainedA.folded_weight))
    ids = architecture.batch()["input_ids"]
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    adapted = 2 * len(LLAMA_TARGETS)
    first = model.generate(ids, **options)
    assert first.shape[1] == ids.shape[1] + 8
    assert len(folds) == adapted
    assert torch.equal(model.generate(ids, **options), first)
    assert len(folds) == 2 * adapted
    with torch.no_grad():
        for parameter in trained(model):
            parameter.mul_(2)
    assert not torch.equal(model.generate(ids, **options), first)
    assert len(folds) == 3 * adapted


@every_kind
def test_other_forwards_fold_anew(kind: str) -> None:
    """What is written through `.data`, or behind PyTorch's back, is seen by every forward of more than one token."""
    model = evaluated(kind)
    sequences = sequences_of_five()
    with torch.no_grad():
        before = model(sequences)
        for parameter in trained(model):
            parameter.data.mul_(1.5)
        after = model(sequences)
        assert (after - before).abs().max() > 1e-4
        forget_all(model)
        torch.testing.assert_close(model(sequences), after, **EXACT)
        for parameter in trained(model):
            parameter.detach().numpy()[:] *= 1.5
        assert (model(sequences) - after).abs().max() > 1e-4
