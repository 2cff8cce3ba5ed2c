"""The loss curve as SVG, where matplotlib is installed (the extra `plots`)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from linchain.files import write_text


def plot_losses(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws the losses in metrics.jsonl's rows over the steps; does nothing where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for key, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend()
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    write_text(path, svg.getvalue())
