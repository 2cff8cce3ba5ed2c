import pytest

from linchain.errors import LinchainError
from linchain.lab.plan import build_plan, run_values
from linchain.tasks import protocols, published
from linchain.tasks.departures import departures
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


def as_in_the_paper(protocol, model, **values):
    method = {"name": "linchain", "lora_dropout": 0.05}
    return resolved(protocol=protocol, model=model, method=method, **values).model_dump(mode="json")


def test_the_papers_own_run_departs_in_nothing():
    config = as_in_the_paper("paper-linchain", "meta-llama/Meta-Llama-3-8B-Instruct")
    assert departures(config, "paper-linchain", tested={"arc_easy": 2376}) == []


def test_departures_in_words():
    config = resolved(
        protocol="fair", training={"max_steps": 400, "batch_size": 16}, evaluation={"max_new_tokens": 8}
    ).model_dump(mode="json")
    assert departures(config, "paper-linchain", tested={"arc_easy": 200, "starter_add": 5}) == [
        "LLaMA-3-8B-Instruct in the paper, starter here",
        "dropout 0.05 in the paper, dropout 0 here",
        "3 epochs in the paper, 400 steps here",
        "the loss on prompt and answer in the paper, the loss on the answer alone here",
        "examples cut to 256 tokens in the paper, examples cut at the model's context here",
        "a warm-up of 100 steps in the paper, a warm-up of 5 % of the steps here",
        "float16 steps in the paper, float32 steps here",
        "the checkpoint of the lowest validation loss in the paper, the last checkpoint here",
        "4 beams in the paper, greedy decoding here",
        "answers read by its code's rules in the paper, answers read by our rules here",
        "answers of up to 32 tokens in the paper, up to 8 here",
        "2,376 test problems of ARC-e in the paper, 200 here",
    ]


def test_a_search_departs_from_one_rate_for_all_whatever_that_was():
    config = as_in_the_paper(
        "paper-bone", "meta-llama/Llama-2-7b-hf", data={"train": "task:metamathqa", "test": "task:math"}
    )
    del config["method"]  # a comparison's runs share no method
    assert departures(config, "paper-bone", searched=True, tested={"math": 500}) == [
        "learning rate 2e-05 for all methods in the paper, each method's own, searched for, here",
        "5,000 test problems of MATH in the paper, 500 here",
    ]


def test_departures_of_a_classifier_say_what_the_paper_leaves_open():
    config = resolved(data={"train": "task:cola", "test": "task:cola"}).model_dump(mode="json")
    found = departures(config, "paper-linchain")
    assert found[0] == "RoBERTa-base in the paper, starter here"
    assert any("states no learning rate" in one for one in found)


def test_nothing_departs_from_a_protocol_that_is_no_papers():
    with pytest.raises(LinchainError, match="protocol fair is no paper's"):
        departures(resolved().model_dump(mode="json"), "fair")


def test_published_means_are_the_means_of_the_published_scores():
    for table in published.TABLES:
        means = table.values.get("mean", {})
        for method, mean in means.items():
            scores = [row[method] for task, row in table.values.items() if task != "mean"]
            assert sum(scores) / len(scores) == pytest.approx(mean, abs=0.06), (table.source, method)


def test_published_tables_name_tasks_methods_and_protocols_that_there_are():
    from linchain import methods, tasks

    for table in published.TABLES:
        assert set(table.values) - {"mean"} <= set(tasks.names())
        assert protocols.get(table.protocol).paper is not None
        for row in table.values.values():
            for method in row:
                name, options = table.methods[method]
                methods.get(name).peft_config(options)
    assert [table.source for table in published.published("gsm8k")] == ["LinChain, Table 2", "Bone v3, LLaMA2-7B"]
