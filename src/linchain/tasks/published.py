"""The figures that the papers print, as data: what ours are shown beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One table of a paper: scores in percent, one run each.

    Attributes:
        source: paper and table.
        arxiv: the paper's number on arXiv.
        protocol: the name of its protocol in `linchain.tasks.protocols`.
        model: as the paper names it.
        values: by task of ours, then by method as the paper names it.
        methods: the names by which our catalogue knows these methods, with the options that make them the paper's.
        remarks: what a reader of the table has to know; by task, or under "" for all.
    """

    source: str
    arxiv: str
    protocol: str
    model: str
    values: Mapping[str, Mapping[str, float]]
    methods: Mapping[str, tuple[str, Mapping[str, object]]]
    remarks: Mapping[str, str]


@dataclass(frozen=True)
class Cost:
    """What training took: GB of memory, as the paper has it, hours an epoch, millions of trainable parameters."""

    memory: float
    hours: float
    parameters: float


def _one_run(smallest: str, largest: str) -> str:
    """What every table has to say; the standard error is sqrt(2 p (1 - p) / n) for a score of p on n examples."""
    return (
        "One run each, without a seed or an interval. The standard error of a difference of two such figures, by the number of "
        f"test examples alone and with independent errors, is {smallest} to {largest} points."
    )


def _rows(methods: tuple[str, ...], rows: Mapping[str, tuple[float, ...]]) -> dict[str, dict[str, float]]:
    return {task: dict(zip(methods, values, strict=True)) for task, values in rows.items()}


LINCHAIN = "2411.00039"
BONE = "2409.15371"
# rank from the tables' captions; alpha, twice the rank, and dropout from the code
RANK = {"r": 16, "lora_alpha": 32}
DROPOUT = {"lora_dropout": 0.05}
LINCHAIN_METHODS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "LoRA": ("lora", {**RANK, **DROPOUT}),
    "MoSLoRA": ("moslora", {**RANK, **DROPOUT}),
    "LinChain-3-16": ("linchain", {**RANK, **DROPOUT, "chain_length": 3}),
    "LinChain-2-8": ("linchain", {"chain_widths": [8, 16, 8], "lora_alpha": 16, **DROPOUT}),
}

COMMONSENSE = Published(
    "LinChain, Table 1",
    LINCHAIN,
    "paper-linchain",
    "LLaMA-3-8B-Instruct",
    _rows(
        ("LoRA", "MoSLoRA", "LinChain-3-16", "LinChain-2-8"),
        {
            "arc_challenge": (74.7, 79.0, 80.5, 81.6),
            "arc_easy": (86.0, 89.5, 90.4, 90.0),
            "openbookqa": (84.6, 83.6, 86.4, 85.0),
            "piqa": (87.3, 86.2, 88.0, 85.5),
            "social_i_qa": (78.5, 77.0, 80.2, 78.8),
            "winogrande": (84.8, 84.1, 85.6, 84.8),
            "hellaswag": (92.7, 93.0, 93.0, 93.9),
            "mean": (84.1, 84.6, 86.3, 85.7),
        },
    ),
    LINCHAIN_METHODS,
    {"": _one_run("0.4 (HellaSwag)", "2.3 (OBQA)")},
)

ARITHMETIC = Published(
    "LinChain, Table 2",
    LINCHAIN,
    "paper-linchain",
    "LLaMA-3-8B-Instruct",
    _rows(
        ("LoRA", "MoSLoRA", "LinChain-3-16"),
        {
            "aqua": (28.0, 29.9, 30.7),
            "gsm8k": (72.6, 73.0, 73.2),
            "svamp": (78.1, 80.2, 81.8),
            "addsub": (89.9, 92.2, 92.9),
            "multiarith": (97.7, 98.5, 99.0),
            "mean": (73.3, 74.8, 75.5),
        },
    ),
    LINCHAIN_METHODS,
    {"": _one_run("0.7 (MultiArith)", "4.0 (AQuA)")},
)

GLUE = Published(
    "LinChain, Table 3",
    LINCHAIN,
    "paper-linchain",
    "RoBERTa-base",
    _rows(
        ("LoRA", "LinChain-3-16"),
        {
            "cola": (59.7, 61.7),
            "mrpc": (88.7, 88.5),
            "rte": (75.3, 78.0),
            "stsb": (90.3, 90.8),
            "qnli": (92.6, 92.8),
            "sst2": (93.9, 94.2),
        },
    ),
    {"LoRA": ("lora", RANK), "LinChain-3-16": ("linchain", {**RANK, "chain_length": 3})},
    {
        "": f"{_one_run('0.5 (QNLI)', '3.6 (RTE, 277 examples)')} The paper's text names RoBERTa-base, its code runs "
        "DeBERTa-v3-base with rank 8."
    },
)

MATHEMATICS = Published(
    "Bone v3, LLaMA2-7B",
    BONE,
    "paper-bone",
    "LLaMA-2-7B",
    _rows(
        ("LoRA", "OLoRA", "PiSSA", "Bone"),
        {"gsm8k": (38.97, 41.93, 43.52, 49.36), "math": (0.44, 6.48, 6.92, 8.88)},
    ),
    {
        "LoRA": ("lora", {"r": 36, "lora_alpha": 36}),  # alpha is the rank in the code's script
        "OLoRA": ("olora", {}),
        "PiSSA": ("pissa", {}),
        "Bone": ("bone-col", {"r": 64}),
    },
    {
        "": f"{_one_run('0.5 (MATH)', '1.9 (GSM8K)')} One learning rate (2e-5) for all methods, at which LoRA is under-tuned.",
        "math": "LoRA's 0.44 is a broken run by its look.",
    },
)

TABLES = (COMMONSENSE, ARITHMETIC, GLUE, MATHEMATICS)

# How many test examples each GLUE task has by the text of LinChain's paper.
GLUE_TEST_SIZES = {"cola": 1043, "sst2": 1800, "mrpc": 1700, "stsb": 1400, "mnli": 9800, "rte": 3000}

# LinChain, Table 4. It names neither model nor data; the parameters are those of LLaMA-3-8B-Instruct in Table 1.
COSTS = {
    "LoRA": Cost(24.49, 2.83, 28.31),
    "MoSLoRA": Cost(24.49, 2.97, 28.35),
    "LinChain-3-16": Cost(24.50, 3.13, 28.43),
}
