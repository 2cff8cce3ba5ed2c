"""Folded chains where they are served: stock PEFT, Transformers and lm-evaluation-harness without linchain, and GGUF files.

One chain is of three square matrices, the other of widths 8 → 16 → 8 and another scale: both fold to rank 8.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from linchain import LinChainConfig
from linchain.convert import export
from linchain.evaluation.harness import load_tasks, run_tasks
from tests.evaluation.harness_tasks import spare_seconds, write_tasks

pytest.importorskip("lm_eval")

IDS = torch.arange(4 * 12).view(4, 12)
CHAINS: dict[str, dict[str, Any]] = {
    "first": {"r": 8, "chain_length": 3, "lora_alpha": 16},
    "second": {"chain_widths": [8, 16, 8], "lora_alpha": 4},
}
STOCK = Path(__file__).with_name("stock_server.py")


@dataclass
class Served:
    """What linchain computes from its chains, and what the stock process computed from their exports."""

    folder: Path
    chains: dict[str, Tensor]
    stock: dict[str, Tensor]


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(tiny_model, folder / "base")
    chains = {}
    for seed, (name, options) in enumerate(CHAINS.items()):
        torch.manual_seed(seed)
        config = LinChainConfig(init_weights=False, target_modules="all-linear", task_type="CAUSAL_LM", **options)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), config).eval()
        model.save_pretrained(str(folder / f"{name}-chain"))
        assert not export(folder / f"{name}-chain", folder / name, "lora").hints
        with torch.no_grad():
            chains[name] = model(IDS).logits
            with model.disable_adapter():
                chains["base"] = model(IDS).logits
    export(folder / "first-chain", folder / "merged", "merged")
    (folder / "tasks").mkdir()
    write_tasks(folder / "tasks")
    save_file({"ids": IDS}, folder / "ids.safetensors")
    done = subprocess.run([sys.executable, str(STOCK), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Served(folder, chains, load_file(folder / "logits.safetensors"))


def assert_equal_logits(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("way", ["peft", "auto_peft", "transformers", "merged", "swapped_back"])
def test_stock_libraries_compute_what_the_chain_does(served: Served, way: str) -> None:
    assert_equal_logits(served.stock[way], served.chains["first"])
    assert (served.chains["first"] - served.chains["base"]).abs().max() > 1


def test_hotswapping_one_folded_chain_for_another(served: Served) -> None:
    assert_equal_logits(served.stock["swapped"], served.chains["second"])
    assert (served.chains["first"] - served.chains["second"]).abs().max() > 1


def test_a_batch_of_several_folded_chains(served: Served) -> None:
    for row, name in enumerate(["first", "second", "base", "second"]):
        assert_equal_logits(served.stock["mixed"][row], served.chains[name][row])


def test_the_harness_scores_the_export_as_linchain_scores_the_chain(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    spare_seconds(monkeypatch)
    base = served.folder / "base"
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(served.folder / "first-chain"))
    tasks = load_tasks(["tiny_choice"], str(served.folder / "tasks"))
    _, rows = run_tasks(tasks, model.eval(), AutoTokenizer.from_pretrained(base), batch_size=3, limit=None)
    ours = [[value for value, _ in row["filtered_resps"]] for row in rows]
    stock = json.loads((served.folder / "harness.json").read_text())
    assert len(stock) == 6
    torch.testing.assert_close(torch.tensor(stock), torch.tensor(ours), rtol=0, atol=1e-3)
