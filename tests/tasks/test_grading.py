"""Reading and comparing answers, for each family, on real gold answers in many wordings.

What is right is known in two ways that owe nothing to the code: by how the text was made, and by the rules of the papers'
code (LLM-Adapters' commonsense_evaluate.py and evaluate.py) written down here once more, as plainly as they are there.
"""

import itertools
import json
import random
import re

import pytest

from linchain.tasks.answers import extract, matches
from linchain.tasks.records import read_records
from tests.conftest import shared_dir

COMMONSENSE = ("arc_easy", "arc_challenge", "openbookqa", "piqa", "social_i_qa", "winogrande", "hellaswag")
ARITHMETIC = ("gsm8k", "addsub", "multiarith", "mawps")


def golds(task, count, split="test"):
    records = read_records(f"task:{task}", split, folder=str(shared_dir() / "data"))
    return [record.fields["answer"] for record in random.Random(0).sample(records, count)]


def paper_choice(task, text):
    if task == "boolq":
        found = re.findall(r"true|false", text.strip())
    elif task == "piqa":
        found = re.findall(r"solution1|solution2", text.strip())
    elif task in ("social_i_qa", "arc_challenge", "arc_easy", "openbookqa"):
        found = re.findall(r"answer1|answer2|answer3|answer4|answer5", text.strip())
    elif task == "hellaswag":
        found = re.findall(r"ending1|ending2|ending3|ending4", text.strip())
    else:
        found = re.findall(r"option1|option2", text.strip())
    return found[0] if found else ""


def paper_number(text):
    found = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
    return float(found[-1]) if found else float("inf")


def paper_letter(text):
    found = re.findall(r"A|B|C|D|E", text.strip())
    return found[0] if found else ""


# A wording with whether it is right: by our rule, by the papers'. {gold}, {other}: a right and a wrong answer.
CHOICE_WORDINGS = [
    ("the correct answer is {gold}", True, True),
    ("{gold}", True, True),
    ("{gold}.", True, True),
    ("\n\n  {gold}\n", True, True),
    ("It is {gold}, not {other}.", True, True),
    ("Not {other} but {gold}.", False, False),
    ("{gold}{other}", True, True),
    ("**{gold}**", True, True),
    ("{Gold} is right.", True, False),
    ("{Other} is wrong, {gold} right.", False, True),
    ("", False, False),
    ("I do not know.", False, False),
    ("the correct answer is {other}", False, False),
    ("number {last}", False, False),
]


@pytest.mark.parametrize("task", [*COMMONSENSE, "boolq"])
def test_commonsense(task):
    checked = 0
    for gold in golds(task, 20, "train" if task == "boolq" else "test"):
        other = {"true": "false", "false": "true"}.get(gold) or gold[:-1] + ("2" if gold[-1] == "1" else "1")
        for wording, ours, papers in CHOICE_WORDINGS:
            text = wording.format(
                gold=gold, other=other, Gold=gold.capitalize(), Other=other.capitalize(), last=gold[-1]
            )
            assert matches(text, gold) is ours, text
            assert matches(text, gold, "choice", "paper") is papers is (paper_choice(task, text) == gold), text
            checked += 1
    assert checked == 280


def test_a_choice_of_another_kind_is_no_answer():
    assert matches("option2 is true, so answer3", "answer3")
    assert not matches("solution1", "answer1")


LETTER_WORDINGS = [
    ("{gold}", True, True),
    ("({gold})", True, True),
    ("The answer is {gold}.", True, True),
    ("the answer is ({gold}), not ({other})", True, True),
    ("({other}) is wrong, ({gold}) right", True, False),
    ("({gold}) is right, ({other}) wrong", False, True),
    ("I think {gold}", True, True),
    ("Every one says {gold}", True, None),  # the papers' code reads the E of Every
    ("Because of that: {gold}", True, None),
    ("", False, False),
    ("nobody knows", False, False),
    ("{low}", False, False),
    # letters that are no answer: people, pipes, the article
    ("If A and B work together, they need 12 days. The answer is ({gold}).", True, None),
    ("A certain pipe fills it in 5 hours. The answer is ({gold}).", True, None),
    ("A's share is 5, that of B is 7. ({gold})", True, None),
    ("A train and B meet at C, so D = 5E. The answer is {gold}.", True, None),
    ("The answer is ({other})? No. The answer is ({gold}).", True, None),
    ("The answer is {gold}, since A + B = C and D > E.", True, None),
    ("The answer is: **{gold}**, not A or B", True, None),
    ("Answer: {gold}) 24 km, A and B apart", True, None),
    ("THE ANSWER IS $\\boxed{{{gold}}}$, (A) to (E) compared", True, None),
    ("the answer is option {gold}; (A), (E) are not", True, None),
    ("The answer is 24, so ({gold}); A runs faster", True, None),
    ("The answer is not ({other}) but ({gold})", True, None),
    ("A and B: their sum is 5, so {gold}", True, None),
    ("I think {gold}: A's pipe is wide", True, None),
    ("The answer is\n\n{gold}", True, None),
    # what no rule reads: a letter behind the answer that stands alone as it does
    ("So {gold}. {other} ran faster", False, None),
]


def test_aqua():
    checked = 0
    for gold in golds("aqua", 25):
        other = "ABCDE"[("ABCDE".index(gold) + 1) % 5]
        for wording, ours, papers in LETTER_WORDINGS:
            text = wording.format(gold=gold, other=other, low=gold.lower())
            by_rule = paper_letter(text) == gold
            assert matches(text, gold) is ours, text
            assert matches(text, gold, "letter", "paper") is by_rule, text
            assert papers in (None, by_rule), text
            checked += 1
    assert checked >= 200


def number_wordings(gold):
    """Texts with whether the last number in them is `gold` within 1e-3, as they were made."""
    value, last = float(gold), gold.rpartition(".")[2] if "." in gold else gold
    shown = f"{int(value):,}" if value.is_integer() else gold
    return [
        (f"#### {gold}", True),
        (f"The answer is {gold}.", True),
        (f"It costs ${shown} in all.", True),
        (f"She has {gold} apples left", True),
        (f"12 + 7 = 19. 19 - 5 = {gold}", True),
        (f"{gold}%", True),
        (f"{gold} cm²", True),
        (f"so x = {gold}\n\n", True),
        (f"\\boxed{{{gold}}}", True),
        (f"7 or 9? No: {gold}", True),
        (f"about {value + 0.0004:.6f}", True),
        (f"about {value + 0.01:.6f}", False),
        (f"{gold} of 1234567", False),
        (f"{gold}/7919", False),
        (f"x{gold}" if not gold.startswith("-") else f"x {gold}", True),
        (f"not {gold} but {value + 1:g}", False),
        (f"--- {last} ---" if last == gold else "", last == gold),
        ("", False),
        ("none", False),
        (f"{value * 1000 + 1:.0f}", False),
    ]


@pytest.mark.parametrize("task", ARITHMETIC)
def test_arithmetic(task):
    checked = 0
    for gold in golds(task, 25):
        for text, right in number_wordings(gold):
            by_rule = abs(paper_number(text) - float(gold)) <= 1e-3
            assert matches(text, gold) is by_rule, (text, gold)
            assert matches(text, gold, "number", "paper") is by_rule
            assert right is by_rule, (text, gold)
            checked += 1
    assert checked == 500


def test_the_starters_word_problems():
    for record in read_records("task:starter_two_step", "test", 200):
        gold = record.fields["answer"]
        assert matches(record.fields["output"], gold)
        assert not matches(record.fields["output"].replace(f"#### {gold}", f"#### {int(gold) + 1}"), gold)


def test_official_solutions_hold_their_own_answers_and_no_others():
    """Every solution of MATH and GSM8K at hand, compared with its own answer and with its neighbour's."""
    for task, split, kind in (
        ("math", "test", "expression"),
        ("math", "train", "expression"),
        ("gsm8k", "test", "number"),
    ):
        rows = [record.fields for record in read_records(f"task:{task}", split, folder=str(shared_dir() / "data"))]
        for row, neighbour in itertools.pairwise(rows):
            assert matches(row["output"], row["answer"], kind)
            if kind == "number":
                right = abs(float(neighbour["answer"]) - float(row["answer"])) <= 1e-3
                assert matches(row["output"], neighbour["answer"], kind) is right


EXPRESSION_WORDINGS = [
    (r"so \boxed{{{gold}}}", True),
    (r"$\boxed{{ {gold} }}$.", True),
    (r"\boxed{{7919}} at first, then \boxed{{{gold}}}", True),
    (r"\boxed{{{gold}}}, and not \boxed{{7919}}", False),
    (r"\fbox{{{gold}}}", True),
    ("The answer is: {gold}", True),
    ("The answer is {gold}.", True),
    ("the answer is ${gold}$. That was easy.", True),
    ("I find {gold}", False),
    (r"\boxed{{{gold}", False),
    ("", False),
    (r"\boxed{{7919}}", False),
]


def test_metamath():
    checked = 0
    for gold in golds("math", 25):
        for wording, right in EXPRESSION_WORDINGS:
            text = wording.format(gold=gold)
            assert matches(text, gold, "expression") is right, text
            checked += 1
    assert checked == 300


# text, gold, kind: as standard, paper and math_verify find it
NASTY = [
    ("minus five: -5", "-5", "number", True, True, True),
    ("5 - 10 = -5", "-5", "number", True, True, True),
    ("3-5", "5", "number", False, False, False),  # the last number is -5
    ("1,234,567 people", "1234567", "number", True, True, True),
    ("1,234", "1,234", "number", True, True, True),
    ("3.", "3", "number", True, True, True),
    ("½", "0.5", "number", False, False, False),
    ("1/2", "0.5", "number", False, False, True),
    (r"$\frac{1}{2}$", "0.5", "number", False, False, True),
    ("50%", "50", "number", True, True, True),
    ("50%", "0.5", "number", False, False, True),
    ("12 or 13", "12", "number", False, False, False),
    ("42.0004", "42", "number", True, True, False),
    ("42.002", "42", "number", False, False, False),
    ("1e3", "1000", "number", False, False, False),
    ("", "0", "number", False, False, False),
    ("zero", "0", "number", False, False, False),
    ("0", "0", "number", True, True, True),
    ("-0", "0", "number", True, True, True),
    (r"\boxed{\dfrac12}", r"\frac{1}{2}", "expression", True, True, True),
    (r"\boxed{2/4}", r"\frac{1}{2}", "expression", False, False, True),
    (r"\boxed{0.5}", r"\frac{1}{2}", "expression", False, False, True),
    (r"\boxed{-\tfrac{3}{4}}", r"\frac{-3}{4}", "expression", True, True, True),
    (r"\boxed{90^\circ}", "90", "expression", True, True, True),
    (r"\boxed{10\%}", "10", "expression", True, True, True),
    (r"\boxed{5\text{ cm}^2}", "5", "expression", True, True, True),
    (r"\boxed{\text{west}}", r"\text{east}", "expression", False, False, False),
    (r"\boxed{\text{Evelyn}}", "Evelyn", "expression", True, True, None),
    (r"\boxed{x = -3}", "-3", "expression", True, True, True),
    (r"\boxed{\left(3, \frac{\pi}{2}\right)}", r"(3,\frac{\pi}{2})", "expression", True, True, True),
    (r"\boxed{1,000}", "1000", "expression", True, True, True),
    (r"\boxed{1,2}", "12", "expression", False, False, False),
    (r"\boxed{x+1}", "1+x", "expression", False, False, True),
    (r"\boxed{\sqrt3}", r"\sqrt{3}", "expression", True, True, True),
    (r"\boxed{{2}}", "2", "expression", False, False, True),
    ("  White!\n", "white", None, True, True, True),
    ("white snow", "white", None, False, False, False),
]


@pytest.mark.parametrize(("text", "gold", "kind", "standard", "paper", "value"), NASTY)
def test_nasty_ones(text, gold, kind, standard, paper, value):
    assert matches(text, gold, kind) is standard
    assert matches(text, gold, kind, "paper") is paper
    pytest.importorskip("math_verify")
    if value is not None:
        assert matches(text, gold, kind, "math_verify") is value


def test_math_verify_reads_real_solutions():
    pytest.importorskip("math_verify")
    with (shared_dir() / "data/math/math.test500.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:20]
    assert all(matches(row["output"], row["answer"], "expression", "math_verify") for row in rows)
    assert extract(rows[0]["output"], rows[0]["answer"], "expression", "math_verify") == rows[0]["answer"] == "4"
