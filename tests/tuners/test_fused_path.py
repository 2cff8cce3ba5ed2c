"""The layers' own forwards under what PyTorch and Accelerate do around a layer: always the plain formula's results."""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import cpu_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.utils.checkpoint import checkpoint

from linchain import BoneConfig, LinChainConfig
from linchain.ops import precision as ops_precision
from linchain.ops import reference
from tests.tuners.common import EXACT

METHODS: dict[str, Callable[..., PeftConfig]] = {
    "linchain-3": partial(LinChainConfig, r=4, lora_alpha=8, chain_length=3),
    "linchain-0": partial(LinChainConfig, r=4, lora_alpha=8, chain_length=0),
    "linchain-4-6-2": partial(LinChainConfig, chain_widths=[4, 6, 2], lora_alpha=8),
    **{f"bone-{form}": partial(BoneConfig, r=4, form=form) for form in ("col", "row", "plain")},
}
CHAINS = [name for name in METHODS if name.startswith("linchain")]
every_method = pytest.mark.parametrize("method", METHODS)
every_chain = pytest.mark.parametrize("method", CHAINS)


class Net(nn.Module):
    """Three layers, all adapted; `tied` gives the last two one weight, `checkpoints` computes the second twice."""

    def __init__(self, tied: bool = False, checkpoints: bool = False) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.checkpoints = checkpoints
        if tied:
            self.last.weight = self.middle.weight

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        middle = partial(checkpoint, self.middle, use_reentrant=False) if self.checkpoints else self.middle
        return self.last(x + torch.tanh(middle(x)))


def adapted(method: str, net: nn.Module | None = None, *, autocast_adapter_dtype: bool = True, **options) -> PeftModel:
    torch.manual_seed(0)
    net = Net().double() if net is None else net
    config = METHODS[method](init_weights=False, target_modules=["first", "middle", "last"], **options)
    return get_peft_model(net, config, autocast_adapter_dtype=autocast_adapter_dtype)


def sample(dtype: torch.dtype = torch.float64, rows: int = 6) -> Tensor:
    return torch.randn(rows, 3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def layers(model: PeftModel) -> list[Any]:
    net = model.base_model.model
    return [net.first, net.middle, net.last]


def formula(model: PeftModel) -> PeftModel:
    """The same parameters, each layer computing `ops.reference` in plain autograd from now on."""
    for layer in layers(model):
        layer.forward = partial(_formula, layer)
    return model


def _formula(layer: Any, x: Tensor) -> Tensor:
    weight = layer.base_layer.weight
    for name in layer.active_adapters:
        if hasattr(layer, "bone_block"):
            adapt = getattr(reference, f"bone_{layer.bone_form[name]}_weight")
            weight = adapt(weight, layer.bone_block[name])
        else:
            a, b, s = layer.lora_A[name], layer.lora_B[name].weight, layer.scaling[name]
            chain = a.factors() if hasattr(a, "factors") else []
            weight = weight + reference.delta_weight(a.weight, chain, b, s)
    return F.linear(x, weight, layer.base_layer.bias)


def backward(model: nn.Module, x: Tensor) -> Tensor:
    loss = model(x).float().square().mean() if x.dtype != torch.float64 else model(x).square().mean()
    loss.backward()
    return loss


def checkpointed(model: nn.Module, x: Tensor, use_reentrant: bool) -> Tensor:
    return backward(lambda x: checkpoint(model, x, use_reentrant=use_reentrant), x)


def offloaded(model: nn.Module, x: Tensor) -> Tensor:
    with torch.autograd.graph.save_on_cpu():
        return backward(model, x)


def twice(model: nn.Module, x: Tensor) -> Tensor:
    loss = model(x).square().mean() / 2
    loss.backward(retain_graph=True)
    loss.backward()
    return loss * 2


def accumulated(model: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([backward(lambda part: model(part) / 2**0.5, part) for part in x.chunk(2)]).sum()


RUNS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "plainly": backward,
    "reentrant": partial(checkpointed, use_reentrant=True),
    "non-reentrant": partial(checkpointed, use_reentrant=False),
    "save_on_cpu": offloaded,
    "twice": twice,
    "accumulated": accumulated,
}


def step(model: PeftModel, x: Tensor, run: Any = backward, needs_x: bool = True) -> dict[str, Tensor | None]:
    """The loss and the gradients of one step, at x too."""
    model.zero_grad()
    x = x.clone().requires_grad_(needs_x)
    found = {"loss": run(model, x).detach(), "x": x.grad}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad.clone()
    return found


def assert_same(ours: dict, plain: dict, **tolerance: float) -> None:
    assert ours.keys() == plain.keys()
    for name, value in plain.items():
        if value is None:
            assert ours[name] is None
        else:
            torch.testing.assert_close(ours[name], value, **(tolerance or EXACT), msg=lambda m, n=name: f"{n}: {m}")


@every_method
@pytest.mark.parametrize("run", RUNS)
def test_ways_to_run_a_step(method: str, run: str) -> None:
    model, x = adapted(method), sample()
    ours = step(model, x, RUNS[run])
    assert_same(ours, step(formula(model), x))


@every_method
@pytest.mark.parametrize("run", ["plainly", "non-reentrant"])
def test_the_first_layer_needs_no_gradient_at_its_input(method: str, run: str) -> None:
    model, x = adapted(method), sample()
    ours = step(model, x, RUNS[run], needs_x=False)
    assert_same(ours, step(formula(model), x, needs_x=False))


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def with_bases(change: Callable[[Any], Any]) -> Callable[[PeftModel], PeftModel]:
    def prepared(model: PeftModel) -> PeftModel:
        for layer in layers(model):
            change(layer.base_layer)
        return model

    return prepared


def with_second_adapter(model: PeftModel) -> PeftModel:
    config = copy.deepcopy(model.peft_config["default"])
    model.add_adapter("other", config)
    model.base_model.set_adapter(["default", "other"])
    return model


def evaluated(model: PeftModel) -> PeftModel:
    with torch.no_grad():
        model.eval()(sample())
    return model


def freezing(part: str) -> Callable[[PeftModel], PeftModel]:
    def prepared(model: PeftModel) -> PeftModel:
        frozen = [p.requires_grad_(False) for name, p in model.named_parameters() if part in name]
        assert frozen
        return model

    return prepared


# what is done to the model before, and whether its layers read their base's weight then
SITUATIONS: dict[str, tuple[Callable[[PeftModel], PeftModel], bool]] = {
    "nothing": (lambda model: model, True),
    "trained base": (with_bases(lambda base: base.requires_grad_()), False),
    "trained weight": (with_bases(lambda base: base.weight.requires_grad_()), False),
    "parametrized base": (with_bases(lambda base: register_parametrization(base, "weight", Doubled())), False),
    "accelerate's hook": (with_bases(lambda base: add_hook_to_module(base, ModelHook())), False),
    "two adapters": (with_second_adapter, True),
    "copied after evaluation": (lambda model: copy.deepcopy(evaluated(model)), True),
    "pickled after evaluation": (lambda model: pickle.loads(pickle.dumps(evaluated(model))), True),
    "trained in evaluation": (evaluated, True),
}


def nodes(y: Tensor) -> set[str]:
    """Names of the nodes of y's graph."""
    seen, todo = set(), [y.grad_fn]
    while todo:
        if (node := todo.pop()) is not None and node not in seen:
            seen.add(node)
            todo += [inner for inner, _ in node.next_functions]
    return {type(node).__name__ for node in seen}


@every_method
@pytest.mark.parametrize("situation", SITUATIONS)
def test_situations(method: str, situation: str) -> None:
    prepare, reads_weight = SITUATIONS[situation]
    model, x = prepare(adapted(method)), sample()
    if method in CHAINS:
        assert ("_AdaptedLinearBackward" in nodes(model(x))) == reads_weight
    ours = step(model, x)
    assert_same(ours, step(formula(model), x))


@every_method
def test_tied_weights(method: str) -> None:
    model, x = adapted(method, Net(tied=True).double()), sample()
    assert layers(model)[1].base_layer.weight is layers(model)[2].base_layer.weight
    ours = step(model, x)
    assert_same(ours, step(formula(model), x))


@every_chain
@pytest.mark.parametrize("run", ["plainly", "non-reentrant"])
@pytest.mark.parametrize("part", ["lora_A.default.weight", "lora_A.default.chain", "lora_B", "lora_A", "first.lora"])
def test_a_part_is_frozen(method: str, part: str, run: str) -> None:
    if method == "linchain-0" and "chain" in part:
        pytest.skip("no chain")
    model, x = freezing(part)(adapted(method)), sample()
    ours = step(model, x, RUNS[run], needs_x=False)
    assert_same(ours, step(formula(model), x, needs_x=False))


class Turned(nn.Linear):
    """Its output lies in memory otherwise than in rows."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(0, 1).contiguous()).transpose(0, 1)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "bone-col"])
def test_an_output_that_does_not_lie_in_rows(method: str) -> None:
    net = Net()
    net.middle = Turned(16, 16)
    model, x = adapted(method, net.double()), sample()
    ours = step(model, x)
    assert_same(ours, step(formula(model), x))


@every_chain
def test_parameters_that_accelerate_keeps_elsewhere(method: str) -> None:
    model, x = adapted(method).eval(), sample()
    with torch.no_grad():
        expected = model(x)
        cpu_offload(model, torch.device("cpu"))
        assert all(p.is_meta for p in model.parameters())
        torch.testing.assert_close(model(x), expected, **EXACT)
        torch.testing.assert_close(model(x), expected, **EXACT)


# dtype of the base, of the adapters' parameters, and of autocast
PRECISIONS = {
    "float32 under autocast": (torch.float32, True, True),
    "bf16 under autocast": (torch.bfloat16, True, True),
    "bf16": (torch.bfloat16, True, False),
    "bf16 adapters": (torch.bfloat16, False, False),
    "bf16 adapters under autocast": (torch.bfloat16, False, True),
}


@every_method
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("emulated", [False, True])
def test_precisions(monkeypatch: pytest.MonkeyPatch, method: str, precision: str, emulated: bool) -> None:
    """Within bfloat16's rounding of the formula in float64, and to the bit the same when checkpointed, on every processor."""
    monkeypatch.setattr(ops_precision, "_is_emulated", lambda dtype: emulated and dtype == torch.bfloat16)
    dtype, wide_adapters, autocast = PRECISIONS[precision]
    model = adapted(method, Net().to(dtype), autocast_adapter_dtype=wide_adapters)
    x = sample(dtype)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        ours = step(model, x)
        for run in ("reentrant", "non-reentrant"):
            assert_same(step(model, x, RUNS[run]), ours, rtol=0, atol=0)
    exact = step(formula(copy.deepcopy(model).double()), x.double())
    assert ours.keys() == exact.keys()
    for name, value in exact.items():
        error = (ours[name].double() - value).norm() / value.norm()
        assert error < 0.04, (name, float(error))


@every_chain
@pytest.mark.parametrize("run", ["reentrant", "non-reentrant", "save_on_cpu", "twice"])
@pytest.mark.parametrize("situation", ["nothing", "trained weight", "two adapters"])
def test_dropout_draws_one_mask(method: str, run: str, situation: str) -> None:
    model, x = SITUATIONS[situation][0](adapted(method, lora_dropout=0.4)), sample()
    torch.manual_seed(4)
    expected = step(model, x)
    torch.manual_seed(4)
    assert_same(step(model, x, RUNS[run]), expected)
    torch.manual_seed(5)
    assert not torch.equal(step(model, x)["x"], expected["x"])


@pytest.mark.parametrize("method", ["linchain-3", "bone-col", "bone-row"])
def test_compiled_checkpointing_has_no_graph_breaks(method: str) -> None:
    torch.compiler.reset()
    model, x = adapted(method, Net(checkpoints=True).double()), sample()
    expected = step(model, x)
    compiled = torch.compile(evaluated(model).train(), backend="aot_eager", fullgraph=True)
    assert_same(step(model, x, lambda _, x: backward(compiled, x)), expected)


@every_chain
def test_a_compiled_model_reads_parameters_as_they_are(method: str) -> None:
    """Also one that was evaluated before, and has results of that to remember."""
    torch.compiler.reset()
    model, x = evaluated(adapted(method)), sample()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(compiled(x), model.train()(x), **EXACT)
            model.eval()
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data.mul_(1.1)


def test_a_compiled_layer_takes_our_formula() -> None:
    """Not PEFT's, which would make a float32 tensor of x's size."""
    torch.compiler.reset()
    model, x, made = adapted("linchain-3", Net().bfloat16()), sample(torch.bfloat16), []

    def keep(graph: Any, inputs: Any) -> Any:
        made.extend(node.meta.get("example_value") for node in graph.graph.nodes)
        return graph

    torch.compile(model, backend=keep, fullgraph=True)(x)
    dtypes = {t.dtype for t in made if isinstance(t, Tensor) and t.shape[:-1] == x.shape[:-1]}
    assert dtypes == {torch.bfloat16}


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="inductor needs a C++ compiler")
def test_inductor() -> None:
    """One graph for training and one for evaluation, for batches of any size."""
    torch.compiler.reset()
    model = get_peft_model(
        nn.Sequential(nn.Linear(8, 16)), METHODS["linchain-3"](init_weights=False, target_modules="0")
    )
    compiled: Any = torch.compile(model, fullgraph=True, dynamic=True)
    for training in (True, False):
        for again, rows in enumerate((6, 4, 10)):
            x = sample(torch.float32, rows)
            with torch._dynamo.config.patch(error_on_recompile=again > 0), torch.set_grad_enabled(training):
                torch.testing.assert_close(compiled.train(training)(x), model(x))
                if training:
                    compiled_step = step(model, x, lambda _, x: backward(compiled, x))
                    assert_same(compiled_step, step(model, x), rtol=1e-4, atol=1e-5)
