"""The page of a plan's keys, from the schema itself: `python -m linchain.lab.plan_page`."""

from __future__ import annotations

from linchain.lab.plan import OWN_KEYS, ContestantConfig, CostConfig, PlanConfig
from linchain.training.config_page import table

HEAD = """# The plan of a comparison

`linchain compare PLAN.yaml` compares methods under one protocol. A plan has the sections of [a run](configuration.md)
(`model`, `task`, `data`, `training`, `evaluation`, …), the same for every contestant, and the keys below. Any of them can be
overridden on the command line: `seeds=5 training.max_steps=200`. Written by `python -m linchain.lab.plan_page > docs/plan.md`.

What it does: every contestant is trained at every learning rate of its grid and scored on the validation split; at its best
rate it is trained once more for each seed, and scored once on the test split; then each is run for a few steps alone, for
time and memory. No test example is seen before that. A comparison that was killed continues where it stopped when the same
command is given again; a plan may grow (more seeds, rates, contestants), and what was run stays.

```yaml
model: starter
methods:
  - lora
  - {name: linchain, init_weights: orthogonal, label: orthogonal chain}
  - {name: bone-row, r: 16}
options: {r: 16, lora_alpha: 32, target_modules: [q_proj, k_proj, v_proj, up_proj, down_proj]}
learning_rates: [1e-3, 4e-3, 1.6e-2]
seeds: 3
data: {train: starter:two_step, validation: starter:two_step, test: starter:two_step}
training: {max_steps: 100, batch_size: 16, warmup_steps: 10}
evaluation: {metric: exact_match, max_new_tokens: 48}
```

With data of one's own: files in JSONL (or JSON, CSV, Parquet), a record a line, such as
`{"instruction": "What is 2 plus 3?", "output": "2 plus 3 is 5.", "answer": "5"}`. Other columns that are read: `input` beside
these, `prompt` and `completion`, `messages`, ShareGPT's `conversations`, `text`, or `sentence1`, `sentence2` and `label`.
Where an instruction or prompt has an `answer`, answers are generated and compared with it; else the score is the loss
(`evaluation.metric`).

```yaml
model: models/my-model  # a folder or a Hub name
methods: [lora, linchain]
options: {target_modules: [q_proj, v_proj]}
learning_rates: [1e-4, 3e-4, 1e-3]
data: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
training: {epochs: 2}
output: runs/mine
```

## What a plan needs, and what may not stand in it

- A search, which is more than one learning rate, needs `data.validation`, or `data.validation_size`: so many training records
  held back. No rate is chosen by test data, and the two may not be the same file. `data.test` is always needed.
- `options.target_modules` (or `target_modules` of each entry), as soon as one method has adapters: methods differ in their
  defaults, and a comparison of unlike layers would be none.
- Not `method` and `training.learning_rate`: `methods` and `learning_rates` decide them. Not `evaluation.baseline`: the
  untrained model is not evaluated. Not `evaluation.score_validation`: search runs always do. Not `training.max_steps` beside
  `budgets`, and not `training.init_seed` and its like where `vary` has that part.

## What it leaves

`output` (default: `runs/<name of the plan's file>`) is a folder of its own:

| | |
|---|---|
| `report.html`, `report.md`, `tables/*.csv` | the report; `linchain report OUTPUT` writes it anew, also while runs go on |
| `summary.json`, `environment.json` | the statistics; versions, machine, commit and hashes of model and data |
| `plan.yaml` | the plan with all defaults; its first line marks it as written by linchain |
| `runs/<contestant>/search-<rate>/` | a run of the search, scored on the validation split; keeps no weights |
| `runs/<contestant>/seed-<s>-at-<rate>/` | a final run at the chosen rate, scored on the test split; keeps `adapter/` |
| `runs/<contestant>/cost-<round>-at-<rate>/` | a few steps alone on the machine, for time and memory; keeps no weights |

With `budgets` there is a folder `steps-<budget>/` between a contestant and its search and final runs. Each run's folder is that
of `linchain train`: `config.yaml`, `metrics.jsonl`, `predictions/`, `result.json`; one that failed has `error.json` and
`log.txt`. The method `full` leaves `model/` in the place of `adapter/`. The other commands take a final run's folder:

<!-- not run: names folders of a comparison -->
```bash
linchain evaluate runs/mine/runs/linchain/seed-1-at-0.001 --data more.jsonl
linchain export runs/mine/runs/linchain/seed-1-at-0.001 my-lora --to lora
```

A command with fewer seeds or contestants than the folder holds leaves the rest out of the report, and says so.

"""


def plan_page() -> str:
    """The page in Markdown."""
    own = {name: PlanConfig.model_fields[name] for name in OWN_KEYS if name != "cost"}
    contestant = ContestantConfig.model_fields
    return "\n".join(
        [
            HEAD + table("the plan's own keys", own),
            table(
                "an entry of `methods`", contestant, note="A name, or a mapping of these and the method's options.\n\n"
            ),
            table("`cost`", CostConfig.model_fields, "cost."),
        ]
    )


if __name__ == "__main__":
    print(plan_page(), end="")
