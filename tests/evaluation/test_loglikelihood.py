"""Log-likelihoods of choices against a plain computation: one choice at a time, in float64, without padding."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from linchain.errors import LinchainError
from linchain.evaluation.data import Scoring, check_context, prepare
from linchain.evaluation.loglikelihood import Question, encode_questions
from linchain.evaluation.predict import predict
from linchain.tasks.formats import formats
from linchain.tasks.instruction import InstructionFormat
from linchain.tasks.records import Record


def question(number, choices, answer, output="the correct answer is {}"):
    fields = {
        "instruction": f"Which? {'word ' * number}\n\nAnswer format: {'/'.join(choices)}",
        "output": output.format(answer),
        "answer": answer,
    }
    return Record(fields, f"q:{number}")


ANSWERS = ["answer1", "answer2", "answer3", "answer4"]
RECORDS = [question(n, ANSWERS[: 2 + n % 3], f"answer{1 + n % 2}") for n in (1, 7, 3, 12, 5, 2)]
# choices of very different lengths, the gold answer without any words around it
RECORDS.append(question(4, ["true", "false-and-much-longer-than-the-other"], "true", "{}"))


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture(scope="module")
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model)


def plain(model, tokenizer, record, choice):
    """The log-probability of each token of one choice, in float64."""
    prompt = InstructionFormat.prompt(record)
    text = record.fields["output"].replace(record.fields["answer"], choice)
    first = tokenizer(prompt)["input_ids"]
    ids = tokenizer(prompt + text)["input_ids"]
    assert ids[: len(first)] == first
    with torch.no_grad():
        logits = model.double()(torch.tensor([ids])).logits[0]
    model.float()
    logs = logits.log_softmax(-1)
    return [float(logs[place - 1, ids[place]]) for place in range(len(first), len(ids))]


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_choices_score_as_in_a_plain_computation(model, tokenizer, batch_size):
    data = prepare(RECORDS, formats()["instruction"], tokenizer, "auto", 400, scoring=Scoring("loglikelihood"))
    assert data.metric == "accuracy"
    rows = predict(model, tokenizer, data, batch_size)
    for record, row in zip(RECORDS, rows, strict=True):
        choices = record.fields["instruction"].rpartition(": ")[2].split("/")
        logs = {choice: plain(model, tokenizer, record, choice) for choice in choices}
        sums = {choice: sum(values) for choice, values in logs.items()}
        means = {choice: sum(values) / len(values) for choice, values in logs.items()}
        assert row["loglikelihood"] == pytest.approx(sums, rel=1e-4)
        assert row["loglikelihood_per_token"] == pytest.approx(means, rel=1e-4)
        assert row["extracted"] == max(sums, key=sums.get)
        assert row["correct"] is (max(sums, key=sums.get) == record.fields["answer"])
        assert row["correct_normalised"] is (max(means, key=means.get) == record.fields["answer"])
        assert row["prompt"].endswith("### Response:\n")


def test_sum_and_mean_choose_differently_where_lengths_differ():
    """Three tokens at a loss of 1.0 are more probable than nine at 0.9, and each of the nine than one of the three."""
    row = Question(("short", "long"), "short", ()).answered([{"loss": 1.0, "tokens": 3}, {"loss": 0.9, "tokens": 9}])
    assert row["loglikelihood"] == pytest.approx({"short": -3.0, "long": -8.1})
    assert row["loglikelihood_per_token"] == {"short": -1.0, "long": -0.9}
    assert (row["extracted"], row["correct"], row["correct_normalised"]) == ("short", True, False)


def test_the_end_of_a_text_is_not_scored(tokenizer):
    (asked,) = encode_questions(RECORDS[:1], formats()["instruction"], tokenizer)
    assert all(tokenizer.eos_token_id not in example.input_ids for example in asked.examples)
    assert tokenizer.decode(asked.examples[1].input_ids[len(asked.prompt) :]) == "the correct answer is answer2"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            Record({"instruction": "Which?", "output": "a", "answer": "a"}, "q:1"),
            "q:1: .* lists its answers at the end",
        ),
        (question(1, ["answer1", "answer2"], "answer3"), "q:1: the answer 'answer3' is none of answer1, answer2"),
        (Record({"text": "a"}, "q:1"), "lists its answers"),
    ],
)
def test_questions_without_choices_are_refused(tokenizer, record, message):
    with pytest.raises(LinchainError, match=message):
        prepare([record], "auto", tokenizer, "auto", 400, scoring=Scoring("loglikelihood"))


def test_a_question_longer_than_the_context_is_refused(tokenizer):
    data = prepare(RECORDS, "auto", tokenizer, "auto", 400, scoring=Scoring("loglikelihood"))
    with pytest.raises(LinchainError, match=r"q:1: a prompt and answer of \d+ tokens exceed the model's context of 20"):
        check_context(data, 20)
