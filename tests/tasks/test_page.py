from pathlib import Path

from linchain import tasks
from linchain.tasks.page import tasks_page


def test_the_page_in_docs_is_that_of_the_registry():
    page = Path(__file__).parents[2] / "docs" / "tasks.md"
    assert page.read_text(encoding="utf-8") == tasks_page()


def test_it_has_every_task_with_its_licence_and_its_contamination():
    page = tasks_page()
    for task in tasks.registry():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{task.name}` | {task.title} |")]
        assert task.licence in row
        assert all(text in page for text in task.contamination.values())
