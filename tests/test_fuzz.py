"""The harnesses of fuzz/ under hypothesis: whatever the bytes, an input is accepted or refused by LinchainError."""

from __future__ import annotations

from fuzz import adapter, config, data, model
from fuzz.choices import Choices
from hypothesis import given, settings
from hypothesis import strategies as st

BYTES = st.binary(max_size=120)


@settings(max_examples=400)
@given(BYTES)
def test_any_configuration(choices: bytes) -> None:
    config.check(choices)


@settings(max_examples=400)
@given(BYTES)
def test_any_data(choices: bytes) -> None:
    data.check(choices)


@settings(max_examples=200)
@given(BYTES)
def test_any_adapter(choices: bytes) -> None:
    adapter.check(choices)


@settings(max_examples=100)
@given(BYTES)
def test_any_model(choices: bytes) -> None:
    model.check(choices)


def test_no_bytes_are_the_plainest_case() -> None:
    """Every harness starts from something that is accepted, so that what is refused is refused for what was changed."""
    config.build_config(config.RUN)
    config.build_plan(config.PLAN)
    for kind, (values, shapes) in enumerate(adapter.ADAPTERS):
        adapter._write(Choices(b""), dict(values), shapes)
        files = adapter.read_adapter(adapter.FOLDER)
        if kind != 3:  # a fork's goes another way
            adapter._use(files, on_base=True)
    for use, names in model.USES:
        model._write(Choices(b""), names)
        use()
