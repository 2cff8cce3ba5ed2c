"""What a comparison ends with in the terminal."""

from io import StringIO

from rich.console import Console

from linchain.lab.outcome import outcome
from linchain.lab.report import words
from tests.lab import synthetic


def shown(made, width=160):
    console = Console(file=StringIO(), width=width)
    console.print(outcome(made))
    return console.file.getvalue()


def test_it_has_every_contestant_and_the_verdict(tmp_path):
    methods = ["lora", {"name": "linchain", "label": "[red] chain"}, "full"]
    made = synthetic.comparison(tmp_path / "made", methods=methods, n=40, diagnostics=False, budgets=[50, 100])
    text = shown(made)
    for label in ("lora", "[red] chain", "full"):
        assert sum(label in line for line in text.splitlines()) >= 2, "in the table of each budget"
    unwrapped = " ".join(text.split())
    for sentence in (*made.analysis.verdict, *made.analysis.measured):
        assert " ".join(sentence.split()) in unwrapped


def test_no_figure_is_cut_in_80_columns(tmp_path):
    made = synthetic.comparison(tmp_path / "made", n=40, diagnostics=False)
    text = shown(made, 80)
    for line in made.analysis.tables[0].lines:
        assert f" {words.score(line.value, made.analysis.tables[0].metric)} " in text
        if line.difference:
            assert f" {words.difference(line.difference.low, made.analysis.tables[0].metric)} to " in text


def test_a_comparison_that_has_just_begun_says_so_in_sentences(tmp_path):
    made = synthetic.comparison(tmp_path / "made", n=40, diagnostics=False)
    for trial in made.trials:
        trial.files.result.unlink(missing_ok=True)
    text = shown(made, 80)
    assert " ".join(made.analysis.verdict[0].split()) in " ".join(text.split())
