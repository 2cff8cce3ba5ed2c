"""Tasks for lm-evaluation-harness whose data are files."""

import functools
import json

CHOICES = ("one", "twenty two", "3")

COMMON = """
task: tiny_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/{data}.jsonl}}, cache_dir: {folder}}}
test_split: test
doc_to_text: "{text}"
"""
PROMPT = "Q: What comes after {{number}}?\\nA:"
TASKS = {
    "choice": """
tag: tiny_tag
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "answer": """
output_type: generate_until
doc_to_target: "{{number}}"
generation_kwargs: {until: ["."], max_gen_toks: 4}
metric_list: [{metric: exact_match}]
""",
    "perplexity": """
output_type: loglikelihood_rolling
doc_to_target: "{{choices[1]}}"
metric_list: [{metric: word_perplexity}]
""",
    "code": """
output_type: generate_until
doc_to_target: ""
unsafe_code: true
""",
    "gone": "",
}
GROUP = """
group: tiny_group
task: [tiny_choice, tiny_answer]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""


def spare_seconds(monkeypatch):
    """The harness reads the definitions of its thousands of tasks, which takes it a while."""
    from lm_eval.tasks import TaskManager

    start = functools.partialmethod(TaskManager.__init__, include_defaults=False)
    monkeypatch.setattr(TaskManager, "__init__", start)


def write_tasks(folder):
    """A folder with the tasks above and their data, 6 records."""
    rows = [{"number": n, "choices": CHOICES, "answer": n % 3} for n in range(6)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        data = "gone" if name == "gone" else "data"
        prompt = "" if name == "perplexity" else PROMPT
        (folder / f"{name}.yaml").write_text(COMMON.format(name=name, folder=folder, data=data, text=prompt) + text)
    (folder / "group.yaml").write_text(GROUP)
    return folder
