import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from linchain import tasks
from linchain.errors import LinchainError
from linchain.evaluation import predict as predict_module
from linchain.evaluation.data import Scoring, check_context, choose_metric, prepare
from linchain.evaluation.predict import check_finite, generate, predict
from linchain.evaluation.scores import mean_loss, score
from linchain.tasks.encoding import collate
from linchain.tasks.formats import formats
from linchain.tasks.records import Record
from linchain.tasks.sentence_pair import Labels

QUESTIONS = [
    Record({"id": f"q{i}", "instruction": "word " * i + "?", "output": "yes " * (7 - i), "answer": "yes"}, f"q:{i}")
    for i in range(1, 7)
]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model)


def prepared(tokenizer, metric):
    return prepare(QUESTIONS, formats()["instruction"], tokenizer, metric, 400)


def test_generation_does_not_depend_on_the_batch_size(model, tokenizer):
    data = prepared(tokenizer, "exact_match")
    one_by_one, together = (predict(model, tokenizer, data, size, max_new_tokens=12) for size in (1, 6))
    assert one_by_one == together
    assert [row["id"] for row in together] == [record.fields["id"] for record in QUESTIONS]
    assert len({row["generated"] for row in together}) > 1


@pytest.mark.parametrize("metric", ["exact_match", "loss"])
def test_a_model_of_no_numbers_is_refused(tiny_model, tokenizer, metric):
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    data = prepared(tokenizer, metric)
    check_finite(model, data, "the model")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(LinchainError, match="the model computes no numbers"):
        check_finite(model, data, "the model")


def test_generation_equals_greedy_search_written_out(model, tokenizer):
    prompt = tokenizer("one two three")["input_ids"]
    ids = list(prompt)
    for _ in range(8):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    assert generate(model, tokenizer, [prompt], max_new_tokens=8) == [expected]


@pytest.mark.parametrize("adapted", [False, True])
def test_generation_does_not_follow_the_models_own_settings(tiny_model, tokenizer, adapted):
    prompts = [tokenizer(text)["input_ids"] for text in ("one two three", "What is 12 plus 7?")]
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    if adapted:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM"))
    plain = [generate(model, tokenizer, prompts, 12, num_beams) for num_beams in (1, 3)]
    own = model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size, own.length_penalty = 2.0, 1, -3.0
    own.suppress_tokens = tokenizer(plain[0][0])["input_ids"][1:]
    assert [generate(model, tokenizer, prompts, 12, num_beams) for num_beams in (1, 3)] == plain
    assert model.generation_config is own


def test_loss_does_not_depend_on_the_batch_size_and_is_the_models_own(model, tokenizer):
    data = prepared(tokenizer, "loss")
    one_by_one, together = (predict(model, tokenizer, data, size) for size in (1, 6))
    assert [row["loss"] for row in one_by_one] == pytest.approx([row["loss"] for row in together], rel=1e-5)
    own = model(**collate(data.examples, pad_token_id=1)).loss.item()
    assert mean_loss(together) == pytest.approx(own, rel=1e-5)


def test_training_mode_is_restored(model, tokenizer):
    model.train()
    predict(model, tokenizer, prepared(tokenizer, "loss"), 6)
    assert model.training


def test_metric_fits_the_data():
    known, rows = formats(), [Record({"instruction": "", "output": "", "answer": "5"}, "")]
    plain = [Record({"instruction": "", "output": "5"}, "")]
    assert choose_metric("auto", known["instruction"], rows, None) == "exact_match"
    assert choose_metric("auto", known["instruction"], plain, None) == "loss"
    assert choose_metric("exact_match", known["instruction"], plain, None) == "exact_match"
    assert choose_metric("auto", known["text"], rows, None) == "loss"
    assert choose_metric("auto", known["sentence_pair"], rows, Labels(None)) == "pearson"
    assert choose_metric("auto", known["sentence_pair"], rows, Labels(("a", "b"))) == "accuracy"
    assert choose_metric("auto", known["instruction"], rows, None, scorer="loglikelihood") == "accuracy"
    assert choose_metric("auto", known["sentence_pair"], rows, Labels(("0", "1")), tasks.get("cola")) == "matthews"
    with pytest.raises(LinchainError, match="metric 'exact_match' does not fit this data; accepted: loss"):
        choose_metric("exact_match", known["text"], rows, None)


def test_a_prompt_without_room_for_an_answer_is_refused(tokenizer):
    with pytest.raises(LinchainError, match=r"q:1: a prompt of \d+ tokens and evaluation.max_new_tokens 500"):
        check_context(prepared(tokenizer, "exact_match"), 512, 500)
    check_context(prepared(tokenizer, "exact_match"), 512)  # with the default of 256 there is room


def test_tasks_are_prepared_and_predicted_each_by_itself(model, tokenizer):
    text = Record({"text": "one two three"}, "w:1", "wikitext")
    sums = [Record({"instruction": f"{i}?", "output": "3", "answer": "3"}, f"a:{i}", "starter_add") for i in range(3)]
    data = prepare([sums[0], text, *sums[1:]], "auto", tokenizer, "auto", 400)
    assert [(part.task, part.metric, part.max_new_tokens) for part in data.parts] == [
        ("starter_add", "exact_match", 48),
        ("wikitext", "loss", 256),
    ]
    done = []
    rows = predict(model, tokenizer, data, 2, progress=done.append)
    assert [row["task"] for row in rows] == ["starter_add"] * 3 + ["wikitext"]
    assert [row["id"] for row in rows] == [record.where for record in data.records]
    assert ("correct" in rows[0], "loss" in rows[-1], sum(done)) == (True, True, 4)
    assert [one.task for one in score(data.metric, rows)] == ["starter_add", "wikitext", "wikitext"]


def test_data_of_no_task_are_not_mixed_with_tasks_of_other_metrics(tokenizer):
    records = [
        Record({"text": "one two"}, "file:1"),
        Record({"instruction": "a", "output": "3", "answer": "3"}, "", "gsm8k"),
    ]
    with pytest.raises(LinchainError, match="data of no task, scored by loss, and tasks with other metrics"):
        prepare(records, "auto", tokenizer, "auto", 400)


def test_without_math_verify_its_extraction_is_refused_before_any_work(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    scoring = Scoring(extraction="math_verify")
    prepare(QUESTIONS, "auto", tokenizer, "loss", 400, scoring=scoring)  # nothing is extracted
    with pytest.raises(
        LinchainError, match=r"'math_verify' needs the package math-verify; .* pip install 'linchain\[math\]'"
    ):
        prepare(QUESTIONS, "auto", tokenizer, "exact_match", 400, scoring=scoring)


@pytest.mark.parametrize(("extraction", "correct"), [("standard", False), ("math_verify", True)])
def test_an_answer_is_read_as_the_scoring_says(model, tokenizer, monkeypatch, extraction, correct):
    pytest.importorskip("math_verify")
    monkeypatch.setattr(predict_module, "generate", lambda *given, **others: [r"so \boxed{2/4}"])
    record = Record({"instruction": "Half?", "output": r"\boxed{0.5}", "answer": "0.5"}, "m:1", "math")
    data = prepare([record], "auto", tokenizer, "auto", 400, scoring=Scoring(extraction=extraction))
    (row,) = predict(model, tokenizer, data, 1)
    assert (row["correct"], row["extracted"]) == (correct, "1/2" if correct else "2/4")
