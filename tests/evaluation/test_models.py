import json

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, LlamaForSequenceClassification, LlamaModel

from linchain.errors import LinchainError
from linchain.evaluation.models import load_model, model_labels, model_task
from linchain.tasks.sentence_pair import Labels
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
