"""The catalogue: every method makes its configuration, on the same terms, and refuses what it does not know."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import peft
import pytest

import linchain
from linchain import methods
from linchain.errors import LinchainError
from linchain.methods.options import CHAIN_INITS, problem

NAMES = [
    "full",
    "lora",
    "rslora",
    "dora",
    "loraplus",
    "pissa",
    "olora",
    "lora-ga",
    "lora-fa",
    "moslora",
    "linchain",
    "linchain-orthogonal",
    "linchain-identity",
    "linchain-rslora",
    "linchain-loraplus",
    "linchain-pissa",
    "linchain-frozen",
    "lora-chain-start",
    "bone-col",
    "bone-row",
    "miss",
    "miss-bat",
]


def test_the_catalogue_is_complete() -> None:
    assert methods.names() == NAMES


@pytest.mark.parametrize("method", methods.catalogue(), ids=methods.names())
def test_every_low_rank_method_starts_from_one_rank_and_scale(method: methods.Method) -> None:
    config = method.peft_config({}, task_type="CAUSAL_LM")
    if method.config is None:
        assert (config, method.name) == (None, "full")
    elif method.name in ("bone-col", "bone-row", "miss", "miss-bat"):
        assert config.r == 64
    else:
        assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.0)
        assert config.use_rslora == method.name.endswith("rslora")
        assert config.task_type == "CAUSAL_LM"


@pytest.mark.parametrize("method", methods.catalogue(), ids=methods.names())
def test_every_option_is_a_field_with_help(method: methods.Method) -> None:
    fields = {field.name for field in dataclasses.fields(method.config_class)} if method.config_class else set()
    assert {*method.options, *method.defaults, *method.fixed} <= fields | {option.name for option in method.own}
    assert not set(method.options) & set(method.fixed)
    assert all(option.help for option in method.described_options())


def test_configurations_are_the_methods() -> None:
    assert type(methods.get("lora").peft_config({})) is peft.LoraConfig
    assert methods.get("moslora").peft_config({}).widths(16) == (16, 16)
    linchain_config = methods.get("linchain").peft_config({"chain_widths": [8, 16, 8]})
    assert type(linchain_config) is linchain.LinChainConfig
    assert (linchain_config.r, linchain_config.chain_length) == (8, 2)


def test_options_win_over_defaults() -> None:
    config = methods.get("lora").peft_config({"r": 4, "lora_alpha": 2.5, "target_modules": ["q_proj"]})
    assert (config.r, config.lora_alpha, config.target_modules) == (4, 2.5, {"q_proj"})


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("lora", {"lora_alhpa": 1}, "did you mean 'lora_alpha'"),
        ("lora", {"chain_length": 1}, "unknown option of method 'lora' 'chain_length'"),
        ("lora", {"task_type": "CAUSAL_LM"}, "unknown option"),
        ("moslora", {"chain_length": 3}, "chain_length = 1 by definition, got 3"),
        ("lora", {"r": 0}, "r must be a positive integer, got 0"),
        ("linchain", {"r": -1}, "r must be a positive integer, got -1"),
        ("lora", {"r": "16"}, "r must be a positive integer, got '16'"),
        ("lora", {"r": True}, "r must be a positive integer"),
        ("linchain", {"lora_alpha": 0}, "lora_alpha must be a positive number, got 0"),
        ("linchain", {"lora_alpha": float("nan")}, "lora_alpha must be a positive number"),
        ("moslora", {"lora_dropout": 1.0}, "lora_dropout must be at least 0 and less than 1, got 1.0"),
        ("linchain", {"chain_widths": [8, 0, 8]}, "chain_widths must be a positive integer, got 0"),
        ("linchain", {"chain_widths": [8, 16], "r": 16}, "r=16 does not fit chain_widths"),
        ("linchain", {"init_weights": "ortogonal"}, "did you mean 'orthogonal'"),
        ("lora", {"layers_pattern": "h"}, "layers_to_transform"),
        ("lora", {"use_rslora": "no"}, "use_rslora must be true or false, got 'no'"),
        (
            "lora",
            {"init_lora_weights": "gausian"},
            "init_lora_weights must be true, false, gaussian, .*, got 'gausian'",
        ),
        ("linchain", {"init_lora_weights": "pissa"}, "init_lora_weights='pissa' with init_weights=True: PiSSA takes"),
        ("linchain-identity", {"init_lora_weights": "olora"}, "does not support init_lora_weights='olora'"),
        (
            "linchain-identity",
            {"init_lora_weights": "pissa", "chain_widths": [4, 8, 4]},
            "init_lora_weights='pissa' with chain_widths=.4, 8, 4.",
        ),
        ("linchain-pissa", {"chain_widths": [4, 4]}, "unknown option of method 'linchain-pissa' 'chain_widths'"),
        ("linchain-pissa", {"init_weights": True}, "init_weights = 'identity' by definition, got True"),
        ("full", {"r": 8}, "method 'full' has no options, got r"),
        ("loraplus", {"loraplus_lr_ratio": 0.5}, "loraplus_lr_ratio must be a number of at least 1, got 0.5"),
        ("lora", {"loraplus_lr_ratio": 16}, "unknown option of method 'lora' 'loraplus_lr_ratio'"),
        ("lora-ga", {"gradient_batches": 0}, "gradient_batches must be a positive integer, got 0"),
        ("lora-ga", {"lora_ga_config": {"scale": "stabel"}}, "lora_ga_config must be a mapping of direction"),
        ("lora-chain-start", {"init_weights": "identty"}, "did you mean 'identity'"),
        ("lora-chain-start", {"chain_length": -1}, "chain_length must be an integer of at least 0, got -1"),
        ("dora", {"init_lora_weights": "pissa"}, "unknown option of method 'dora' 'init_lora_weights'"),
        ("miss", {"miss_dropout": 1}, "miss_dropout must be at least 0 and less than 1, got 1"),
        ("miss", {"init_weights": "mini"}, "init_weights = True by definition"),
        ("bone-row", {"form": "col"}, "form = 'row' by definition, got 'col'"),
        ("moslora", {"rank_pattern": {"(": 8}}, "rank_pattern must be a mapping of modules"),
    ],
)
def test_mistakes_are_named(name: str, options: dict, expected: str) -> None:
    with pytest.raises(LinchainError, match=expected.replace("(", r"\(")):
        methods.get(name).peft_config(options)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear", "exclude_modules": ["lm_head"], "bias": "lora_only"},
        {"target_modules": ["q_proj"], "layers_to_transform": 0, "layers_pattern": "layers"},
        {"rank_pattern": {"q_proj$": 4}, "alpha_pattern": {"q_proj": 0.5}, "init_lora_weights": "gaussian"},
        {"modules_to_save": ["lm_head"], "trainable_token_indices": {"embed_tokens": [0, 1]}, "target_modules": None},
    ],
)
def test_what_is_meant_is_accepted(options: dict) -> None:
    config = methods.get("linchain").peft_config(options)
    assert set(options.get("modules_to_save", [])) == set(config.modules_to_save or [])
    assert config.rank_pattern == options.get("rank_pattern", {})


def test_every_option_has_a_rule() -> None:
    unlikely = object()
    options = {option for method in methods.catalogue() for option in method.options}
    assert {option for option in options if not problem(option, unlikely)} == {"chain_widths"}  # LinChainConfig's own


def test_all_mistakes_are_shown_together() -> None:
    with pytest.raises(LinchainError) as caught:
        methods.get("lora").peft_config({"rank": 8, "r": 0, "lora_dropout": 2})
    assert len(str(caught.value).splitlines()) == 3


def test_unknown_method_gets_the_nearest() -> None:
    with pytest.raises(LinchainError, match="unknown method 'linchian'; did you mean 'linchain'"):
        methods.get("linchian")


def test_catalogue_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['linchain']; import linchain.cli.app; assert not {'torch', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_chains_starts_are_the_configurations() -> None:
    """The options are checked without importing peft, so they name the starts once more."""
    from linchain.tuners.linchain import config

    assert set(CHAIN_INITS) == {start for start in config.CHAIN_INITS if isinstance(start, str)}
