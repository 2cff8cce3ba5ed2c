"""One environment of many runs, and what is refused or told where they differ."""

import pytest

from linchain.errors import LinchainError
from linchain.lab.environment import gather


def made_with(threads=1, torch="2.13.0", weights="1", test=None, **more):
    data = {"train": {"records": 9, "sha256": "2"}} | ({"test": {"records": 4, "sha256": test}} if test else {})
    return {
        "versions": {"torch": torch, "peft": "0.21.2"},
        "platform": "Linux",
        "devices": ["cpu"],
        "threads": threads,
        "commit": None,
        "model": {"model.safetensors": weights},
        "model_commit": None,
        "data": data,
        "overlap": [],
        **more,
    }


def test_it_has_the_data_of_every_stage_and_what_was_found_in_them():
    found = [{"test": "gsm8k", "n": 4, "same": 1, "near": 0}]
    final = made_with(test="3", overlap=found, validation_overlap=found)
    gathered = gather({"search": made_with(), "final": final, "cost": made_with()})
    assert set(gathered["data"]) == {"train", "test"}
    assert gathered["overlap"] == gathered["validation_overlap"] == found
    assert gathered["differing"] == {}
    assert gather({}) == {}


def test_what_was_not_the_same_for_all_is_told():
    gathered = gather({"a": made_with(), "b": made_with(threads=2), "c": made_with(torch="2.14.0"), "d": made_with()})
    assert gathered["differing"] == {"threads": [1, 2], "versions.torch": ["2.13.0", "2.14.0"]}


def test_the_start_of_one_adapter_is_not_that_of_all():
    assert "start" not in gather({"pissa": made_with(start="4")})


@pytest.mark.parametrize(("change", "what"), [({"weights": "9"}, "model files"), ({"test": "9"}, "test data")])
def test_other_data_or_another_model_are_refused_with_both_names(change, what):
    runs = {"search": made_with(), "seed-1": made_with(test="3"), "seed-2": made_with(**{"test": "3", **change})}
    first = "search" if what == "model files" else "seed-1"
    with pytest.raises(LinchainError, match=f"seed-2 reads other {what} than {first}"):
        gather(runs)
