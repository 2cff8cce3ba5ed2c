"""matplotlib's drawings as SVG that takes its colours and its font from the page around it.

One drawing serves the light and the dark theme: the colours that matplotlib is given stand for roles, and are replaced
by the page's CSS variables. The page's style.css defines them; the fallback is what a drawing on its own is shown in.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

# role -> (what matplotlib draws with, the CSS variable with its fallback)
ROLES = {
    "ink": ("#010101", "var(--ink, #1b1f24)"),
    "muted": ("#020202", "var(--muted, #57606a)"),
    "grid": ("#030303", "var(--grid, #e3e6ea)"),
    "accent": ("#040404", "var(--accent, #0b62b0)"),
    "contrast": ("#050505", "var(--contrast, #b3500b)"),
    "third": ("#060606", "var(--third, #0a7a5f)"),
    "surface": ("#070707", "var(--surface, #ffffff)"),
}
INK, MUTED, GRID, ACCENT, CONTRAST, THIRD, SURFACE = (colour for colour, _ in ROLES.values())

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.7,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # a contestant's name may hold a dollar sign
    "axes.formatter.use_mathtext": False,
    "svg.fonttype": "none",
    "path.simplify": True,
}
DASHED, DOTTED = (0, (5, 2)), (0, (1.2, 1.6))
_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure.

    Attributes:
        title: what tells this panel from the figure's others, as text of the page.
        note: a remark under the title.
        text: what the drawing shows, for those who cannot see it.
        svg: an `<svg role="img">` that carries `text` as its name.
    """

    title: str
    note: str
    text: str
    svg: Markup


def draw(
    name: str,
    text: str,
    drawing: Callable[[Any], None],
    size: tuple[float, float] = (2.9, 2.0),
    title: str = "",
    note: str = "",
) -> Panel:
    """The panel that `drawing` makes on empty axes.

    Args:
        name: unique within a page, letters, digits and hyphens; prefixed to every id in the SVG.
        text: what the drawing shows, in words.
        drawing: called with matplotlib axes.
        size: width and height in inches; 72 units of the SVG's coordinates each.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        drawing(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=_METADATA)
    return Panel(title, note, text, _themed(file.getvalue(), name, text))


def logarithmic(axes: Any, which: Literal["x", "y"], shown: Callable[[float], str] = "{:g}".format) -> None:
    """Makes an axis logarithmic, with few ticks in plain figures. To be called when everything is drawn."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1,) if high > 50 * low else (1, 2, 5), numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    axis.set_minor_locator(NullLocator())


def _themed(svg: str, name: str, text: str) -> Markup:
    """matplotlib's file as an element of a page: roles for colours, the page's font, ids of its own."""
    root = ElementTree.fromstring(svg)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        element.attrib = {key: _attribute(key, value, name) for key, value in attributes.items()}
        if element.tag != "text":
            element.text = None
        element.tail = "\n" if element.tag == "text" else None
    _prune(root)
    view = root.get("viewBox", "")
    root.attrib = {"class": "plot", "viewBox": view, "role": "img", "aria-label": text}
    # as HTML, in which a page holds it: no tag closes itself but those that SVG knows to be empty
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key in ("href", "clip-path"):
        return value.replace("#", f"#{name}-")
    if key == "style":
        for colour, variable in ROLES.values():
            value = value.replace(colour, variable)
        return re.sub(r"font: ([\d.]+px)[^;]*|font-family:[^;]*;? ?", _size, value)
    if key in ("d", "x", "y", "transform", "points"):  # hundredths of a point are enough, and half the file
        return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", " ".join(value.split()))
    return value


def _size(font: re.Match[str]) -> str:
    return f"font-size: {font[1]}" if font[1] else ""


def _prune(element: ElementTree.Element) -> None:
    """Leaves out metadata, styles for the whole page, and groups of nothing."""
    for child in list(element):
        _prune(child)
        empty = child.tag in ("g", "defs") and not len(child)
        if empty or child.tag in ("metadata", "style"):
            element.remove(child)
