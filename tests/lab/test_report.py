"""The report of comparisons that are written to disk with known figures in them."""

from __future__ import annotations

import csv
import doctest
import itertools
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from linchain.errors import LinchainError
from linchain.files import write_json
from linchain.lab import report
from linchain.lab.analysis import analyse
from linchain.lab.plan import build_plan
from linchain.lab.report import build as building
from linchain.lab.report import course_tables, figures, markdown, papers, series, settings, study, svg, words
from linchain.lab.report.content import Sheet
from linchain.lab.report.pareto import Point, far_apart, front
from linchain.lab.trials import Comparison
from tests.lab import synthetic

SCRIPT = "<script>alert('answer')</script>"
CONTROL = "\x1b[2J\x00\x9b"
IMAGE = "<img src=x onerror=alert(1)>"
SMALL = {"learning_rates": [1e-4, 1e-3], "seeds": 2, "n": 40, "failing": None}


class Page(HTMLParser):
    """What tests ask of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def hostile_answers(generator, skill, n):
    rows = synthetic.answers(generator, skill, n)
    for row in rows:
        row["generated"] = f"{SCRIPT}{CONTROL} | ``` {row['generated']}"
        row["prompt"] = f"{IMAGE}{CONTROL}\n{row['prompt']}"
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report of two comparisons: names, answers and prompts that are markup; a regression with two budgets."""
    root = tmp_path_factory.mktemp("report")
    methods = ["lora", {"name": "linchain", "label": IMAGE}, {"name": "bone-col", "label": "$x_1$ & co", "r": 16}]
    hostile = synthetic.comparison(
        root / "Word problems", hostile_answers, methods=methods, **{**SMALL, "failing": ("$x_1$ & co", 1e-4)}
    )
    regression = synthetic.comparison(
        root / "stsb", synthetic.ratings, "pearson", ["lora", "full"], diagnostics=False, budgets=[40, 120], **SMALL
    )
    report.write_report([hostile, regression], root / "out")
    return root


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "out" / "report.html").read_text(encoding="utf-8"))


def tables(folder, name):
    with (folder / "out" / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_tables_hold_the_analysis_unrounded(folder):
    analysis = analyse(Comparison.load(folder / "Word problems"))
    rows = tables(folder, "word-problems-scores-0")
    assert [row["contestant"] for row in rows] == [line.contestant for line in analysis.tables[0].lines]
    for row, line in zip(rows, analysis.tables[0].lines, strict=True):
        assert [float(row[key]) for key in ("value", "low", "high")] == [line.value, line.low, line.high]
        if line.difference:
            assert float(row["difference_p_holm"]) == line.difference.p_holm
            assert row["difference_distinguishable"] == str(line.difference.distinguishable)
    costs = {row["contestant"]: row for row in tables(folder, "word-problems-costs")}
    for cost in analysis.costs:
        assert float(costs[cost.contestant]["seconds_per_step_median"]) == cost.seconds_per_step[0]
        assert int(costs[cost.contestant]["trainable"]) == cost.trainable


def test_the_page_says_what_the_analysis_says(folder, page):
    said = " ".join(" ".join(page.words).replace("\N{NO-BREAK SPACE}", " ").split())
    for name in ("Word problems", "stsb"):
        comparison = Comparison.load(folder / name)
        for sentence in (*analyse(comparison).verdict, *analyse(comparison).measured):
            assert " ".join(sentence.split()) in said
    assert "the loss is not a number at step 17" in said
    assert "after 40 steps" in said
    assert "after 120 steps" in said


def test_nothing_in_data_becomes_markup(folder, page):
    assert not page.all("script")
    assert not page.all("img")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    text = " ".join(page.words)
    assert SCRIPT in text
    assert IMAGE in text
    assert "$x_1$ & co" in text
    plain = (folder / "out" / "report.md").read_text(encoding="utf-8")
    outside = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", plain)  # in code blocks nothing is markup
    assert not re.search(r"(?<!\\)<", outside)


def test_nothing_in_data_drives_a_terminal(folder):
    for file in (path for path in (folder / "out").rglob("*") if path.is_file()):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", file.read_bytes().decode()), file
    assert r"\x1b[2J\x00" in (folder / "out" / "report.html").read_text(encoding="utf-8")
    formula = Sheet("s", "", (), (), ({"text": "=1+1\r\x1b[2J\ud800"},))
    assert markdown.to_csv(formula) == '"text"\n'.replace('"', "") + '"\'=1+1\n\\x1b[2J\\ud800"\n'


def test_the_page_needs_nothing_but_itself(page, folder):
    for name in ("src", "srcset", "action", "data"):
        assert not page.attributes(name)
    assert all(link.startswith(("#", "data:,")) for link in page.attributes("href"))
    text = (folder / "out" / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", text))
    assert str(folder) not in text  # no place on this machine


def test_ids_are_unique_and_links_lead_somewhere(page):
    ids = Counter(page.attributes("id"))
    assert [name for name, times in ids.items() if times > 1] == []
    wanted = [link[1:] for link in page.attributes("href") if link.startswith("#")]
    wanted += [name for value in page.attributes("aria-labelledby") for name in value.split()]
    wanted += [clip[5:-1] for clip in page.attributes("clip-path")]
    assert set(wanted) <= set(ids)


def test_a_screen_reader_finds_its_way(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1
    assert len(page.all("caption")) == len(page.all("table")) > 10
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    plots = [one for one in page.all("svg") if one.get("class") == "plot"]
    assert len(plots) > 20
    for plot in plots:
        assert plot["role"] == "img"
        assert re.search(r"\d", plot["aria-label"]), "a text alternative says what the drawing shows"
    assert len({plot["aria-label"] for plot in plots}) == len(plots)


def test_drawings_take_their_colours_from_the_page(page):
    styles = " ".join(attributes["style"] for tag, attributes in page.tags if "style" in attributes)
    assert "var(--accent" in styles
    fixed = re.sub(r"var\([^)]*\)", "", styles)
    assert "#" not in fixed
    assert "font-family" not in styles


def test_text_and_lines_stand_out_in_both_themes():
    style = (Path(report.__file__).parent / "style.css").read_text(encoding="utf-8")
    screen, printed = style.split("@media print")
    light, dark = screen.split("@media (prefers-color-scheme: dark)")
    for theme in (light, dark, printed):
        colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", theme))
        for behind in ("surface", "raised"):
            for name in ("ink", "muted", "accent", "contrast", "third"):
                assert contrast(colours[name], colours[behind]) >= 4.5, (name, behind, theme[:60])


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_equal_comparisons_give_equal_files_whatever_an_earlier_report_left(folder, tmp_path):
    regression = Comparison.load(folder / "stsb")
    (tmp_path / "one" / "tables").mkdir(parents=True)
    (tmp_path / "one" / "tables" / "stsb-failures.csv").write_text("contestant\n")
    report.write_report([regression], tmp_path / "one")
    report.write_report([Comparison.load(folder / "stsb")], tmp_path / "two")
    files = sorted(file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file())
    assert {Path("report.html"), Path("report.md")} <= set(files)
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_tables_are_not_written_through_a_link(folder, tmp_path):
    (tmp_path / "tables").symlink_to(folder / "stsb")
    with pytest.raises(LinchainError, match=r"tables is a link"):
        report.write_report([Comparison.load(folder / "stsb")], tmp_path)


def test_the_plan_that_is_shown_can_be_run_again(folder):
    original = Comparison.load(folder / "stsb")
    shown = building.compose([study.Study("x", original)]).chapters[0].sections[-1].blocks[-1]
    again = build_plan({**yaml.safe_load(shown.text), "output": "rerun"})
    assert (again.contestants, again.seeds, again.budgets, again.run) == (
        original.plan.contestants,
        original.plan.seeds,
        original.plan.budgets,
        original.plan.run,
    )


def test_a_comparison_that_has_not_begun_is_reported(tmp_path):
    values = {
        "model": "starter",
        "data": {"train": "starter:train", "validation_size": 9, "test": "starter:test"},
        "methods": ["lora", "moslora"],
        "options": synthetic.TARGETS,
        "learning_rates": [1e-4, 1e-3],
        "output": str(tmp_path / "nothing"),
    }
    written = report.write_report([Comparison(build_plan(values))], tmp_path / "out")
    assert "Nothing can be said yet" in written.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def on_tasks(tmp_path_factory):
    """Tested on two tasks of LinChain's Table 2, trained on the data that hold questions of one of them."""
    root = tmp_path_factory.mktemp("tasks")
    made = synthetic.comparison(
        root / "arithmetic",
        synthetic.of_tasks,
        methods=["lora", {"name": "linchain", "r": 8, "init_weights": "orthogonal"}, "full"],
        diagnostics=False,
        data={"train": "task:math10k", "validation_size": 20, "test": ["task:gsm8k", "task:addsub"]},
        **SMALL,
    )
    report.write_report([made], root / "out")
    return root


def test_published_figures_stand_beside_ours(on_tasks):
    rows = tables(on_tasks, "arithmetic-published-2")
    found = {(row["task"], row["method"]): row for row in rows}
    assert {row["task"] for row in rows} == {"gsm8k", "addsub"}, "the paper's mean is over other tasks"
    assert float(found["gsm8k", "LoRA"]["published"]) == 72.6
    assert found["gsm8k", "LoRA"]["contestant"] == "lora"
    assert found["gsm8k", "MoSLoRA"]["contestant"] == ""
    assert (
        found["addsub", "LinChain-3-16"]["otherwise"]
        == "r 8, there 16; lora_dropout 0.0, there 0.05; init_weights orthogonal"
    )
    ours = {
        (table.test, line.contestant): line.value
        for table in analyse(Comparison.load(on_tasks / "arithmetic")).tables
        for line in table.lines
    }
    assert float(found["gsm8k", "LinChain-3-16"]["value"]) == ours["gsm8k", "linchain"]


def test_what_makes_figures_less_comparable_is_said(on_tasks):
    text = (on_tasks / "out" / "report.html").read_text(encoding="utf-8")
    assert "<li>LLaMA-3-8B-Instruct in the paper, starter here.</li>" in text
    assert "1,319 problems in the test set of GSM8K, 20 of them here" in text
    warning = re.search(r"<p>AddSub: [^<]*</p>", text)
    assert warning, "the contamination of our own training data"


def test_costs_stand_beside_those_of_the_paper(on_tasks):
    rows = {row["method"]: row for row in tables(on_tasks, "arithmetic-published-costs")}
    costs = {cost.contestant: cost for cost in analyse(Comparison.load(on_tasks / "arithmetic")).costs}
    ratio = costs["linchain"].seconds_per_step[0] / costs["lora"].seconds_per_step[0]
    assert float(rows["LinChain-3-16"]["time_over_lora_here"]) == ratio
    assert rows["MoSLoRA"]["time_over_lora_here"] == ""


def unfinished(folder):
    """Of two contestants' searches one lacks a run, the other is over and has a seed."""
    made = synthetic.comparison(folder, methods=["lora", "full"], diagnostics=False, **{**SMALL, "seeds": 1})
    (folder / "runs" / "full" / "search-0.001" / "result.json").unlink()
    return study.Study("x", made)


def test_a_rate_that_was_not_run_has_not_failed(tmp_path):
    found = unfinished(tmp_path / "x")
    sheet = course_tables.learning_rates(found, None)
    assert [cell.text for cell in sheet.rows[1]][2:] == ["not run", "–"]
    assert "chosen" not in [cell.detail for cell in sheet.rows[1]]
    assert "chosen" in [cell.detail for cell in sheet.rows[0]]
    picture = figures.learning_rates(found, None)
    assert [panel.text.rpartition(", ")[2] for panel in picture.panels[1:]] == ["not run at 1e-3; nothing chosen yet."]


def test_what_changed_between_runs_and_what_the_training_data_hold_is_said_before_the_end(tmp_path):
    found = unfinished(tmp_path / "x")
    overlap = {"test": "task:gsm8k", "n": 40, "same": 2, "near": 1, "examples": []}
    for trial, torch in zip(found.trials[:2], ("2.12.0", "2.13.0"), strict=True):
        overlaps = {"overlap": [overlap], "validation_overlap": [overlap | {"same": 0}]}
        kept = synthetic.ENVIRONMENT | {"versions": {"torch": torch}, **overlaps}
        write_json(trial.files.environment, kept)
    assert settings.cautions(found) == (
        "2 of 40 test questions of task:gsm8k stand in the training data, and 1 more nearly so.",
        "0 of 40 test questions of task:gsm8k stand in the validation data, and 1 more nearly so.",
        "Not the same for all runs: versions.torch (2.12.0 and 2.13.0).",
    )
    names = [row[0].text for row in settings.environment(found).rows]
    assert "commit of the working directory" in names
    assert not any(name.startswith(("overlap", "validation_overlap", "differing")) for name in names)


def test_a_loss_is_reached_by_a_running_mean_as_wide_as_the_one_to_be_reached():
    lucky = [9.0, 1.0, 9.0, 5.0, 4.0, 4.0]
    found = series.course([dict(enumerate(lucky)), dict(enumerate(lucky))]).smoothed(2)
    assert (found.steps.tolist(), found.mean.tolist()) == ([1, 2, 3, 4, 5], [5.0, 5.0, 7.0, 4.5, 4.0])
    assert found.reaches(4.0) == 5
    assert found.reaches(3.9) is None


def test_the_reference_reaches_its_own_end(folder):
    rows = {row["contestant"]: row for row in tables(folder, "word-problems-convergence")}
    assert int(rows["lora"]["reached_at"]) <= 120
    assert len(rows["lora"]["seeds_reach_at"].split()) == 2


def test_an_update_is_read_into_means_over_modules():
    rows = [
        {
            "step": 0,
            "rank": 4,
            "norm": 1e-15,
            "stable_rank": 0.0,
            "gradients": {"A": 1.0},
            "factors": {"A": [2.0, 1.0]},
        },
        {
            "step": 9,
            "rank": 4,
            "norm": 1.0,
            "stable_rank": 2.0,
            "gradients": {"A": 3.0},
            "factors": {"A": [4.0, 1.0, 1.0]},
        },
        {"step": 9, "rank": 8, "norm": 1.0, "stable_rank": 3.0, "gradients": {"A": 5.0}, "factors": {"A": [2.0, 1.0]}},
    ]
    found = series.read_update([*rows, {"step": 9, "norm": 1.0, "stable_rank": None, "folding_error": 1e-7}])
    assert found.ranks == {"entropy_rank": {}, "stable_rank": {9: 2.5}, "participation_ratio": {}}
    assert found.gradients == {"A": {0: 1.0, 9: 4.0}}
    assert (found.first, found.last) == ({"A": {1: 1.0, 2: 0.5}}, {"A": {1: 1.0, 2: 0.375}})
    assert (found.sizes, found.folding_error) == ({4, 8}, 1e-7)
    assert series.read_update([]) is None


def test_prices_with_a_zero_among_them_have_a_linear_axis():
    points = [Point("a", (1.0, 0.9, 1.1), (0.0, 0.0, 0.0)), Point("b", (2.0, 1.9, 2.1), (50.0, 50.0, 50.0))]
    assert not far_apart(points)
    assert far_apart([Point("a", (1.0,) * 3, (1.0,) * 3), points[1]])


def test_a_course_is_over_the_steps_that_all_seeds_have():
    found = series.course([{1: 1.0, 2: 3.0, 3: float("nan")}, {1: 2.0, 2: 5.0, 4: 0.0}])
    assert (found.steps.tolist(), found.mean.tolist()) == ([1, 2], [1.5, 4.0])
    assert (found.low.tolist(), found.high.tolist(), found.seeds) == ([1.0, 3.0], [2.0, 5.0], 2)
    assert series.course([{1: 1.0}, {2: 1.0}]) is None
    assert series.course([]) is None


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_front_is_whom_nobody_beats(higher_is_better):
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 6, (40, 2)).astype(float)
    points = [Point(str(index), (score,) * 3, (price,) * 3) for index, (score, price) in enumerate(drawn)]
    sign = 1 if higher_is_better else -1

    def beaten(one: Point) -> bool:
        mine = (sign * one.score[0], -one.price[0])
        others = ((sign * other.score[0], -other.price[0]) for other in points)
        return any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in others)

    assert front(points, higher_is_better) == [point for point in points if not beaten(point)]


@pytest.mark.parametrize(
    "module", [words, markdown, series, study, building, papers], ids=lambda module: module.__name__
)
def test_examples_in_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def test_a_fence_is_longer_than_any_in_the_text():
    assert markdown.fenced("a ```` b").startswith("`````text\n")


def test_a_drawing_keeps_what_names_hold():
    name = 'id="a" url(#b) <b> #010101 $x$ font-family: x'
    panel = svg.draw("p", name, lambda axes: axes.set_xlabel(name))
    page = Page(str(panel.svg))
    assert name in " ".join(page.words)
    assert page.all("svg")[0]["aria-label"] == name


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == "matplotlib" else name)
    with pytest.raises(LinchainError, match=r"matplotlib: pip install 'linchain\[report\]'"):
        report.write_report([], tmp_path)
