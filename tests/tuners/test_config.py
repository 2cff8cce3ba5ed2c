"""LinChainConfig: what it fills in, and what it refuses by name."""

from __future__ import annotations

import pytest
from peft import LoraConfig, PeftConfig, PeftType

from linchain import LinChainConfig, LinchainError


def test_defaults_are_loras_but_for_the_chain() -> None:
    ours, lora = LinChainConfig(), LoraConfig()
    assert (ours.r, ours.lora_alpha, ours.lora_dropout) == (lora.r, lora.lora_alpha, lora.lora_dropout)
    assert (ours.chain_length, ours.chain_widths, ours.init_weights) == (3, None, True)
    assert ours.peft_type == PeftType.LINCHAIN == "LINCHAIN"


def test_widths_settle_rank_and_length() -> None:
    config = LinChainConfig(chain_widths=(8, 16, 8))
    assert (config.r, config.chain_length, config.chain_widths) == (8, 2, [8, 16, 8])
    assert config.widths(8) == (8, 16, 8)
    assert LinChainConfig(r=4, chain_length=2).widths(6) == (6, 6, 6)


@pytest.mark.parametrize("options", [{}, {"chain_widths": [8, 16, 4]}, {"r": 4, "chain_length": 0}])
def test_survives_the_disk(options: dict, tmp_path) -> None:
    config = LinChainConfig(**options, target_modules=["q"])
    config.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is LinChainConfig
    assert loaded.to_dict() == {**config.to_dict(), "inference_mode": loaded.inference_mode}


REFUSED = [
    ({"r": 0}, "r must be a positive integer, got 0"),
    ({"r": 2.5}, "r must be a positive integer, got 2.5"),
    ({"r": True}, "r must be a positive integer, got True"),
    ({"chain_length": -1}, "chain_length must be an integer of at least 0, got -1"),
    ({"chain_length": "3"}, "chain_length must be an integer of at least 0, got '3'"),
    ({"chain_widths": []}, r"chain_widths must be a list of positive integers such as \[8, 16, 8\], got \[\]"),
    ({"chain_widths": 8}, "chain_widths must be a list"),
    ({"chain_widths": "8,16"}, "chain_widths must be a list"),
    ({"chain_widths": [8, 0]}, "chain_widths must be a positive integer, got 0"),
    ({"chain_widths": [8, 16, 8], "r": 16}, "r=16 does not fit chain_widths"),
    ({"chain_widths": [8, 16, 8], "chain_length": 3}, "chain_length=3 does not fit chain_widths.*gives 2 matrices"),
    ({"chain_widths": [8, 8], "rank_pattern": {"q": 4}}, "LinChain does not support rank_pattern together"),
    ({"rank_pattern": {"q": 0}}, r"rank_pattern\['q'\] must be a positive integer, got 0"),
    ({"init_weights": "ortogonal"}, "init_weights='ortogonal' is unknown; did you mean 'orthogonal'"),
    ({"init_weights": "pissa"}, "init_weights='pissa' is unknown"),
    (
        {"init_lora_weights": "olora"},
        "LinChain does not support init_lora_weights='olora'.*Accepted: True, 'gaussian', False",
    ),
    ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' with init_weights=True: PiSSA takes"),
    (
        {"init_lora_weights": "pissa_niter_4", "init_weights": "identity", "chain_widths": [4, 8, 4]},
        r"init_lora_weights='pissa_niter_4' with chain_widths=\[4, 8, 4\]",
    ),
    ({"alora_invocation_tokens": [1]}, "LinChain does not support aLoRA"),
    ({"use_qalora": True}, "LinChain does not support QA-LoRA"),
    ({"megatron_config": {"a": 1}}, "LinChain does not support Megatron"),
    ({"loftq_config": {"loftq_bits": 4}}, "LinChain does not support LoftQ"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[str(options) for options, _ in REFUSED])
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(LinchainError, match=message):
        LinChainConfig(**options)
