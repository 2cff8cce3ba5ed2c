import pytest
import yaml

from linchain.errors import LinchainError
from linchain.training.config import RunConfig
from linchain.training.load_config import differences, dump_config, load_config

FILE = """
model: starter
method: {name: linchain, r: 8, chain_length: 2}
data: {train: starter:add}
training: {learning_rate: 1e-3}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text(FILE)
    return path


def test_another_method_keeps_the_options_that_both_have(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "model: starter\ndata: {train: a.jsonl}\nmethod: {name: linchain, r: 8, chain_length: 2, target_modules: all-linear}"
    )
    for override in ("method=lora", "method.name=lora"):
        method = load_config(file, [override]).method
        assert (method.name, method.options) == ("lora", {"r": 8, "target_modules": "all-linear"})


def test_override_beats_file_beats_default(file):
    config = load_config(file, ["training.learning_rate=3e-4", "method.r=4", "evaluation.limit=10"])
    assert config.training.learning_rate == 3e-4
    assert config.method.options == {"r": 4, "chain_length": 2}
    assert config.evaluation.limit == 10
    assert load_config(file).training.learning_rate == 1e-3
    assert config.training.weight_decay == 0.0
    assert config.output == "runs/short"


def test_override_of_a_section_replaces_it_and_a_later_one_adds_to_it(file):
    config = load_config(file, ["method=lora", "method.r=4"])
    assert (config.method.name, config.method.options) == ("lora", {"r": 4})


def test_override_below_a_section_given_by_its_name_keeps_the_name(file):
    config = load_config(file, ["model.dtype=bfloat16"])
    assert (config.model.name, config.model.dtype) == ("starter", "bfloat16")


def test_overrides_are_yaml(file):
    config = load_config(file, ["method.target_modules=[q_proj, v_proj]", "method.lora_dropout=5e-2", "data.limit="])
    assert config.method.options["target_modules"] == ["q_proj", "v_proj"]
    assert config.method.options["lora_dropout"] == 0.05
    assert config.data.limit is None


def test_resolved_configuration_reads_back_equal(file, tmp_path):
    config = load_config(file, ["method.lora_dropout=0.1", "data.columns={output: reply}"])
    resolved = tmp_path / "config.yaml"
    resolved.write_text(dump_config(config))
    assert load_config(resolved) == config
    assert set(yaml.safe_load(resolved.read_text())) == set(RunConfig.model_fields)


def test_all_mistakes_are_shown_together(file):
    with pytest.raises(LinchainError) as error:
        load_config(file, ["training.learning_rat=1", "method.r=0", "training.batch_size=many", "nonsense"])
    message = str(error.value)
    assert "4 mistakes" in message
    for part in ("did you mean 'learning_rate'", "r must be a positive integer", "training.batch_size", "'nonsense'"):
        assert part in message


def test_a_key_without_its_section_is_told_where_it_belongs(file):
    with pytest.raises(LinchainError, match=r"learning_rate: unknown key; did you mean 'training.learning_rate'"):
        load_config(file, ["learning_rate=1e-3"])


def test_duplicate_key_is_refused_with_its_line(file):
    file.write_text(FILE + "model: other\n")
    with pytest.raises(LinchainError, match=r"short.yaml:6: .*'model' is given twice"):
        load_config(file)


def test_differences_name_the_keys(file):
    assert differences(load_config(file), load_config(file, ["training.seed=1", "method.r=4", "output=moved"])) == [
        "method.r: 8 is now 4",
        "training.seed: 42 is now 1",
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.test=[a.jsonl, b.jsonl, a.jsonl]"],
            r"data.test names a.jsonl more than once: its records would count twice",
        ),
        (["data.validation=[task:mrpc, task:mrpc]"], r"data.validation names task:mrpc more than once"),
        (
            ["evaluation.metric=loss", "evaluation.scorer=loglikelihood"],
            r"evaluation.scorer loglikelihood chooses answers; evaluation.metric loss is taken without it",
        ),
    ],
)
def test_what_would_do_nothing_or_count_twice_is_refused(file, overrides, message):
    with pytest.raises(LinchainError, match=message):
        load_config(file, overrides)
