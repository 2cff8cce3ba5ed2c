import random

import pytest

from linchain.tasks import overlap
from linchain.tasks.overlap import Overlap, find_overlaps, normalised, question
from linchain.tasks.records import Record, read_records
from tests.conftest import shared_dir

WORDS = [f"word{number}" for number in range(5000)]


def asked(text, where="data"):
    return Record({"instruction": text, "input": "", "output": "5", "answer": "5"}, where)


def counts(train, test):
    (found,) = find_overlaps([asked(text) for text in train], {"test": [asked(text) for text in test]})
    return found.same, found.near


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("How many are there?", "how many  are there"),
        ("Tom did n't spend $ 1,200.50 .", "tom didn’t spend $1200.5"),
        ("2.00 pints, 007 spies and 1,234,567 stars", "2 pints 7 spies and 1234567 stars"),
        ("8-dollar short-sleeve shirts -- he said", "8 dollar short sleeve shirts he said"),
        ("“ﬁve” – he said…", '"five", he said'),
        ("5 − 3", "5 - 3"),
        ("0.5 of it", "0.50 of it."),
    ],
)
def test_the_same_question_written_otherwise(left, right):
    assert normalised(left) == normalised(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("What is 5 - 3?", "What is 5 + 3?"),
        ("What is 5-3?", "What is 53?"),
        ("1.5 apples", "15 apples"),
        ("1.5 apples", "1 5 apples"),
        ("1 2 apples", "12 apples"),
        ("1,20 apples", "120 apples"),
        ("10 apples", "1 apples"),
        ("2.05 apples", "2.5 apples"),
        ("x/2", "x*2"),
        ("(1+2)*3", "1+(2*3)"),
        ("une pêche", "une pechée"),
    ],
)
def test_another_question(left, right):
    assert normalised(left) != normalised(right)


def test_a_question_is_what_is_asked_without_its_answer():
    user = {"role": "user", "content": "How many?"}
    chat = [{"role": "system", "content": "Be brief."}, user, {"role": "assistant", "content": "5"}]
    assert question(Record({"messages": chat}, "")) == "How many?"
    assert question(asked("How many?")) == "How many?"
    assert question(Record({"instruction": "Add.", "input": "2 and 3", "output": "5"}, "")) == "Add.\n2 and 3"
    assert question(Record({"sentence1": "One.", "sentence2": "Two.", "label": 1}, "")) == "One.\nTwo."
    assert question(Record({"sentence1": "One.", "sentence2": None, "label": 1}, "")) == "One."
    assert question(Record({"text": "A story."}, "")) == "A story."


def test_only_both_sentences_of_a_pair_make_the_same_question():
    def pair(second):
        return Record({"sentence1": "A man eats.", "sentence2": second, "label": 1}, "data")

    (found,) = find_overlaps([pair("A man is eating.")], {"test": [pair("A man is eating"), pair("A man sleeps.")]})
    assert (found.same, found.near) == (1, 0)


def test_each_source_has_its_own_counts_and_examples_with_both_places():
    train = [asked("One two?", "train:1"), asked("ONE TWO", "train:2"), asked("Three four?", "train:3")]
    tests = {
        "first": [asked("one, two", "first:1"), asked("five six", "first:2")],
        "second": [asked("seven", "second:1")],
    }
    assert find_overlaps(train, tests) == (
        Overlap("first", 2, 1, 0, (("first:1", "train:1", "one, two"),)),
        Overlap("second", 1, 0, 0, ()),
    )


def test_empty_questions_are_not_all_the_same():
    assert counts(["", "..."], ["", "?"]) == (0, 0)


def test_near_copies_hold_seven_tenths_of_the_runs_of_eight_words():
    words = random.Random(0).sample(WORDS, 107)  # 100 runs of 8
    changed = list(words)
    changed[3] = "another"  # 4 runs are gone, those that begin at words 0 to 3
    assert counts([" ".join(changed)], [" ".join(words)]) == (0, 1)
    # the training data hold 70 of the 100 runs, then 69, from two records
    other = random.Random(1).sample(WORDS, 50)
    held = [" ".join(words[:47] + other), " ".join(other + words[70:])]
    assert counts(held, [" ".join(words)]) == (0, 1)
    held = [" ".join(words[:47] + other), " ".join(other + words[71:])]
    assert counts(held, [" ".join(words)]) == (0, 0)


def test_near_copies_are_found_in_any_record_and_runs_do_not_cross_records(monkeypatch):
    monkeypatch.setattr(overlap, "_CHUNK", 7)
    sample = random.Random(0).sample
    train = [" ".join(sample(WORDS, 20)) for _ in range(50)]
    halves = [" ".join([*train[0].split()[10:], *train[1].split()[:10]])]
    assert counts(train, halves) == (0, 0)
    near = [f"please {train[49]}", f"please {train[0]} now"]
    assert counts(train, [*near, train[7]]) == (1, 2)


def test_shorter_questions_have_no_near_copies():
    assert counts(["one two three four five six seven"], ["one two three four five six eight"]) == (0, 0)


def test_known_overlaps_of_the_arithmetic_tests():
    folder = shared_dir() / "data" / "math"

    def same(train, test):
        train, test = (read_records(str(folder / f"{name}.jsonl"), "test") for name in (train, test))
        (found,) = find_overlaps(train, {"test": test})
        return found.same

    # the collection's README says 58 and 49; the latter were compared by words, and MAWPS writes "did n't"
    assert same("addsub.test", "mawps.test") == same("mawps.test", "addsub.test") == 58
    assert same("multiarith.test", "mawps.test") == 49 + 4
    assert same("gsm8k.train", "gsm8k.test") == 0
