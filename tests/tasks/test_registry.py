"""What every task has to say about itself, and rows of the Hub in our columns."""

import re

import pytest

from linchain import tasks
from linchain.errors import LinchainError
from linchain.tasks.formats import get_format
from linchain.tasks.records import Record, read_records
from tests.conftest import shared_dir


@pytest.mark.parametrize("task", tasks.registry(), ids=lambda task: task.name)
def test_every_task_says_what_it_is_and_lies_somewhere(task):
    assert task.title
    assert task.licence
    assert set(task.splits) <= {"train", "validation", "test"}
    assert (task.answer is not None) is (task.metric == "exact_match")
    for split in task.splits.values():
        assert split.jsonl or split.adapters or split.source
        assert split.jsonl_records is None or split.jsonl_records < split.records


def test_the_papers_test_sizes():
    sizes = {task.title: task.splits["test"].records for task in tasks.registry() if "test" in task.splits}
    of_paper = {"ARC-e": 2376, "ARC-c": 1172, "PIQA": 1838, "AddSub": 395, "AQuA": 254, "GSM8K": 1319, "SVAMP": 1000}
    of_paper |= {"MultiArith": 600, "MAWPS": 238, "SingleEq": 508, "BoolQ": 3270, "HellaSwag": 10042, "OBQA": 500}
    assert of_paper.items() <= sizes.items()


def test_commonsense170k_is_as_large_as_its_eight_parts():
    parts = [task for task in tasks.registry() if task.family == "commonsense" and "test" in task.splits]
    assert len(parts) == 8
    assert sum(task.splits["train"].records for task in parts) == tasks.get("commonsense170k").splits["train"].records


def test_math10k_contaminates_three_test_sets():
    assert [task.name for task in tasks.registry() if "math10k" in task.contamination] == [
        "addsub",
        "multiarith",
        "singleeq",
    ]


def test_an_unknown_task_has_a_nearest_match():
    with pytest.raises(LinchainError, match="unknown task 'gms8k'; did you mean 'gsm8k'"):
        tasks.get("gms8k")


LETTERED = {"choices": {"text": ["a b", "c"], "label": ["A", "B"]}, "answerKey": "B"}
HUB_ROWS = {
    "arc_easy": (
        {"question": "Why?", **LETTERED},
        "Please choose the correct answer to the question: Why?\n\nAnswer1: a b Answer2: c\n\nAnswer format: answer1/answer2",
        "answer2",
    ),
    "openbookqa": (
        {"question_stem": "The sun", **LETTERED},
        (
            "Please choose the correct answer to the question: The sun\n\nAnswer1: a b Answer2: c\n\n"
            "Answer format: answer1/answer2"
        ),
        "answer2",
    ),
    "piqa": (
        {"goal": "dresser", "sol1": "pin", "sol2": "paint", "label": 0},
        (
            "Please choose the correct solution to the question: dresser\n\nSolution1: pin\n\nSolution2: paint\n\n"
            "Answer format: solution1/solution2"
        ),
        "solution1",
    ),
    "social_i_qa": (
        {"context": "A.", "question": "B?", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3"},
        (
            "Please choose the correct answer to the question: A. B?\n\nAnswer1: x Answer2: y Answer3: z\n\n"
            "Answer format: answer1/answer2/answer3"
        ),
        "answer3",
    ),
    "winogrande": (
        {"sentence": "So _ won.", "option1": "Ann", "option2": "Bo", "answer": "2"},
        (
            "Please choose the correct answer to fill in the blank to complete the given sentence: So _ won.\n\n"
            "Option1: Ann Option2: Bo Answer format: option1/option2"
        ),
        "option2",
    ),
    "hellaswag": (
        {"activity_label": "Roof", "ctx": "He", "endings": ["w", "x", "y", "z"], "label": "3"},
        (
            "Please choose the correct ending to complete the given sentence: Roof: He\n\n"
            "Ending1: w Ending2: x Ending3: y Ending4: z\n\nAnswer format: ending1/ending2/ending3/ending4"
        ),
        "ending4",
    ),
    "boolq": (
        {"question": "is it so", "answer": False, "passage": "..."},
        "Please answer the following question with true or false, question: is it so?\n\nAnswer format: true/false",
        "false",
    ),
    "gsm8k": ({"question": "How much?", "answer": "Well.\n#### 1,200"}, "How much?", "1200"),
    "aqua": (
        {"question": "q", "options": ["A)1", "B) 2"], "rationale": "r", "correct": "B"},
        "q Answer Choices: (A) 1 (B) 2",
        "B",
    ),
    "math": ({"problem": "p", "solution": r"\boxed{\pi}", "answer": r"\pi"}, "p", r"\pi"),
}


@pytest.mark.parametrize("name", HUB_ROWS)
def test_rows_of_the_hub_become_ours(name):
    row, instruction, answer = HUB_ROWS[name]
    fields = tasks.get(name).from_hub(row)
    assert (fields["instruction"], fields["answer"]) == (instruction, answer)
    assert get_format("auto", [Record(fields, "row")], "causal_lm").name == "instruction"


@pytest.mark.parametrize(
    ("name", "row", "pair"),
    [
        ("cola", {"sentence": "a", "label": 1}, ("a", None, 1)),
        ("qnli", {"question": "a", "sentence": "b", "label": 0}, ("a", "b", 0)),
        ("mnli", {"premise": "a", "hypothesis": "b", "label": 2}, ("a", "b", 2)),
        ("qqp", {"question1": "a", "question2": "b", "label": 0}, ("a", "b", 0)),
    ],
)
def test_sentences_of_the_hub_become_ours(name, row, pair):
    fields = tasks.get(name).from_hub(row)
    assert (fields["sentence1"], fields["sentence2"], fields["label"]) == pair


@pytest.mark.parametrize(
    ("name", "question"),
    [("arc_easy", "question"), ("arc_challenge", "question"), ("openbookqa", "question_stem")],
)
def test_the_hubs_prompts_are_worded_as_llm_adapters_words_them(name, question):
    """Taken apart into a row as the Hub has it, and put together again, a real prompt is the same prompt."""
    for record in read_records(f"task:{name}", "test", 300, str(shared_dir() / "data")):
        instruction, answer = record.fields["instruction"], record.fields["answer"]
        asked, listed, _ = re.split(r"\n\n(?=Answer1: |Answer format: )", instruction)
        texts = [text.removesuffix(" ") for text in re.split(r"(?:^| )Answer\d: ", listed)[1:]]
        row = {
            question: asked.removeprefix("Please choose the correct answer to the question: "),
            "choices": {"text": texts, "label": list("ABCDE"[: len(texts)])},
            "answerKey": "ABCDE"[int(answer[-1]) - 1],
        }
        assert tasks.get(name).from_hub(row) == {
            key: record.fields[key] for key in ("instruction", "input", "output", "answer")
        }


def test_every_record_lists_choices_that_its_task_knows():
    folder = str(shared_dir() / "data")
    known = [task for task in tasks.registry() if task.family == "commonsense" and task.splits.get("test")]
    for task in known:
        if task.splits["test"].jsonl:
            for record in read_records(f"task:{task.name}", "test", folder=folder):
                listed = record.fields["instruction"].rpartition("Answer format: ")[2].split("/")
                assert set(listed) <= set(task.choices), record.where
                assert record.fields["answer"] in listed
