import re
from pathlib import Path

from linchain.lab.plan import build_plan
from linchain.lab.plan_page import plan_page
from linchain.training.load_config import parse_yaml


def test_the_page_in_docs_is_that_of_the_schema():
    assert (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8") == plan_page()


def test_its_examples_are_plans():
    examples = re.findall(r"```yaml\n(.*?)```", plan_page(), re.DOTALL)
    plans = [build_plan({"output": "runs/x"} | parse_yaml(example, "page")) for example in examples]
    assert [len(plan.contestants) for plan in plans] == [3, 2]
