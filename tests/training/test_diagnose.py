"""diagnostics.jsonl: what it holds, that writing it changes no run, and that a resumed run goes on with it."""

import math

import pytest
import torch

from linchain.convert.adapter import read_adapter
from linchain.diagnostics.ranks import adapter_ranks, entropy_rank, participation_ratio, stable_rank
from linchain.diagnostics.updates import Part
from linchain.files import read_jsonl, write_jsonl
from linchain.training.diagnose import GradientNorms
from linchain.training.load_config import build_config
from linchain.training.run import Start, train
from linchain.training.run_folder import RunFolder
from tests.training.short_runs import Killed, interrupt_at, kill, numbers, outcome


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take longer than these runs do."""
    monkeypatch.setattr("linchain.training.run._plot", lambda folder: None)


@pytest.fixture
def configure(tmp_path, tiny_model):
    """Builds the configuration of a run of 5 steps of 2 x 2 examples into a folder."""
    data = tmp_path / "data.jsonl"
    write_jsonl(data, numbers(12))

    def build(folder, name="linchain", every=2, options=None, **training):
        options = {"r": 4, "target_modules": ["q_proj", "down_proj"], **(options or {})} if name != "full" else {}
        steps = {"max_steps": 5, "batch_size": 2, "gradient_accumulation_steps": 2, "save_steps": 2}
        return build_config(
            {
                "model": str(tiny_model),
                "method": {"name": name, **options},
                "data": {"train": str(data), "test": str(data)},
                "training": {**steps, "learning_rate": 1e-2, "diagnostics_steps": every, **training},
                "evaluation": {"metric": "loss", "limit": 1, "baseline": False},
                "output": str(tmp_path / folder),
            }
        )

    return build


def rows_of(config):
    return read_jsonl(RunFolder(config.output).diagnostics)


@pytest.mark.parametrize(
    ("name", "options"),
    [("linchain", {"lora_dropout": 0.1}), ("dora", {}), ("pissa", {}), ("bone-col", {}), ("miss", {}), ("full", {})],
)
def test_diagnostics_change_no_bit_of_a_run(configure, name, options):
    with_them, without = configure("with", name, 1, options), configure("without", name, None, options)
    train(with_them)
    train(without)
    assert outcome(with_them) == outcome(without)
    rows = rows_of(with_them)
    assert [row["step"] for row in rows] == [step for step in range(6) for _ in range(14 if name == "full" else 4)]
    trained = {"miss": "D", "full": "W", "dora": "m"}.get(name, "B")
    assert all(row["gradients"][trained] > 0 for row in rows if row["step"] < 5)
    assert not any("gradients" in row for row in rows if row["step"] == 5)
    assert not RunFolder(without.output).diagnostics.exists()


def test_the_rows_of_a_chain(configure):
    config = configure("run")
    train(config)
    rows = rows_of(config)
    assert [row["step"] for row in rows] == [step for step in (0, 2, 4, 5) for _ in range(4)]
    first, last = rows[0], rows[-1]
    assert (first["norm"], first["entropy_rank"], first["folding_error"]) == (0, 0, None)
    assert list(first["factors"]) == ["A", "W1", "W2", "W3", "B", "AW"]
    # only B has a gradient while it is zero
    assert list(first["gradients"]) == ["A", "W1", "W2", "W3", "B"]
    assert {name for name, norm in first["gradients"].items() if norm} == {"B"}
    assert all(norm > 0 for norm in rows[4]["gradients"].values())
    values = torch.tensor(last["spectrum"], dtype=torch.float64)
    assert last["norm"] == pytest.approx(float(values.norm()), rel=1e-4)
    measures = (entropy_rank(values), stable_rank(values), participation_ratio(values))
    assert (last["entropy_rank"], last["stable_rank"], last["participation_ratio"]) == pytest.approx(measures, rel=1e-4)
    assert 0 < last["folding_error"] < 1e-6


@pytest.mark.parametrize("name", ["linchain", "pissa"])
def test_the_last_rows_are_the_ranks_of_the_saved_adapter(configure, name):
    config = configure("run", name)
    train(config)
    saved = {ranks.module: ranks for ranks in adapter_ranks(read_adapter(config.output))}
    last = {row["module"]: row for row in rows_of(config) if row["step"] == 5}
    assert saved.keys() == last.keys()
    for module, ranks in saved.items():
        row = last[module]
        assert (row["rank"], row["entropy_rank"]) == (ranks.rank, pytest.approx(ranks.entropy, rel=1e-3))
        assert row["participation_ratio"] == pytest.approx(ranks.participation, rel=1e-3)


def test_gradients_are_taken_before_clipping(configure):
    clipped, whole = configure("clipped", max_grad_norm=1e-3), configure("whole", max_grad_norm=0)
    train(clipped)
    train(whole)
    first, other = (rows_of(config)[0]["gradients"] for config in (clipped, whole))
    assert first == other
    assert first["B"] > 1e-2


@pytest.mark.parametrize(("name", "step"), [("linchain", 3), ("linchain", 5), ("full", 3), ("pissa", 3)])
def test_a_resumed_run_leaves_the_same_rows(configure, monkeypatch, name, step):
    undisturbed, killed = configure("undisturbed", name), configure("killed", name)
    train(undisturbed)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, kill)
        with pytest.raises(Killed):
            train(killed)
    train(killed, Start(resume=True))
    files = [RunFolder(config.output).diagnostics.read_bytes() for config in (undisturbed, killed)]
    assert files[0] == files[1]


def test_weights_that_are_no_numbers_leave_no_rows(configure, monkeypatch):
    config = configure("run", every=1, logging_steps=5)
    original = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        original(self, *args, **kwargs)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.fill_(math.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(Exception, match="no longer a number"):
        train(config)
    assert {row["step"] for row in rows_of(config)} == {0}


def test_norms_are_of_the_sum_over_a_step_and_unscaled():
    chain, fixed = torch.ones(3, 2, 3, requires_grad=True), torch.ones(2)
    norms = GradientNorms([Part(chain, ("W1", "W2"), stacked=True), Part(fixed, ("A",))])
    (2 * chain[:, 0].sum()).backward()
    (2 * chain.sum()).backward()
    assert norms.taken(scale=2.0) == {"W1": pytest.approx(2 * 3), "W2": pytest.approx(3)}
    (math.inf * chain.sum()).backward()
    assert norms.norms["W1"] == 12  # no more are taken
    overflowed = GradientNorms([Part(chain, ("W1", "W2"), stacked=True)])
    (math.inf * chain.sum()).backward()
    assert overflowed.taken(1.0) == {"W1": None, "W2": None}
