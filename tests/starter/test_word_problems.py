from __future__ import annotations

import hashlib
import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linchain import starter
from linchain.errors import LinchainError
from linchain.starter.word_problems import EASY_KINDS, equations

seeds = st.integers(0, 10**6)
EQUATION = re.compile(r"(\d+) ([+-]) (\d+) = (\d+)")


def facts(text: str) -> set[tuple[int, int, int]]:
    """The addition that each equation of `text` is another form of, its smaller addend first."""
    found = set()
    for first, sign, second, result in EQUATION.findall(text):
        whole, part = (result, first) if sign == "+" else (first, result)
        found.add((*sorted((int(part), int(second))), int(whole)))
    return found


def names(problem: str) -> set[str]:
    openers = {"At", "In", "There", "The", "A", "Then", "How", "What", "Find"}
    return set(re.findall(r"\b[A-Z][a-z]*\b", problem)) - openers


def wording(problem: str) -> str:
    for name in names(problem):
        problem = re.sub(rf"\b{name}\b", "NAME", problem)
    item = re.search(r"\d+ (?:more |new |of the )?([a-z]+)", problem)
    assert item is not None, problem
    return re.sub(r"\d+", "N", problem.replace(item.group(1), "ITEM"))


@pytest.mark.parametrize("kind", starter.kinds())
@given(seed=seeds, split=st.sampled_from(["train", "test"]))
@settings(max_examples=10, deadline=None)
def test_the_solution_is_right_and_its_numbers_are_the_problems(kind, seed, split):
    for record in starter.problems(kind, split, 20, seed):
        assert set(record) == {"id", "instruction", "input", "output", "answer"}
        steps, answer = record["output"].split(" #### ")
        assert answer == record["answer"]
        for first, sign, second, result in EQUATION.findall(steps):
            assert int(result) == (int(first) + int(second) if sign == "+" else int(first) - int(second))
            assert 2 <= int(result) <= 99
            assert 2 <= int(second) <= 9
        assert result == answer
        given_numbers = re.findall(r"\d+", record["instruction"])
        used = EQUATION.findall(steps)
        assert given_numbers == [used[0][0], *(second for _, _, second, _ in used)]
        assert all(after[0] == before[3] for before, after in itertools.pairwise(used))


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_train_and_test_share_no_fact_no_name_and_no_wording(seed):
    seen = {"train": [set(), set(), set()], "test": [set(), set(), set()]}
    for split, (split_facts, split_names, split_wordings) in seen.items():
        for kind in starter.kinds():
            for record in starter.problems(kind, split, 60, seed):
                split_facts |= facts(record["output"])
                split_names |= names(record["instruction"])
                split_wordings.add(wording(record["instruction"]))
    seen["train"][0] |= {fact for line in equations(300, seed) for fact in facts(line)}
    for train, test in zip(seen["train"], seen["test"], strict=True):
        assert train
        assert test
        assert not train & test


def test_every_sentence_of_a_test_problem_has_a_training_problem_that_uses_it():
    """Only the combination is new in the test: a model cannot know a verb that it never saw."""
    for kind in starter.kinds():
        train, test = (
            {sentence for record in starter.problems(kind, split, 800, 0) for sentence in parts(record)}
            for split in ("train", "test")
        )
        assert test <= train


def parts(record: dict[str, str]) -> list[str]:
    return re.split(r"(?<=[.?]) ", wording(record["instruction"]))


def test_the_same_seed_gives_the_same_problems_everywhere():
    records = [record for kind in starter.kinds() for record in starter.problems(kind, "test", 5, 7)]
    digest = hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()
    assert digest == "c4067c0c068ee712ad140bb4abc747cff2fc8eadac6f29c911b042d725ad6942"


@pytest.mark.parametrize("kind", starter.kinds())
def test_fewer_problems_are_the_first_ones_and_none_repeats(kind):
    records = starter.problems(kind, "test", 300, 3)
    assert starter.problems(kind, "test", 30, 3) == records[:30]
    assert len({record["id"] for record in records}) == 300
    assert len({(wording(record["instruction"]), record["output"]) for record in records}) == 300
    assert starter.problems(kind, "test", 30, 4)[0]["instruction"] != records[0]["instruction"]


def test_all_problems_of_a_kind_can_be_had_and_not_one_more():
    with pytest.raises(LinchainError, match=r"n is 1000000000, but 'total' has 1 to \d+ test problems") as error:
        starter.problems("total", "test", 10**9, 0)
    (most,) = re.findall(r"1 to (\d+)", str(error.value))
    records = starter.problems("total", "test", int(most), 0)
    assert len({(wording(record["instruction"]), record["output"]) for record in records}) == int(most)


@pytest.mark.parametrize(
    ("kind", "split", "n", "message"),
    [
        ("two_stpe", "test", 5, "did you mean 'two_step'"),
        ("add", "tests", 5, "did you mean 'test'"),
        ("add", "test", 0, "n is 0"),
        ("add", "test", -1, "n is -1"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(kind, split, n, message):
    with pytest.raises(LinchainError, match=message):
        starter.problems(kind, split, n, 0)


def test_easy_kinds_are_kinds_and_one_is_left_to_learn():
    assert set(EASY_KINDS) < set(starter.kinds())
