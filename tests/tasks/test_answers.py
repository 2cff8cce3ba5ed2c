import pytest

from linchain.tasks.answers import extract, matches


@pytest.mark.parametrize(
    ("text", "gold", "found", "correct"),
    [
        ("12 + 7 = 19. #### 19", "19", "19", True),
        ("It costs $1,234.50 today.", "1234.5", "1234.50", True),
        ("about 3.3333", "3.333333", "3.3333", True),
        ("about 3.33", "3.3333", "3.33", False),
        ("minus -4", "-4", "-4", True),
        ("no number", "5", None, False),
        ("19", "1,9", "19", True),
        ("the correct answer is answer3, not answer1", "answer3", "answer3", True),
        ("the correct answer is answer1, not answer3", "answer3", "answer1", False),
        ("It is True.", "true", "True", True),
        ("Solution2", "solution2", "Solution2", True),
        ("An answer: (C), not D", "C", "C", True),
        ("  White.\n", "white", "white", True),
        ("white snow", "white", "white snow", False),
    ],
)
def test_rules(text, gold, found, correct):
    assert extract(text, gold) == found
    assert matches(text, gold) is correct
