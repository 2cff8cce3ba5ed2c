"""Every shipped recipe is valid, has the numbers of its paper, and makes its first steps on a tiny model and tiny data."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from linchain import methods, tasks
from linchain.diagnostics import architectures
from linchain.diagnostics.parameters import parameter_counts
from linchain.lab.plan import load_plan
from linchain.lab.trials import Comparison
from linchain.tasks import protocols
from linchain.tasks.departures import departures
from linchain.tasks.published import ARITHMETIC, COMMONSENSE, GLUE, MATHEMATICS
from linchain.training.load_config import build_config, load_config
from linchain.training.run import train
from tests.conftest import shared_dir
from tests.recipes.stand_ins import MODELS, write_data, write_model

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
PLANS = sorted(RECIPES.glob("compare-*.yaml"))
RUNS = sorted(set(RECIPES.glob("*.yaml")) - set(PLANS))
COMMAND = re.compile(r"^#\s+(?:linchain|python recipes/with_fla\.py) (train|compare) recipes/(\S+)(.*)$", re.MULTILINE)


def contestants(path):
    """A plan's contestants by their labels, each with what it says of its own; nothing else of the plan is checked."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))["methods"]
    named = [{"name": one} if isinstance(one, str) else one for one in entries]
    return {one.get("label", one["name"]): one.keys() - {"name", "label"} for one in named}


def to_start(path):
    """The contestants of a plan that are trained here: of many, those that say something of their own, and the first."""
    found = contestants(path)
    return [label for index, (label, own) in enumerate(found.items()) if len(found) <= 5 or index == 0 or own]


def commands(path):
    """The commands in a recipe's comments: what they do, with which recipe and which overrides."""
    text = re.sub(r"\\\n#\s*", "", path.read_text(encoding="utf-8"))
    return [(verb, RECIPES / name, shlex.split(rest)) for verb, name, rest in COMMAND.findall(text)]


# The overrides that turn a paper's plan into a fair one, from its comments.
FAIR = {path: overrides for path in PLANS for _, _, overrides in commands(path) if "protocol=fair" in overrides}


def final_trials(plan):
    """Final runs of the plan at each contestant's first learning rate."""
    comparison = Comparison(plan)
    return comparison.final_trials({(one.label, None): one.learning_rates[0] for one in plan.contestants})


@pytest.mark.parametrize("recipe", RUNS, ids=lambda path: path.stem)
def test_a_run_is_valid(recipe):
    config = load_config(recipe)
    assert config.output == f"runs/{recipe.stem}"
    assert config.data.train


@pytest.mark.parametrize("recipe", PLANS, ids=lambda path: path.stem)
def test_every_run_of_a_plan_is_valid(recipe):
    plan = load_plan(recipe)
    assert str(plan.output) == f"runs/{recipe.stem}"
    trials = (*Comparison(plan).search_trials(), *final_trials(plan))
    assert {trial.contestant for trial in trials} == set(contestants(recipe))
    for trial in trials:
        assert build_config(dict(trial.values)).training.learning_rate == trial.learning_rate


@pytest.mark.parametrize("recipe", [path for path in (*RUNS, *PLANS) if commands(path)], ids=lambda path: path.stem)
def test_commands_in_comments_are_valid(recipe):
    for verb, path, overrides in commands(recipe):
        found = load_config(path, overrides) if verb == "train" else load_plan(path, overrides)
        assert path == recipe
        if "protocol=fair" in overrides:
            _assert_fair(found, load_plan(path))


def _assert_fair(found, paper):
    """Searched on several seeds, by the protocol's own choices; budget, lengths and contestants are the paper's."""
    assert found.searches
    assert len(found.seeds) >= 3
    for key, value in protocols.FAIR.choices.items():
        section, name = key.split(".")
        assert found.run[section][name] == value, key
    for key in ("epochs", "batch_size", "gradient_accumulation_steps", "gradient_checkpointing"):
        assert found.run["training"][key] == paper.run["training"][key], key
    for key in ("max_length", "limit"):
        assert found.run["data"][key] == paper.run["data"][key], key
    assert [one.options for one in found.contestants] == [one.options for one in paper.contestants]


def test_every_plan_by_a_papers_protocol_has_a_fair_version():
    assert set(FAIR) == {path for path in PLANS if str(load_plan(path).run["protocol"]).startswith("paper")}


@pytest.mark.parametrize("task", sorted(GLUE.values))
def test_glue_plan_takes_every_task_of_the_papers_table(task):
    own_split = "validation" in tasks.get(task).splits
    validation = [f"data.validation=task:{task}", "data.validation_size="] if own_split else []
    plan = load_plan(
        RECIPES / "compare-glue-roberta.yaml", [f"data.train=task:{task}", f"data.test=task:{task}", *validation]
    )
    assert plan.searches
    assert plan.run["evaluation"]["metric"] == "auto"


@pytest.mark.parametrize(
    ("name", "protocol", "paper"),
    [
        ("commonsense-llama3-8b", "paper-linchain", COMMONSENSE),
        ("math-llama3-8b", "paper-linchain", ARITHMETIC),
        ("metamath-llama2-7b", "paper-bone", MATHEMATICS),
    ],
)
def test_plans_are_the_papers_as_far_as_can_be(name, protocol, paper):
    plan = load_plan(RECIPES / f"compare-{name}.yaml")
    for trial in final_trials(plan):
        assert departures(trial.values, protocol) == list(protocols.get(protocol).paper.always)
    assert not plan.searches
    tested = {source.removeprefix("task:") for source in plan.run["data"]["test"]}
    assert tested == set(paper.values) - {"mean"}


@pytest.mark.parametrize(
    ("name", "paper", "methods_there"),
    [
        ("commonsense-llama3-8b", COMMONSENSE, ["LoRA", "MoSLoRA", "LinChain-3-16", "LinChain-2-8"]),
        ("math-llama3-8b", ARITHMETIC, ["LoRA", "MoSLoRA", "LinChain-3-16", "LinChain-2-8"]),
        ("glue-roberta", GLUE, ["LoRA", "LinChain-3-16"]),
        ("metamath-llama2-7b", MATHEMATICS, ["LoRA", "Bone"]),
    ],
)
def test_contestants_have_the_papers_options_and_no_others(name, paper, methods_there):
    plan = load_plan(RECIPES / f"compare-{name}.yaml")
    options = [(one.method, {**one.options, "target_modules": None}) for one in plan.contestants]
    for method in methods_there:
        name, known = paper.methods[method]
        assert (name, {**known, "target_modules": None}) in options


def test_plans_have_the_numbers_of_the_papers_code():
    """Those that no protocol says, as FACTS has them."""
    for name in ("commonsense", "math"):
        plan = load_plan(RECIPES / f"compare-{name}-llama3-8b.yaml")
        found = {one.label: one.options for one in plan.contestants}
        assert [(one["r"], one["lora_alpha"]) for one in found.values() if "r" in one] == [(16, 32)] * 3
        assert found["linchain-3-16"]["chain_length"] == 3
        assert (found["linchain-2-8"]["chain_widths"], found["linchain-2-8"]["lora_alpha"]) == ([8, 16, 8], 16)
        assert {one["lora_dropout"] for one in found.values()} == {0.05}
        assert {tuple(one["target_modules"]) for one in found.values()} == {
            ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
        }
        assert plan.run["data"]["limit"] is None
        assert plan.run["evaluation"]["max_new_tokens"] is None  # the tasks' own, 32 and 256
    assert {tasks.get(name).max_new_tokens for name in COMMONSENSE.values if name != "mean"} == {32}
    assert {tasks.get(name).max_new_tokens for name in ARITHMETIC.values if name != "mean"} == {256}
    plan = load_plan(RECIPES / "compare-metamath-llama2-7b.yaml")
    assert {len(set(one.options["target_modules"])) for one in plan.contestants} == {7}
    assert not any("lora_dropout" in one.options for one in plan.contestants)


@pytest.mark.parametrize("name", ["commonsense-llama3-8b", "metamath-llama2-7b"])
def test_runs_are_the_papers_as_far_as_can_be(name):
    config = load_config(RECIPES / f"{name}.yaml")
    always = protocols.get(config.protocol).paper.always
    assert departures(config.model_dump(mode="json"), config.protocol) == list(always)


def test_the_protocols_numbers_are_those_of_the_papers_code():
    linchain = load_plan(RECIPES / "compare-commonsense-llama3-8b.yaml")
    training, data = linchain.run["training"], linchain.run["data"]
    assert training["batch_size"] * training["gradient_accumulation_steps"] == 16
    assert (training["epochs"], training["warmup_steps"], training["precision"]) == (3, 100, "float16")
    assert (data["max_length"], data["validation_size"], data["train_on_prompt"]) == (256, 120, True)
    assert linchain.run["evaluation"]["num_beams"] == 4
    bone = load_plan(RECIPES / "compare-metamath-llama2-7b.yaml")
    training, data = bone.run["training"], bone.run["data"]
    assert training["batch_size"] * training["gradient_accumulation_steps"] == 64
    assert (training["epochs"], training["lr_scheduler"], training["gradient_checkpointing"]) == (1, "cosine", True)
    assert (training["warmup_steps"], training["weight_decay"], training["max_grad_norm"]) == (0, 0, 1)
    assert (data["limit"], data["max_length"], data["train_on_prompt"]) == (395_000, 512, False)
    assert {rate for one in linchain.contestants for rate in one.learning_rates} == {3e-4}
    assert {rate for one in bone.contestants for rate in one.learning_rates} == {2e-5}


@pytest.mark.parametrize(
    ("name", "architecture", "label", "parameters"),
    [
        ("commonsense-llama3-8b", "llama-3-8b", "lora", 28_311_552),
        ("commonsense-llama3-8b", "llama-3-8b", "moslora", 28_352_512),
        ("commonsense-llama3-8b", "llama-3-8b", "linchain-3-16", 28_434_432),
        ("commonsense-llama3-8b", "llama-3-8b", "linchain-2-8", 14_196_736),
        ("metamath-llama2-7b", "llama-2-7b", "bone-col", 87_031_808),
        ("metamath-llama2-7b", "llama-2-7b", "lora", 89_948_160),
    ],
)
def test_contestants_have_the_papers_parameters(name, architecture, label, parameters):
    contestant = load_plan(RECIPES / f"compare-{name}.yaml").contestant(label)
    base = architectures.build(architectures.load_config(architecture))
    model = methods.get(contestant.method).adapt(base, contestant.options, task_type="CAUSAL_LM")
    assert parameter_counts(model)[0] == parameters


def test_bones_rivals_have_one_rank():
    plan = load_plan(RECIPES / "compare-metamath-llama2-7b.yaml")
    rivals = {one.label: one.options for one in plan.contestants if one.label != "bone-col"}
    assert set(rivals) == {"pissa", "olora", "lora-ga", "lora"}
    assert len({(one["r"], one["lora_alpha"]) for one in rivals.values()}) == 1


def test_math_has_commonsenses_contestants():
    commonsense, math = (load_plan(RECIPES / f"compare-{name}-llama3-8b.yaml") for name in ("commonsense", "math"))
    assert math.contestants == commonsense.contestants


@pytest.fixture(scope="session")
def stand_in(tiny_model, tmp_path_factory):
    """The folder of a tiny model in the place of the one that a recipe names."""
    folders = {}

    def folder(name):
        if name not in folders:
            made = tmp_path_factory.mktemp("stand_in")
            write_model(name, tiny_model, made)
            folders[name] = made
        return folders[name]

    return folder


FIRST_STEPS = [
    *(pytest.param(path, None, id=path.stem) for path in RUNS),
    *(pytest.param(path, label, id=f"{path.stem}-{label}") for path in PLANS for label in to_start(path)),
]


def small(load, recipe, stand_in, folder, overrides=()):
    """What `load` makes of the recipe with a tiny model, tiny data and two steps in the place of its own."""
    written = load(recipe, overrides)
    sections = written.run if load is load_plan else written.model_dump(mode="json")
    model, data, training = (sections[section] for section in ("model", "data", "training"))
    changes = [
        *write_data(data, folder / "data"),
        *("training.max_steps=2", "training.save_steps=2", "training.eval_steps=2", "data.limit=8"),
        *("evaluation.limit=2", "evaluation.max_new_tokens=2", f"output={folder / 'run'}"),
    ]
    if model["name"] in MODELS:
        changes.append(f"model.name={stand_in(model['name'])}")
    if data["validation_size"]:
        changes.append("data.validation_size=2")
    if training["precision"] == "float16":  # which needs a GPU
        changes += ["training.precision=float32", "model.dtype=float32"]
    return load(recipe, [*overrides, *changes])


@pytest.mark.parametrize(("recipe", "label"), FIRST_STEPS)
def test_recipe_makes_its_first_steps(recipe, label, stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)  # paths in recipes start at the repository's root
    found = small(load_config if label is None else load_plan, recipe, stand_in, tmp_path)
    if label is not None:
        found = build_config(dict(next(one for one in final_trials(found) if one.contestant == label).values))
    result = train(found)
    assert result["steps"] == 2
    tested = {source.removeprefix("task:") for source in found.data.test or () if source.startswith("task:")}
    assert {score["task"] for score in result["scores"].get("after", [])} - {None, "mean"} == tested


@pytest.mark.parametrize("recipe", list(FAIR), ids=lambda path: path.stem)
def test_fair_version_searches_without_test_data(recipe, stand_in, tmp_path):
    trial = Comparison(small(load_plan, recipe, stand_in, tmp_path, FAIR[recipe])).search_trials()[0]
    result = train(build_config(dict(trial.values)))
    assert result["steps"] == 2
    assert set(result["scores"]) == {"validation"}


@pytest.mark.parametrize("name", ["instruction", "wikitext-stories260k"])
def test_recipe_makes_its_first_steps_on_its_own_data(name, tmp_path, monkeypatch):
    shared_dir()
    monkeypatch.chdir(ROOT)
    overrides = ["training.max_steps=2", "evaluation.limit=4", "data.validation_size=", f"output={tmp_path / 'run'}"]
    assert train(load_config(RECIPES / f"{name}.yaml", overrides))["steps"] == 2
