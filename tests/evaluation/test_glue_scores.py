"""The metrics of the GLUE and language modelling families against scikit-learn, scipy and plain sums, on real labels."""

import math
import random

import pytest

from linchain import tasks
from linchain.evaluation.scores import score
from linchain.tasks.records import read_records
from tests.conftest import shared_dir

CLASSIFIED = ("cola", "sst2", "qnli", "mnli", "rte")


def records(task):
    return read_records(f"task:{task}", "test", 400, str(shared_dir() / "data"))


@pytest.mark.parametrize("right", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("task", CLASSIFIED)
def test_classes(task, right):
    """Predictions that are right as often as `right`, as a model's rows have them."""
    metrics = pytest.importorskip("sklearn.metrics")
    labels = [str(record.fields["label"]) for record in records(task)]
    generator, classes = random.Random(task), sorted(set(labels))
    guesses = [
        label if generator.random() < right else generator.choice([one for one in classes if one != label])
        for label in labels
    ]
    rows = [
        {"task": task, "label": label, "prediction": guess, "correct": label == guess, "loss": 0.5}
        for label, guess in zip(labels, guesses, strict=True)
    ]
    assert len(rows) >= 200
    expected = {"accuracy": metrics.accuracy_score, "matthews": metrics.matthews_corrcoef}[tasks.get(task).metric]
    (found,) = score("auto", rows)
    assert (found.name, found.task) == (tasks.get(task).metric, task)
    assert found.value == pytest.approx(expected(labels, guesses))
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("one_class", ["0", "1"])
def test_a_model_that_always_says_the_same_has_no_correlation(one_class):
    metrics = pytest.importorskip("sklearn.metrics")
    labels = [str(record.fields["label"]) for record in records("cola")]
    (found,) = score("matthews", [{"label": label, "prediction": one_class} for label in labels])
    assert found.value == metrics.matthews_corrcoef(labels, [one_class] * len(labels)) == 0.0


@pytest.mark.parametrize("noise", [0.0, 1.0, 20.0])
def test_sts_b(noise):
    """The gold scores have many ties; the predictions have some, where they are rounded."""
    stats = pytest.importorskip("scipy.stats")
    generator = random.Random(noise)
    labels = [float(record.fields["label"]) for record in records("stsb")]
    guesses = [round(0.2 * label - 1 + noise * generator.gauss(0, 0.1), 2) for label in labels]
    rows = [{"task": "stsb", "label": x, "prediction": y} for x, y in zip(labels, guesses, strict=True)]
    pearson, spearman = score("auto", rows)
    assert (pearson.name, spearman.name, pearson.n) == ("pearson", "spearman", 400)
    assert pearson.value == pytest.approx(stats.pearsonr(labels, guesses).statistic)
    assert spearman.value == pytest.approx(stats.spearmanr(labels, guesses).statistic)


def test_language_modelling():
    """The loss is a mean over tokens, not over records; its exponential is the perplexity."""
    generator = random.Random(0)
    texts = [record.fields["text"] for record in records("wikitext")] + [
        record.fields["text"] for record in records("tinystories")
    ]
    rows = [{"task": "wikitext", "loss": generator.uniform(0, 9), "tokens": len(text.split())} for text in texts]
    assert len(rows) == 400
    total = 0.0
    for row in rows:
        total += row["loss"] * row["tokens"]
    mean = total / sum(len(text.split()) for text in texts)
    loss, perplexity = score("auto", rows)
    assert loss.value == pytest.approx(mean)
    assert perplexity.value == pytest.approx(math.exp(mean))
