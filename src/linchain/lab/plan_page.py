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
