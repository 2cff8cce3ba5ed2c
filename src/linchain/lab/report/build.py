"""One report of one or several comparisons: HTML in one file, Markdown, and the tables as CSV."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from linchain.errors import LinchainError, printable
from linchain.evaluation.scores import MEAN
from linchain.files import write_text
from linchain.lab.report import course_tables, examples, figures, papers, settings, spectra, tables, words
from linchain.lab.report.content import Block, Chapter, Report, Section, Sheet
from linchain.lab.report.markdown import to_csv, to_markdown
from linchain.lab.report.pareto import pareto
from linchain.lab.report.study import Study

if TYPE_CHECKING:
    from linchain.lab.trials import Comparison


def build(comparisons: Sequence[Comparison], out: Path) -> Path:
    """Writes the files that `linchain.lab.report.write_report` promises."""
    names = _names([comparison.folder.absolute().name for comparison in comparisons])
    csv = out / "tables"
    if csv.is_symlink():  # a comparison may be a stranger's, and what the link leads to is not
        raise LinchainError(
            f"{csv} is a link, and its tables would be written elsewhere; remove it, or choose --output"
        )
    report = compose([Study(name, comparison) for name, comparison in zip(names, comparisons, strict=True)])
    for stale in (file for name in names for file in csv.glob(f"{name}-*.csv")):
        stale.unlink()
    for sheet in sheets(report):
        write_text(csv / f"{sheet.name}.csv", to_csv(sheet))
    write_text(out / "report.md", to_markdown(report))
    html = out / "report.html"
    write_text(html, to_html(report))
    return html


def compose(studies: Sequence[Study]) -> Report:
    """The content of a report."""
    titles = _titles([study.comparison.folder.absolute() for study in studies])
    chapters = tuple(_chapter(study, title) for study, title in zip(studies, titles, strict=True))
    return Report(f"Fine-tuning methods compared: {words.listed(titles)}", chapters)


def to_html(report: Report) -> str:
    """One page; whatever comes from data or models is escaped, but for the drawings, which matplotlib escapes."""
    loader = PackageLoader("linchain.lab.report", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.finalize = _shown
    environment.filters["kind"] = lambda block: type(block).__name__
    style = environment.loader.get_source(environment, "style.css")[0] if environment.loader else ""
    return environment.get_template("template.html.jinja").render(report=report, style=Markup(style))


def _shown(value: object) -> object:
    """Text without control characters. A number and its percent sign stay on one line."""
    return printable(value).replace(" %", "\N{NO-BREAK SPACE}%") if type(value) is str else value


def sheets(report: Report) -> Iterator[Sheet]:
    """All tables of a report."""
    for chapter in report.chapters:
        yield from chapter.overview
        for section in chapter.sections:
            yield from (block for block in section.blocks if isinstance(block, Sheet))


def _names(folders: Sequence[str]) -> list[str]:
    """Names for ids and files, each once.

    >>> _names(["STS-B (MiniLM)", "sts-b-minilm-2", "sts-b minilm"])
    ['sts-b-minilm', 'sts-b-minilm-2', 'sts-b-minilm-3']
    """
    names: list[str] = []
    for folder in folders:
        base = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-") or "comparison"
        numbered = (f"{base}-{number}" for number in itertools.count(2))
        names.append(base if base not in names else next(name for name in numbered if name not in names))
    return names


def _titles(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with those of as many folders above them as it takes to tell them apart.

    >>> _titles([Path("/runs/monday/stsb"), Path("/runs/tuesday/stsb")])
    ['monday/stsb', 'tuesday/stsb']
    """
    deepest = max((len(folder.parts) for folder in folders), default=1)
    tails = (["/".join(folder.parts[-depth:]) for folder in folders] for depth in range(1, deepest + 1))
    return next((titles for titles in tails if len(set(titles)) == len(set(folders))), [])


def _chapter(study: Study, title: str) -> Chapter:
    last = study.budgets[-1]
    overview = tables.overview(study, last)
    return Chapter(
        name=study.name,
        title=title,
        about=_about(study),
        verdict=(*study.analysis.verdict, *study.analysis.measured),
        overview=(overview,) if overview else (),
        sections=tuple(section for section in _sections(study) if section.blocks),
    )


def _about(study: Study) -> str:
    """Model, contestants, search and seeds in a line."""
    plan = study.comparison.plan
    model = "/".join(Path(plan.run["model"]["name"]).parts[-2:])  # of a folder as much as the Hub says: owner and name
    tests = words.listed(dict.fromkeys(table.test for table in study.analysis.tables if table.test != MEAN))
    rates = words.listed(sorted({len(one.learning_rates) for one in plan.contestants}))
    search = (
        f"{rates} learning rates searched for each" if plan.searches else "one learning rate each, without a search"
    )
    return (
        f"Model {model}; {words.plural(len(plan.contestants), 'contestant')}; tested {words.on(tests)}; "
        f"{search}; {words.plural(len(plan.seeds), 'seed')}"
    )


def _sections(study: Study) -> Iterator[Section]:
    yield from _results(study)
    yield from _training(study)
    last = study.budgets[-1]
    disagreements = _blocks([examples.disagreements(study, last)])
    yield Section(f"{study.name}-examples", "Where they disagree", blocks=disagreements)
    yield Section(f"{study.name}-failed", "Failed runs", blocks=_blocks([tables.failures(study)]))
    yield Section(
        f"{study.name}-settings",
        "Settings, versions, and how to run it again",
        blocks=_blocks([settings.contestants(study), settings.environment(study), *settings.reruns(study)]),
    )


def _results(study: Study) -> Iterator[Section]:
    """What came out, and at which cost."""
    each = study.budgets
    yield Section(
        f"{study.name}-accuracy",
        "Scores",
        settings.cautions(study),
        (
            *_blocks(
                block
                for budget in each
                for block in (
                    figures.intervals(study, budget),
                    tables.matrix(study, budget),
                    *(tables.scores(study, table) for table in study.analysis.tables if table.budget == budget),
                )
            ),
            *papers.published(study),
        ),
    )
    yield Section(
        f"{study.name}-cost",
        "Cost",
        blocks=_blocks(
            (
                *(block for budget in each for block in (tables.costs(study, budget), pareto(study, budget))),
                papers.costs(study),
            )
        ),
    )


def _training(study: Study) -> Iterator[Section]:
    """What training went through."""
    each = study.budgets
    yield Section(
        f"{study.name}-convergence-section",
        "Loss curves",
        blocks=_blocks(
            block
            for budget in each
            for block in (
                figures.loss_curves(study, budget, "loss"),
                course_tables.convergence(study, budget),
                figures.loss_curves(study, budget, "eval_loss"),
            )
        ),
    )
    yield Section(
        f"{study.name}-search",
        "Learning rates",
        blocks=_blocks(
            block
            for budget in each
            for block in (figures.learning_rates(study, budget), course_tables.learning_rates(study, budget))
        ),
    )
    yield Section(
        f"{study.name}-diagnostics",
        "Inside the update",
        blocks=_blocks(
            block
            for budget in each
            for block in (
                course_tables.rank_ends(study, budget),
                spectra.rank_courses(study, budget),
                spectra.spectra(study, budget, last=False),
                spectra.spectra(study, budget, last=True),
                spectra.gradient_courses(study, budget),
            )
        ),
    )


def _blocks(found: Iterable[Block | None]) -> tuple[Block, ...]:
    return tuple(block for block in found if block is not None)
