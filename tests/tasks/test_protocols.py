import pytest

from linchain.errors import LinchainError
from linchain.lab.plan import build_plan, run_values
from linchain.tasks import protocols
from linchain.training.load_config import build_config, dump_config, load_config, parse_yaml

RUN = {"model": "starter", "output": "run", "data": {"train": "task:commonsense170k", "test": "task:arc_easy"}}


def resolved(**values):
    return build_config({**RUN, **values})


def flat(config):
    return {
        f"{name}.{key}": value for name, part in config.items() if isinstance(part, dict) for key, value in part.items()
    }


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_a_protocol_sets_what_it_chooses_and_nothing_else(protocol):
    with_it = flat(resolved(protocol=protocol.name).model_dump(mode="json"))
    without = flat(resolved().model_dump(mode="json"))
    assert with_it == {**without, **protocol.choices}


def test_command_line_over_file_over_protocol_over_default(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "protocol: paper-linchain\nmodel: starter\ndata: {train: a.jsonl, max_length: 100}\n"
        "training: {epochs: 2, learning_rate: 1e-3}\n"
    )
    config = load_config(file, ["training.learning_rate=1e-2", "data.validation_size=7"])
    training = config.training
    assert (training.learning_rate, training.epochs, training.batch_size, training.logging_steps) == (1e-2, 2, 4, 10)
    assert (config.data.max_length, config.data.validation_size, config.model.dtype) == (100, 7, "float16")


def test_the_resolved_configuration_reads_back_equal():
    config = resolved(protocol="paper-bone", data={**RUN["data"], "limit": None})
    assert config.data.limit is None  # given, as nothing, and so not the protocol's
    assert build_config(parse_yaml(dump_config(config), "")) == config


def test_validation_data_take_the_place_of_the_protocols_held_back_records():
    assert (
        resolved(protocol="paper-linchain", data={**RUN["data"], "validation": "v.jsonl"}).data.validation_size is None
    )


def test_all_mistakes_are_shown_beside_an_unknown_protocol():
    with pytest.raises(LinchainError) as error:
        resolved(protocol="paper-linchian", training={"epochs": -1})
    assert "protocol: unknown protocol 'paper-linchian'; did you mean 'paper-linchain'?" in str(error.value)
    assert "training.epochs" in str(error.value)


def test_a_papers_protocol_is_refused_for_a_classifier():
    with pytest.raises(LinchainError, match="protocol paper-bone is for task causal_lm"):
        resolved(protocol="paper-bone", data={"train": "task:stsb"})


def test_a_plan_hands_its_protocol_to_its_runs():
    plan = build_plan(
        {
            **RUN,
            "protocol": "fair",
            "methods": ["lora"],
            "options": {"target_modules": "all-linear"},
            "learning_rates": [1e-3],
            "training": {"warmup_steps": 3},
        }
    )
    config = build_config(run_values(plan, plan.contestants[0], 1e-3, None, None, plan.output))
    assert (config.protocol, config.training.warmup_steps, config.evaluation.num_beams) == ("fair", 3, 1)
