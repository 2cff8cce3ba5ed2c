"""The papers' figures as data: their means, what they are matched by, and how sure they are."""

import math
from statistics import fmean

import pytest

from linchain import methods, tasks
from linchain.tasks import protocols
from linchain.tasks.published import COMMONSENSE, TABLES


def test_published_means_are_the_means_of_the_published_scores():
    for table in TABLES:
        for method, mean in table.values.get("mean", {}).items():
            scores = [row[method] for task, row in table.values.items() if task != "mean"]
            assert fmean(scores) == pytest.approx(mean, abs=0.06), (table.source, method)


def test_published_tables_name_tasks_methods_and_protocols_that_there_are():
    for table in TABLES:
        assert set(table.values) - {"mean"} <= set(tasks.names())
        assert protocols.get(table.protocol).paper is not None
        for row in table.values.values():
            for method in row:
                name, options = table.methods[method]
                methods.get(name).peft_config(options)


def test_the_papers_adapters_have_its_codes_scale_and_dropout():
    for name, options in COMMONSENSE.methods.values():
        config = methods.get(name).peft_config(options)
        assert (config.lora_alpha / config.r, config.lora_dropout) == (2, 0.05)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.source)
def test_the_stated_uncertainty_is_that_of_the_test_sizes(table):
    paper = protocols.get(table.protocol).paper
    errors = {}
    for name, row in table.values.items():
        if name in tasks.names() and tasks.get(name).metric in ("exact_match", "accuracy"):
            share = fmean(row.values()) / 100
            size = paper.test_sizes.get(name, tasks.get(name).splits["test"].records)
            errors[100 * math.sqrt(2 * share * (1 - share) / size)] = tasks.get(name).title
    smallest, largest = (f"{found(errors):.1f} ({errors[found(errors)]}" for found in (min, max))
    assert smallest in table.remarks[""]
    assert largest in table.remarks[""]
