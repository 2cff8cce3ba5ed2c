"""lm-evaluation-harness on models in memory: its own numbers, with our adapters active."""

import math

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from linchain import LinChainConfig
from linchain.errors import LinchainError
from linchain.evaluation.harness import HarnessScore, load_tasks, run_tasks
from tests.evaluation.harness_tasks import CHOICES, spare_seconds, write_tasks

pytest.importorskip("lm_eval")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    spare_seconds(monkeypatch)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def adapted(tiny_model):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = LinChainConfig(r=4, chain_length=2, target_modules="all-linear", init_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    return get_peft_model(model, config).eval()


def log_likelihood(model, tokenizer, prompt, answer):
    prompt = tokenizer(prompt)["input_ids"]
    ids = prompt + tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        log_probabilities = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(log_probabilities[place - 1, ids[place]].item() for place in range(len(prompt), len(ids)))


def test_log_likelihoods_are_those_of_the_model_with_its_adapter(tiny_model, tokenizer, tmp_path):
    tasks = load_tasks(["tiny_choice"], str(write_tasks(tmp_path)))
    model = adapted(tiny_model)
    (accuracy, _), rows = run_tasks(tasks, model, tokenizer, batch_size=3, limit=4)
    assert [(row["task"], row["id"], row["doc"]["number"]) for row in rows] == [("tiny_choice", n, n) for n in range(4)]
    correct = 0
    for row in rows:
        prompt = f"Q: What comes after {row['doc']['number']}?\nA:"
        expected = [log_likelihood(model, tokenizer, prompt, f" {choice}") for choice in CHOICES]
        assert [value for value, _ in row["filtered_resps"]] == pytest.approx(expected, abs=1e-4)
        correct += max(range(3), key=expected.__getitem__) == row["target"]
        with model.disable_adapter():
            assert log_likelihood(model, tokenizer, prompt, f" {CHOICES[0]}") != pytest.approx(expected[0], abs=0.1)
    share = correct / 4
    assert accuracy == HarnessScore(
        "tiny_choice", "acc", "none", share, pytest.approx(math.sqrt(share * (1 - share) / 3)), n=4, shots=0
    )
    half = 1.96 * accuracy.stderr
    assert accuracy.interval == pytest.approx((share - half, share + half), abs=1e-4)


def test_adapters_on_tied_embeddings_stay_as_they_are(tiny_model, tokenizer, tmp_path):
    config = AutoConfig.from_pretrained(tiny_model, tie_word_embeddings=True)
    adapter = LinChainConfig(
        r=4, target_modules=["embed_tokens"], init_weights=False, ensure_weight_tying=True, task_type="CAUSAL_LM"
    )
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_config(config), adapter).eval()
    expected = log_likelihood(model, tokenizer, "Q: What comes after 0?\nA:", f" {CHOICES[0]}")
    tasks = load_tasks(["tiny_choice"], str(write_tasks(tmp_path)))
    _, rows = run_tasks(tasks, model, tokenizer, batch_size=3, limit=1)
    assert rows[0]["filtered_resps"][0][0] == pytest.approx(expected, abs=1e-4)


def test_a_model_that_the_harness_refuses_is_left_as_it_was(tiny_model, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(ValueError, match="invalid literal"):
        run_tasks({}, model, tokenizer, batch_size="many", limit=1)
    assert "tie_weights" not in vars(model)


def test_tags_stand_for_their_tasks(tmp_path):
    assert list(load_tasks(["tiny_tag", "tiny_tag"], str(write_tasks(tmp_path)))["tasks"]) == ["tiny_choice"]


def test_groups_and_what_has_no_standard_error(tiny_model, tokenizer, tmp_path):
    tasks = load_tasks(["tiny_group", "tiny_perplexity"], str(write_tasks(tmp_path)))
    scores, rows = run_tasks(tasks, adapted(tiny_model), tokenizer, batch_size=4, limit=None)
    found = {(score.task, score.metric): score for score in scores}
    assert found["tiny_group", "acc"].value == found["tiny_choice", "acc"].value
    assert found["tiny_group", "acc"].n == found["tiny_choice", "acc"].n == 6
    assert found["tiny_answer", "exact_match"].n == 6
    perplexity = found["tiny_perplexity", "word_perplexity"]
    assert (perplexity.stderr, perplexity.interval) == (None, None)
    assert perplexity.value > 1
    assert {row["task"] for row in rows} == {"tiny_choice", "tiny_answer", "tiny_perplexity"}


def test_what_cannot_be_asked_is_refused(tmp_path, monkeypatch):
    folder = str(write_tasks(tmp_path))
    with pytest.raises(LinchainError, match="unknown task 'tiny_chioce'; did you mean 'tiny_choice'"):
        load_tasks(["tiny_answer", "tiny_chioce"], folder)
    with pytest.raises(LinchainError, match=r"task 'tiny_gone' cannot be loaded: Unable to find .*gone\.jsonl"):
        load_tasks(["tiny_gone"], folder)
    with pytest.raises(LinchainError, match="task 'tiny_code' runs code that the model writes"):
        load_tasks(["tiny_code"], folder)
    with pytest.raises(LinchainError, match="Duplicate task 'tiny_choice': found in both 'tiny_group' and"):
        load_tasks(["tiny_group", "tiny_choice"], folder)
    with pytest.raises(LinchainError, match="--harness-include nowhere: there is no such folder"):
        load_tasks(["tiny_choice"], "nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LinchainError, match=r"pip install 'linchain\[harness\]'"):
        load_tasks(["tiny_choice"], folder)
