"""What environment.json says of a model from the Hub, with a cache made by hand: no network is touched."""

import shutil

import pytest

from linchain.training.environment import describe_environment


@pytest.fixture
def publish(tmp_path, tiny_model, monkeypatch):
    """Puts the tiny model into the cache as `someone/tiny` at a commit, with its weights' last byte changed if asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(commit, last_byte=None):
        repository = tmp_path / "models--someone--tiny"
        shutil.copytree(tiny_model, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        if last_byte is not None:
            weights = repository / "snapshots" / commit / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1] + last_byte)

    return put


def test_a_hub_model_is_recorded_by_its_commit_and_its_content(publish, tiny_model):
    publish("a" * 40)
    first = describe_environment("someone/tiny", {})
    assert first["model_commit"] == "a" * 40
    assert first["model"] == describe_environment(str(tiny_model), {})["model"]
    publish("b" * 40, last_byte=b"\xff")
    second = describe_environment("someone/tiny", {})
    assert second["model_commit"] == "b" * 40
    assert second["model"]["config.json"] == first["model"]["config.json"]
    assert second["model"]["model.safetensors"] != first["model"]["model.safetensors"]


def test_a_local_model_has_no_commit(tiny_model):
    environment = describe_environment(str(tiny_model), {})
    assert environment["model_commit"] is None
    assert set(environment["model"]) == {"config.json", "model.safetensors"}
