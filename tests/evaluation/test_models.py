import json

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaForSequenceClassification,
    LlamaModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from linchain.errors import LinchainError
from linchain.evaluation.models import adapter_base, context_length, load_model, model_labels, model_path, model_task
from linchain.tasks.records import Record
from linchain.tasks.sentence_pair import Labels, find_labels
from linchain.training.evaluate import Question, evaluate_target


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def test_a_model_without_a_language_head_is_refused(tiny_model, tokenizer, tmp_path):
    LlamaModel(AutoConfig.from_pretrained(tiny_model)).save_pretrained(tmp_path)
    with pytest.raises(LinchainError, match=r"holds no weights for lm_head.weight \(1 in all\)"):
        load_model(str(tmp_path), tokenizer)


def test_dtype_is_that_of_the_checkpoint_unless_asked(tiny_model, tokenizer):
    assert load_model(str(tiny_model), tokenizer).dtype == torch.float32
    assert load_model(str(tiny_model), tokenizer, "bfloat16").dtype == torch.bfloat16


def test_a_classifier_gets_a_head_and_a_padding_token(tiny_model, tokenizer):
    model = load_model(str(tiny_model), tokenizer, labels=Labels(("no", "yes", "maybe")))
    assert model.score.out_features == 3
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert model.config.pad_token_id == tokenizer.pad_token_id


def test_a_finished_classifier_is_evaluated_by_its_own_classes(tiny_model, tokenizer, tmp_path, monkeypatch):
    config = AutoConfig.from_pretrained(tiny_model, num_labels=2, id2label={0: "no", 1: "yes"}, pad_token_id=1)
    model = LlamaForSequenceClassification(config)
    torch.nn.init.zeros_(model.score.weight)  # equal scores: the first class, always
    model.save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    assert model_task(model.config) == "sequence_classification"
    assert model_labels(model.config).names == ("no", "yes")
    rows = [{"sentence1": f"word {i}", "label": label} for i, label in enumerate(["no", "no", "no", "yes"])]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    answer = evaluate_target(Question("classifier", None, {"data.test": ["data.jsonl"]}))
    assert [(score.name, score.value) for score in answer.scores] == [("accuracy", 0.75)]


def test_a_classifier_pads_with_the_tokenizers_token(tiny_model, tokenizer, tmp_path):
    config = AutoConfig.from_pretrained(tiny_model, num_labels=2, pad_token_id=7)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), tokenizer, labels=Labels(("no", "yes")))
    assert model.config.pad_token_id == tokenizer.pad_token_id == 1


def test_a_model_without_a_trained_head_is_not_evaluated_as_a_classifier(tiny_model, tmp_path, monkeypatch):
    (tmp_path / "data.jsonl").write_text(json.dumps({"sentence1": "one", "label": 1}) + "\n")
    monkeypatch.chdir(tmp_path)
    options = {"data.test": ["data.jsonl"], "task": "sequence_classification"}
    with pytest.raises(LinchainError, match=r"no weights for score.weight .*: it is no trained sequence classifier"):
        evaluate_target(Question(str(tiny_model), None, options))
    assert not (tmp_path / "predictions").exists()


def test_the_context_of_a_roberta_is_what_it_really_takes():
    config = RobertaConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=20,
    )
    model = RobertaForSequenceClassification(config)
    longest = context_length(config)
    assert longest == 18
    assert model(torch.full((1, longest), 5)).logits.shape == (1, 2)
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, longest + 1), 5))


def test_a_mistyped_run_or_adapter_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in ("mine/first/config.yaml", "lent/first/adapter_config.json", "models/first/config.json"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text("{}")
    for name, more in (
        ("runs/typo", ""),
        ("mine/frist", "; did you mean mine/first"),
        ("lent/none", ""),
        ("mine/x", ""),
    ):
        with pytest.raises(LinchainError, match=f"model folder {name} does not exist{more}"):
            model_path(name)
    # a folder of models may be called as their owner on the Hub
    for name in ("gpt2", "models/typo", "meta-llama/Llama-3.2-1B"):
        assert model_path(name) == name


def test_the_packaged_model_is_found_wherever_it_lay_when_an_adapter_was_trained():
    assert model_path("/elsewhere/lib/python3.13/site-packages/linchain/starter/model") == model_path("starter")


def test_an_adapter_whose_base_is_gone_says_how_to_name_another(tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 2, "base_model_name_or_path": "/no/such/base"}'
    )
    with pytest.raises(LinchainError, match=r"/no/such/base does not exist .*--model names another place"):
        adapter_base(tmp_path)


def test_a_new_regression_head_answers_with_the_mean_at_first(tokenizer, tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=500)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    labels = find_labels([Record({"label": value}, "here") for value in (0.5, 5.0, 3.5)])
    fresh = load_model(str(tmp_path / "encoder"), tokenizer, labels=labels)
    assert fresh.classifier.bias.item() == 3.0
    assert fresh.classifier.weight.abs().sum() > 0
    with torch.no_grad():
        fresh.classifier.bias.fill_(1.25)
    fresh.save_pretrained(tmp_path / "trained")
    # a head that the checkpoint holds stays as it is
    assert load_model(str(tmp_path / "trained"), tokenizer, labels=labels).classifier.bias.item() == 1.25
