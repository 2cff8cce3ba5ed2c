"""TRL's SFTTrainer trains the starter with `peft_config=LinChainConfig(…)`, unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM

from linchain import LinChainConfig
from linchain.starter import model_dir, problems

trl = pytest.importorskip("trl")


def test_sft_trainer(tmp_path: Path) -> None:
    rows = [
        {"prompt": problem["instruction"] + "\n", "completion": problem["output"]}
        for problem in problems("two_step", "train", 64, seed=0)
    ]
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=8,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
        seed=0,
    )
    trainer = trl.SFTTrainer(
        model=str(model_dir()),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        peft_config=LinChainConfig(r=8, chain_length=2, target_modules="all-linear", init_weights="orthogonal"),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    trainer.save_model(str(tmp_path / "adapter"))
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert any(name.endswith("lora_A.default.chain") and p.abs().sum() > 0 for name, p in model.named_parameters())
    tokens = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(
        model.eval()(tokens).logits, trainer.model.cpu().eval()(tokens).logits, rtol=0, atol=1e-4
    )
