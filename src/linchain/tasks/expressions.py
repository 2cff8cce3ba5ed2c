"""Mathematical expressions: reads an answer out of a solution, and compares two answers, as written or by their value."""

from __future__ import annotations

import re

from linchain.errors import LinchainError

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_STATED = re.compile(r"answer is:?\s*(.+?)(?=\.\s|\.?\s*$)", re.IGNORECASE | re.MULTILINE)  # to the end of the sentence
# What changes nothing about an answer, each with what is put in its place, in this order.
_STRIPPED = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"\\[dt]frac", r"\\frac"),
        (r"\\(?:left|right|displaystyle|[!,;: $])|\$", ""),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\?%|°", ""),  # degrees and percent are units
        (r"(?<=[^\s=])\s*\\(?:text|mbox|mathrm)\s*\{[^{}]*\}\s*(?:\^\{?\d\}?)?$", ""),  # a unit behind
        (r"\\(?:text|textbf|mbox|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1"),
        (r"(?<=\d),(?=\d{3}(?:\D|$))", ""),
        (r"\s+", ""),
        (r"^[a-zA-Z](?:\\in|=)", ""),
        (r"\\sqrt(\w)", r"\\sqrt{\1}"),
        (r"\\frac(\d)(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac(\d)\{", r"\\frac{\1}{"),
        (r"\\frac(\{[^{}]*\})(\d)", r"\\frac\1{\2}"),
        (r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}"),
        (r"^-\\frac\{(\d)", r"\\frac{-\1"),
        (r"(?<!\d)\.(?=\d)", "0."),
        (r"\.+$", ""),
    )
)


def find(text: str) -> str | None:
    """What stands in the last box of `text`, else what its last "answer is" states; None where there is neither.

    >>> find(r"so $x = \\boxed{\\frac{1}{2}}$.")
    '\\\\frac{1}{2}'
    """
    boxes = list(_BOX.finditer(text))
    if boxes:
        return _braced(text, boxes[-1].end())
    stated = _STATED.findall(text)
    return stated[-1] if stated else None


def _braced(text: str, start: int) -> str | None:
    """The text from `start`, behind an opening brace, to the brace that closes it."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place].strip()
    return None


def same(found: str, gold: str) -> bool:
    r"""Whether two answers are written alike but for spacing, units and ways to write a fraction or a root.

    The rule is that of MATH's own code (Hendrycks et al. 2021): it compares text, so that 2/4 is not 1/2.

    >>> same(r"\dfrac12", "1/2"), same("x = 3^\\circ", "3")
    (True, True)
    """
    return stripped(found) == stripped(gold)


def stripped(answer: str) -> str:
    """`answer` without what changes nothing about it."""
    answer = answer.strip()
    for pattern, by in _STRIPPED:
        answer = pattern.sub(by, answer)
    return answer


def check_math_verify() -> None:
    """Raise LinchainError where math-verify is not installed."""
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        raise LinchainError(
            "evaluation.extraction: 'math_verify' needs the package math-verify; install it with the extra `math`: "
            "pip install 'linchain[math]'"
        ) from error


def find_by_value(text: str) -> str | None:
    """What math-verify takes for the answer in `text`, as SymPy writes it; None where it finds nothing."""
    import math_verify

    found = math_verify.parse(text)
    return str(found[0]) if found else None


def equal(text: str, gold: str) -> bool:
    r"""Whether what math-verify takes for the answer in `text` has the value of `gold`: 2/4 is 1/2 is 0.5 is $\frac{1}{2}$."""
    import math_verify

    return math_verify.verify(math_verify.parse(f"${gold}$"), math_verify.parse(text))
