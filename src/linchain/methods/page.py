"""The page of all methods, from the catalogue itself: `python -m linchain.methods.page`."""

from __future__ import annotations

from linchain import methods
from linchain.methods.base import LORA_OPTIONS

HEAD = """# Methods

What `linchain train`, `linchain inspect` and `linchain methods` know, under the names that they take. `x` is a row, `W0` the
frozen weight (in × out), `s` the scale α/r unless another is given; `A0` and `B0` are what A and B start as. Of Bone's
weight `W` (out × in), `W_ac` is the r × r block in block row a (outputs) and block column c (inputs).
Written by `python -m linchain.methods.page > docs/methods.md`.

Where a method is PEFT's, it is PEFT's own implementation that runs. Options are given beside the name,
`method: {name: pissa, r: 32}`; `linchain methods NAME` explains each of them, in PEFT's words where the option is PEFT's. Those
for `init_lora_weights` also name starts that a method does not take; it refuses them and says which it takes.
Learning rates do not carry over from one
method to another: compare them each at its own best.

PiSSA, OLoRA and LoRA-GA take the start of the adapter out of the base weights. A run of theirs computes that start anew when
it is resumed and refuses to go on from another one. Over a bfloat16 base the moved weights are rounded, so the saved
adapter's scores on the base as it was can differ from those at the end of the training by that rounding.

"""


def methods_page() -> str:
    """The page in Markdown: one section a method."""
    return HEAD + "\n".join(_section(method) for method in methods.catalogue())


def _section(method: methods.Method) -> str:
    reference = method.paper
    if method.arxiv:
        reference += f", [arXiv {method.arxiv}](https://arxiv.org/abs/{method.arxiv})"
    rows = {
        "paper": reference,
        "trained": method.trains,
        "optimizer": method.groups,
        "when": method.use,
        "options": _options(method),
        "result": method.leaves,
    }
    listed = "\n".join(f"- **{name}**: {text}" for name, text in rows.items())
    return f"## {method.title}: `{method.name}`\n\n    {method.equation}\n\n{listed}\n"


def _options(method: methods.Method) -> str:
    """The defaults of the options that matter, what is fixed, and the names of the others."""
    described = {option.name: option.default for option in method.described_options()}
    low_rank = "lora_alpha" in described
    telling = [name for name in described if name not in LORA_OPTIONS or name in ("r", "lora_alpha", "lora_dropout")]
    telling = [name for name in telling if low_rank or described[name] is not None]
    parts = [f"`{name}` {_value(described[name])}" for name in telling]
    parts += [f"`{name}` {_value(value)} (fixed)" for name, value in method.fixed.items()]
    others = [f"`{name}`" for name in described if name not in telling]
    if method.name != "lora" and low_rank:
        without = [f"`{name}`" for name in LORA_OPTIONS if name not in described and name not in method.fixed]
        others = ["those of `lora`" + (f" without {', '.join(without)}" if without else "")]
    return ", ".join(parts) + (f"; also {', '.join(others)}" if others else "") + "." if parts else "none."


def _value(value: object) -> str:
    return "unset" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    print(methods_page(), end="")
