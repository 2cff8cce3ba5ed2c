import re
from pathlib import Path

from linchain.lab.plan import build_plan
from linchain.lab.plan_page import plan_page
from linchain.training.load_config import parse_yaml


def test_the_page_in_docs_is_that_of_the_schema():
    assert (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8") == plan_page()


def test_its_example_is_a_plan():
    example = re.search(r"```yaml\n(.*?)```", plan_page(), re.DOTALL)
    assert len(build_plan(parse_yaml(example[1], "page") | {"output": "runs/x"}).contestants) == 3
