"""Run by test_serving.py in a process of its own, which cannot import linchain: what stock libraries make of exports.

Usage: stock_server.py FOLDER, which holds `base`, the exported adapters `first` and `second`, and `tasks` for
lm-evaluation-harness. Leaves `logits.safetensors` and `harness.json` there.
"""

import json
import sys
from pathlib import Path

sys.modules["linchain"] = None  # any import of it fails from here on

import torch  # noqa: E402
from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from peft import AutoPeftModelForCausalLM, PeftModel  # noqa: E402
from peft.utils.hotswap import hotswap_adapter  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

folder = Path(sys.argv[1])
base, first, second = (str(folder / name) for name in ("base", "first", "second"))
ids = load_file(folder / "ids.safetensors")["ids"]
found = {}


def keep(name, model, **options):
    with torch.no_grad():
        found[name] = model.eval()(ids, **options).logits.clone()


model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), first)
keep("peft", model)
keep("auto_peft", AutoPeftModelForCausalLM.from_pretrained(first))

native = AutoModelForCausalLM.from_pretrained(base)
native.load_adapter(first)
keep("transformers", native)
keep("merged", AutoModelForCausalLM.from_pretrained(str(folder / "merged")))

model.load_adapter(second, adapter_name="other")
keep("mixed", model, adapter_names=["default", "other", "__base__", "other"])

hotswap_adapter(model, second, adapter_name="default", torch_device="cpu")
keep("swapped", model)
hotswap_adapter(model, first, adapter_name="default", torch_device="cpu")
keep("swapped_back", model)

save_file(found, folder / "logits.safetensors")

results = simple_evaluate(
    model="hf",
    model_args=f"pretrained={base},peft={first},dtype=float32",  # what lm_eval's --model_args is
    tasks=["tiny_choice"],
    task_manager=TaskManager(include_path=str(folder / "tasks"), include_defaults=False),
    device="cpu",
    batch_size=3,
)
responses = [sample["filtered_resps"] for sample in results["samples"]["tiny_choice"]]
(folder / "harness.json").write_text(json.dumps([[value for value, _ in row] for row in responses]))
