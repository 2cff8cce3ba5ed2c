"""What is done otherwise than in a paper, in words: nothing by the paper's own plan, and each difference by its name."""

import pytest

from linchain.errors import LinchainError
from linchain.tasks import protocols
from linchain.tasks.departures import departures
from linchain.training.load_config import build_config

FIVE = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
LINCHAIN = {
    "protocol": "paper-linchain",
    "model": "meta-llama/Meta-Llama-3-8B-Instruct",
    "method": {"name": "linchain", "target_modules": FIVE},
    "data": {"train": "task:commonsense170k", "test": "task:arc_easy"},
    "output": "run",
}
BONE = {
    "protocol": "paper-bone",
    "model": "meta-llama/Llama-2-7b-hf",
    "data": {"train": "task:metamathqa", "test": "task:math"},
    "output": "run",
}


def found(values, more=None, **asked):
    """The departures of a run from its paper, but for those that every run of ours has."""
    config = build_config(values | (more or {})).model_dump(mode="json")
    if "method" not in values:  # a comparison's runs share none
        del config["method"]
    always = protocols.get(values["protocol"]).paper.always
    phrases = departures(config, values["protocol"], **asked)
    assert phrases[len(phrases) - len(always) :] == list(always)
    return phrases[: len(phrases) - len(always)]


@pytest.mark.parametrize("values", [LINCHAIN, BONE], ids=lambda values: values["protocol"])
def test_the_papers_own_run_departs_in_nothing_else(values):
    assert found(values) == []


@pytest.mark.parametrize(
    ("values", "more", "asked", "phrase"),
    [
        (
            LINCHAIN,
            {"data": {**LINCHAIN["data"], "limit": 500}},
            {},
            "all training records in the paper, the first 500 here",
        ),
        (BONE, {"data": {**BONE["data"], "limit": 100}}, {}, "all training records in the paper, the first 100 here"),
        (
            LINCHAIN,
            {"method": {"name": "lora", "target_modules": ["q_proj"]}},
            {},
            "adapters on down_proj, k_proj, q_proj, up_proj, v_proj in the paper, adapters on q_proj here",
        ),
        (
            BONE,
            {},
            {"contestants": [{"target_modules": "all-linear"}, {}, {"target_modules": ["q_proj"]}]},
            (
                "adapters on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj in the paper, "
                "adapters on all-linear or q_proj here"
            ),
        ),
        (LINCHAIN, {}, {"budget": 10}, "3 epochs in the paper, 10 steps here"),
        (LINCHAIN, {}, {"tested": {"arc_easy": 200}}, "2,376 problems in the test set of ARC-e, 200 of them here"),
        (BONE, {}, {"tested": {"math": 500}}, "5,000 problems in the test set of MATH, 500 of them here"),
        (
            BONE,
            {},
            {"searched": True},
            "learning rate 2e-05 for all methods in the paper, each method's own, searched for, here",
        ),
        (
            LINCHAIN,
            {"data": {"train": "task:commonsense170k", "test": ["task:arc_easy", "task:gsm8k"]}},
            {"tested": {"gsm8k": 1319}},
            "training on Math10K in the paper, training on Commonsense170K here",
        ),
        (
            LINCHAIN,
            {"evaluation": {"max_new_tokens": 8}},
            {},
            "answers of up to 32 tokens in the paper, answers of up to 8 tokens here",
        ),
        (BONE, {"training": {"warmup_steps": 0.05}}, {}, "no warm-up in the paper, a warm-up of 5 % of the steps here"),
    ],
)
def test_each_difference_is_named_alone(values, more, asked, phrase):
    assert found(values, more, **asked) == [phrase]


def test_a_limit_that_the_data_do_not_reach_and_how_a_paper_of_unknown_questions_asked_are_no_differences():
    assert found(BONE, {"data": {**BONE["data"], "limit": 500_000}}) == []
    assert found(BONE, {"evaluation": {"max_new_tokens": 8, "num_beams": 2, "extraction": "paper"}}) == []


def test_all_differences_of_a_fair_run_in_words():
    config = build_config(
        {
            "protocol": "fair",
            "model": "starter",
            "data": {"train": "train.jsonl", "test": ["task:arc_easy", "task:starter_add"]},
            "training": {"max_steps": 400, "batch_size": 16},
            "output": "run",
        }
    ).model_dump(mode="json")
    assert departures(config, "paper-linchain", tested={"arc_easy": 2376, "starter_add": 5, "mean": 2381}) == [
        "LLaMA-3-8B-Instruct in the paper, starter here",
        "training on Commonsense170K in the paper, training on train.jsonl here",
        "3 epochs in the paper, 400 steps here",
        "the loss on prompt and answer in the paper, the loss on the answer alone here",
        "examples cut to 256 tokens in the paper, examples cut at the model's context here",
        "a warm-up of 100 steps in the paper, a warm-up of 5 % of the steps here",
        "float16 steps in the paper, float32 steps here",
        "the checkpoint of the lowest validation loss in the paper, the last checkpoint here",
        "4 beams in the paper, greedy decoding here",
        "answers read by its code's rules in the paper, answers read by our rules here",
        "the lines of a prompt are indented by 16 spaces in the paper's code, and not here",
    ]


def glue(model, tested, protocol="paper-linchain", limit=None):
    values = {"model": model, "data": {"train": "task:cola", "test": "task:cola", "limit": limit}, "output": "run"}
    return departures(build_config(values).model_dump(mode="json"), protocol, tested=tested)


OPEN = "the paper states no learning rate, schedule, length of training or target modules for GLUE"


@pytest.mark.parametrize("model", ["starter", "distilroberta-base", "FacebookAI/xlm-roberta-base"])
def test_another_model_than_roberta_base_is_named_for_glue(model):
    assert glue(model, {}) == [f"RoBERTa-base in the paper, {model} here", OPEN]


def test_a_part_of_glues_training_data_is_named():
    assert glue("roberta-base", {}, limit=8551) == [OPEN]
    assert glue("roberta-base", {}, limit=8550) == ["all training records in the paper, the first 8,550 here", OPEN]


def test_glues_test_sets_have_the_printed_sizes_or_it_is_said():
    model = "FacebookAI/roberta-base"
    assert glue(model, {"cola": 1043, "stsb": 1379, "mrpc": 1725, "qnli": 5463, "mean": 9}) == [
        OPEN
    ]  # some are rounded
    assert glue(model, {"rte": 277, "sst2": 872}) == [
        OPEN,
        "3,000 test examples of RTE by the paper's text, 277 here",
        "1,800 test examples of SST-2 by the paper's text, 872 here",
    ]


def test_what_has_no_paper_or_no_classifier_is_refused():
    with pytest.raises(LinchainError, match="protocol fair is no paper's"):
        departures(build_config(LINCHAIN).model_dump(mode="json"), "fair")
    with pytest.raises(LinchainError, match="protocol paper-bone: its paper has no classifier"):
        glue("starter", {}, "paper-bone")
