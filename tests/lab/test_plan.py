"""What a plan refuses before anything is run, and what it makes of one YAML."""

import pytest
import yaml

from linchain.errors import LinchainError
from linchain.lab.compare import check_folder
from linchain.lab.plan import build_plan, load_plan, run_values
from linchain.lab.trials import MARK, Comparison
from linchain.training.load_config import build_config, load_config

PLAN = {
    "model": "starter",
    "methods": ["lora", "linchain"],
    "options": {"target_modules": ["q_proj", "v_proj"], "r": 8},
    "learning_rates": [1e-3, 1e-2],
    "data": {"train": "starter:two_step", "validation": "starter:two_step", "test": "starter:two_step"},
    "output": "runs/plan",
}


def plan(**changes):
    return build_plan({key: value for key, value in {**PLAN, **changes}.items() if value is not None})


def test_shared_options_reach_the_methods_that_have_them():
    found = plan(
        methods=[
            "lora",
            {"name": "linchain", "label": "2-8", "chain_widths": [4, 8, 4]},
            {"name": "bone-row", "r": 32},
            "full",
        ],
        options={"target_modules": ["q_proj"], "r": 8, "chain_length": 2},
    )
    options = {one.label: one.options for one in found.contestants}
    assert options == {
        "lora": {"target_modules": ["q_proj"], "r": 8},
        "2-8": {"target_modules": ["q_proj"], "chain_widths": [4, 8, 4]},
        "bone-row": {"target_modules": ["q_proj"], "r": 32},
        "full": {},
    }
    assert found.reference == "lora"


def test_a_number_of_seeds_is_that_many():
    assert plan(seeds=3).seeds == (1, 2, 3)
    assert plan(seeds=[7, 11]).seeds == (7, 11)


@pytest.mark.parametrize("vary", [("init",), ("data", "dropout"), ("init", "data", "dropout")])
def test_a_seed_moves_what_the_plan_varies(tmp_path, vary):
    found = plan(vary=list(vary), training={"seed": 5})
    values = run_values(found, found.contestants[0], 1e-3, 9, None, tmp_path)
    seeds = build_config(values).training.seeds
    assert seeds == {part: 9 if part in vary else 5 for part in ("init", "data", "dropout")}


def test_every_run_is_a_configuration_of_train():
    comparison = Comparison(plan(budgets=[10, 20], seeds=2))
    for trial in comparison.search_trials():
        config = build_config(dict(trial.values))
        assert config.training.max_steps == trial.budget
        assert config.training.learning_rate == trial.learning_rate
        assert config.data.test is None, "a search must not see test data"
        assert config.evaluation.score_validation
    choices = {(one.label, budget): 1e-3 for one in comparison.plan.contestants for budget in (10, 20)}
    finals = comparison.final_trials(choices)
    assert len(finals) == 8
    assert all(build_config(dict(trial.values)).data.test for trial in finals)
    assert (
        len({trial.folder for trial in (*comparison.search_trials(), *finals, *comparison.cost_trials(choices))}) == 22
    )


def test_the_plan_in_the_folder_is_the_plan(tmp_path):
    own_grid = {"name": "full", "learning_rates": [1e-5, 1e-4]}
    found = plan(output=str(tmp_path / "out"), methods=["lora", own_grid])
    comparison = Comparison(found)
    comparison.folder.mkdir(parents=True)
    comparison.plan_file.write_text(comparison.dump_plan())
    assert Comparison.load(comparison.folder).plan == found


def test_overrides_reach_the_plan(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({**PLAN, "output": None}))
    found = load_plan(file, ["seeds=5", "training.max_steps=7", "methods=[lora]", "output=elsewhere"])
    assert (len(found.seeds), found.run["training"]["max_steps"], len(found.contestants)) == (5, 7, 1)
    assert str(found.output) == "elsewhere"


REFUSED = {
    "same_file": ({"data": {"train": "a.jsonl", "validation": "b.jsonl", "test": "b.jsonl"}}, "test data would choose"),
    "own_grid": (
        {"methods": [{"name": "lora", "learning_rates": [1e-3, -1e-3]}]},
        "methods.lora.learning_rates must be",
    ),
    "not_a_rate": (
        {"methods": [{"name": "lora", "learning_rates": [1e-3, float("nan")]}]},
        "methods.lora.learning_rates must be",
    ),
    "no_rate": ({"learning_rates": [0, 1e-3]}, "learning_rates must be different positive numbers"),
    "large_seed": ({"seeds": [2**40]}, "seeds must be different numbers"),
    "two_budgets": ({"budgets": [5], "training": {"max_steps": 5}}, "a plan with budgets decides it"),
    "own_seed": ({"training": {"init_seed": 5}}, "training.init_seed: a plan that varies init decides it by seeds"),
    "seed_of_the_search": ({"seeds": [1, 42]}, "seeds: 42 is training.seed, that of the search"),
    "loss_and_accuracy": (
        {"data": {"train": "task:metamathqa", "validation": ["task:wikitext", "task:gsm8k"], "test": "task:gsm8k"}},
        "have no mean to choose a learning rate by (wikitext: loss, gsm8k: exact_match)",
    ),
    "unknown_method": ({"methods": ["lroa"]}, "methods.lroa: unknown method 'lroa'; did you mean 'lora'"),
    "unknown_key": ({"seedz": 3}, "seedz: unknown key; did you mean 'seeds'"),
    "unknown_option": (
        {"options": {"target_modules": ["q"], "lora_alhpa": 3}},
        "options.lora_alhpa: unknown option of these methods 'lora_alhpa'; did you mean 'lora_alpha'",
    ),
    "unknown_own_option": (
        {"methods": [{"name": "lora", "rr": 3}]},
        "methods.lora: unknown option of method 'lora' 'rr'",
    ),
    "no_targets": ({"options": {}}, "options.target_modules: a comparison has to name them (for lora, linchain)"),
    "twice": ({"methods": ["lora", {"name": "lora", "r": 4}]}, "'lora' stands there 2 times"),
    "reference": ({"reference": "linchian"}, "unknown contestant 'linchian'; did you mean 'linchain'"),
    "method": ({"method": "lora"}, "method: a plan compares several; name them under methods"),
    "rate": ({"training": {"learning_rate": 1e-3}}, "training.learning_rate: a plan searches it; give the rates"),
    "no_rates": ({"learning_rates": []}, "plan: learning_rates: must be a list such as [1e-3, 1e-2], found []"),
    "one_rate": ({"learning_rates": 1e-3}, "plan: learning_rates: must be a list such as [1e-3, 1e-2], found 0.001"),
    "word_for_seeds": (
        {"seeds": "two"},
        "plan: seeds: must be a list such as [1, 2, 3], or a number of seeds, found 'two'",
    ),
    "unknown_part": (
        {"vary": ["innit"]},
        "plan: vary[0]: must be 'init', 'data' or 'dropout', found 'innit'; did you mean 'init'?",
    ),
    "rank": (
        {"options": {"target_modules": ["q"], "rank": 3}},
        "plan: options.rank: unknown option of these methods 'rank'; did you mean 'r'?",
    ),
    "wrong_shared_option": (
        {"options": {"target_modules": ["q"], "r": 0}},
        "plan: options.r must be a positive integer, got 0",
    ),
    "number_for_a_method": ({"methods": ["lora", 3]}, "plan: methods[1]: must be a mapping of keys to values, found 3"),
    "no_methods": ({"methods": []}, "plan: methods: must be a list such as [lora, linchain], found []"),
    "baseline": ({"evaluation": {"baseline": True}}, "evaluation.baseline: a comparison never evaluates the untrained"),
    "same_rates": ({"learning_rates": [1e-3, 1e-3]}, "learning_rates must be different positive numbers"),
    "unequal_search": (
        {"methods": [{"name": "lora", "learning_rates": [1e-3]}]},
        "1 learning rates where the plan has 2",
    ),
    "no_seed": ({"seeds": 0}, "at least one seed"),
    "no_test": ({"data": {"train": "a.jsonl", "validation": "b.jsonl"}}, "data.test: a comparison needs test data"),
    "no_validation": ({"data": {"train": "a.jsonl", "test": "b.jsonl"}}, "no learning rate is chosen by test data"),
    "nearly_the_same_rates": ({"learning_rates": [1e-3, 1.0000001e-3]}, "must be different positive numbers"),
    "case": ({"methods": ["lora", {"name": "linchain", "label": "LoRA"}]}, "'lora' stands there 2 times"),
    "line_break": ({"methods": [{"name": "lora", "label": "a\nb"}]}, "cannot be the name of a folder"),
    "long_label": ({"methods": [{"name": "lora", "label": "é" * 101}]}, "is longer than 200 bytes"),
    "folder": ({"methods": [{"name": "lora", "label": "../up"}]}, "cannot be the name of a folder"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_reason(changes, message):
    with pytest.raises(LinchainError) as refused:
        plan(**changes)
    assert message in str(refused.value)


@pytest.mark.parametrize("text", ["", "- lora\n", "model: [\n"])
def test_a_file_that_holds_no_mapping_is_refused_where_a_comparison_is_loaded(tmp_path, text):
    (tmp_path / "plan.yaml").write_text(f"{MARK}\n{text}")
    with pytest.raises(LinchainError, match=r"plan\.yaml.*(expected a mapping|not valid YAML)"):
        Comparison.load(tmp_path)


def test_a_plan_that_a_user_wrote_is_no_comparison_and_stays(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(PLAN))
    (tmp_path / "runs").mkdir()
    with pytest.raises(LinchainError, match=r"holds no comparison: .*plan\.yaml was not written by linchain compare"):
        Comparison.load(tmp_path)
    with pytest.raises(LinchainError, match=r"plan\.yaml was not written by linchain compare .* would be overwritten"):
        check_folder(Comparison(plan(output=str(tmp_path))))
    assert yaml.safe_load(file.read_text()) == PLAN


def test_the_comparisons_below_a_folder_are_named(tmp_path):
    for name in ("one", "two"):
        comparison = Comparison(plan(output=str(tmp_path / "runs" / name)))
        comparison.folder.mkdir(parents=True)
        comparison.plan_file.write_text(comparison.dump_plan())
    for folder in (tmp_path, tmp_path / "runs"):
        with pytest.raises(LinchainError, match=r"is no comparison; it holds .*runs/one, .*runs/two: name one of them"):
            Comparison.load(folder)


def test_a_file_is_no_comparison_and_its_folder_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**PLAN, "output": str(tmp_path / "out")}))
    with pytest.raises(LinchainError, match=r"mine\.yaml is a file: give the folder .*/out, where there is none yet"):
        Comparison.load(file)
    comparison = Comparison(load_plan(file))
    comparison.folder.mkdir()
    comparison.plan_file.write_text(comparison.dump_plan())
    for one in (file, comparison.plan_file):
        with pytest.raises(LinchainError, match=r"is a file: give the folder of a comparison, here .*/out$"):
            Comparison.load(one)


def test_a_run_is_no_plan_and_a_plan_no_run(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: starter\nmethod: lora\ndata: {train: starter:add}\n")
    with pytest.raises(
        LinchainError, match=r"neither methods nor learning_rates; one run is: linchain train .*run\.yaml"
    ):
        load_plan(file)
    file.write_text(yaml.safe_dump(PLAN))
    with pytest.raises(LinchainError, match=r"is the plan of a comparison: linchain compare .*run\.yaml"):
        load_config(file)


def test_all_mistakes_at_once():
    with pytest.raises(LinchainError) as refused:
        plan(methods=["lroa", "linchain"], seeds=0, method="lora")
    assert len(str(refused.value).splitlines()) == 4
