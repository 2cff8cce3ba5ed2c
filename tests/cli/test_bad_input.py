"""What users get wrong: each is answered by name, in a few lines, with status 2, before any training.

The commands run in this process; training is forbidden for the whole module.
"""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from linchain.cli.app import main

# of a checkpoint in the middle of a run
STATE = json.dumps({"global_step": 40, "max_steps": 100})
GOOD = {"instruction": "What is 2 plus 3?", "output": "5", "answer": "5"}
PAIR = {"sentence1": "one", "sentence2": "two"}
# stands for the tiny model's folder in arguments and expected messages
MODEL = "MODEL"


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def message(*turns):
    return {"messages": [{"role": role, "content": "text"} for role in turns]}


FILES = {
    "run.yaml": f"model: {MODEL}\nmethod: {{name: lora, r: 4}}\ndata: {{train: good.jsonl}}\ntraining: {{max_steps: 2}}\n",
    "no_model.yaml": "data: {train: good.jsonl}\n",
    "broken.yaml": "model: x\ndata: {train: [\n",
    "list.yaml": "- model\n- data\n",
    "twice.yaml": "model: a\ndata: {train: b}\nmodel: c\n",
    "good.jsonl": lines(*[GOOD] * 4),
    "malformed.jsonl": lines(GOOD, GOOD) + '{"instruction": "cut\n',
    "malformed.json": '[\n{"text": "a"},\n{"text" "b"}\n]',
    "object.json": '{"text": "a"}',
    "numbers.jsonl": "1\n2\n",
    "ragged.csv": "text,source\none,a\ntwo\n",
    "quotes.csv": 'text\n"one" two\n',
    "latin1.csv": b"text\ncaf\xe9\n",
    "damaged.parquet": "PAR1 and nothing else",
    "empty.jsonl": "",
    "story.txt": "Once upon a time\n",
    "chat.jsonl": lines(message("user", "assistant")),
    "turns.jsonl": lines({"messages": "Hello"}),
    "no_assistant.jsonl": lines(message("user")),
    "questions.jsonl": lines({"question": "2 + 3?", "reply": "5"}),
    "later.jsonl": lines(GOOD, {"instruction": "What?"}),
    "null.jsonl": lines(GOOD, {"instruction": None, "output": "5"}),
    "silent.jsonl": lines(GOOD, {"instruction": "What?", "output": " "}),
    "long.jsonl": lines(GOOD, {**GOOD, "instruction": "What? " * 60}),
    "one_class.jsonl": lines({**PAIR, "label": "yes"}, {**PAIR, "label": "yes"}),
    "classes.jsonl": lines({**PAIR, "label": "yes"}, {**PAIR, "label": "no"}),
    "other_class.jsonl": lines({**PAIR, "label": "maybe"}),
    "list_label.jsonl": lines({**PAIR, "label": [1]}),
    "foreign/thesis.tex": "",
    "finished/config.yaml": "model: x\n",
    "finished/result.json": "{}",
    "interrupted/config.yaml": "model: x\n",
    "interrupted/checkpoints/checkpoint-40/trainer_state.json": STATE,
    "interrupted/checkpoints/checkpoint-40/hashes.json": json.dumps(
        {"trainer_state.json": sha256(STATE.encode()).hexdigest()}
    ),
    "no_adapter/config.yaml": "model: x\ndata: {}\noutput: no_adapter\n",
    "search/config.yaml": "model: x\ndata: {}\noutput: search\n",
    "search/result.json": "{}",
    "empty_model/notes.txt": "",
    "predictions/taken.jsonl": "",
}

TRAIN = [
    # the configuration file
    ("missing_config", ["nowhere.yaml"], ["configuration file nowhere.yaml cannot be read: No such file"]),
    ("yaml_syntax", ["broken.yaml"], ["broken.yaml:3: not valid YAML"]),
    ("yaml_not_a_mapping", ["list.yaml"], ["list.yaml: expected a mapping of keys to values, found list"]),
    ("yaml_duplicate_key", ["twice.yaml"], ["twice.yaml:3: not valid YAML (the key 'model' is given twice)"]),
    ("required_key_missing", ["no_model.yaml"], ["no_model.yaml: model: required, but not given"]),
    # keys and values
    ("unknown_key", ["training.learning_rat=1"], ["training.learning_rat: unknown key; did you mean 'learning_rate'?"]),
    ("unknown_section", ["trainig.seed=1"], ["trainig: unknown key; did you mean 'training'?"]),
    ("override_syntax", ["training.seed"], ["override 'training.seed': expected key=value"]),
    ("override_yaml", ["method.target_modules=[a"], ["override 'method.target_modules=[a'", "not valid YAML"]),
    ("override_below_a_value", ["output.name=x"], ["must be a valid string"]),
    ("override_below_a_number", ["training.seed=1", "training.seed.x=1"], ["seed is not a section; it is 1"]),
    ("wrong_type", ["training.batch_size=many"], ["training.batch_size: must be a valid integer", "found 'many'"]),
    ("infinite", ["training.learning_rate=.inf"], ["training.learning_rate: must be a finite number, found inf"]),
    ("out_of_range", ["training.learning_rate=-1"], ["training.learning_rate: must be greater than 0, found -1"]),
    ("unknown_dtype", ["model.dtype=float8"], ["model.dtype: must be", "'bfloat16'", "found 'float8'"]),
    ("unknown_format", ["data.format=message"], ["data.format: must be", "did you mean 'messages'?"]),
    ("unknown_metric", ["evaluation.metric=exact"], ["evaluation.metric: must be", "did you mean 'exact_match'?"]),
    ("metric_of_another_task", ["evaluation.metric=accuracy"], ["metric accuracy does not go with task causal_lm"]),
    ("two_validations", ["data.validation=good.jsonl", "data.validation_size=1"], ["not both"]),
    ("best_without_validation", ["training.keep_best=true"], ["training.keep_best needs data.validation"]),
    (
        "several_mistakes",
        ["training.sed=1", "method.r=0", "data.limit=-1"],
        ["3 mistakes", "training.sed", "r must be a positive integer", "data.limit"],
    ),
    # the method
    ("unknown_method", ["method=linchian"], ["unknown method 'linchian'; did you mean 'linchain'?"]),
    ("unknown_option", ["method.lora_alhpa=8"], ["lora_alhpa", "did you mean 'lora_alpha'?"]),
    ("option_of_another_method", ["method.chain_length=2"], ["chain_length", "method 'lora'"]),
    ("rank_zero", ["method.r=0"], ["method: r must be a positive integer, got 0"]),
    ("rank_negative", ["method.r=-8"], ["method: r must be a positive integer, got -8"]),
    ("rank_not_a_number", ["method.r=big"], ["method: r must be a positive integer, got 'big'"]),
    ("dropout_too_large", ["method.lora_dropout=1.5"], ["lora_dropout must be at least 0 and less than 1, got 1.5"]),
    (
        "widths_do_not_fit",
        ["method={name: linchain, r: 4, chain_widths: [8, 16, 8]}"],
        ["r=4 does not fit chain_widths=[8, 16, 8]"],
    ),
    ("widths_not_a_list", ["method={name: linchain, chain_widths: 8}"], ["chain_widths must be a list"]),
    ("chain_length_negative", ["method={name: linchain, chain_length: -1}"], ["chain_length must be", "-1"]),
    ("wrong_target", ["method.target_modules=[q_porj]"], ["no module 'q_porj'; did you mean 'q_proj'?", "up_proj"]),
    ("target_no_pattern", ["method.target_modules='*_proj'"], ["target_modules must be a list", "got '*_proj'"]),
    ("exclude_no_pattern", ["method.exclude_modules='*'"], ["exclude_modules must be a list of", "got '*'"]),
    ("target_a_number", ["method.target_modules=5"], ["target_modules must be a list of module names", "got 5"]),
    ("target_list_with_number", ["method.target_modules=[1, q_proj]"], ["target_modules must be", "got [1, 'q_proj']"]),
    ("bias_unknown", ["method.bias=yes"], ["bias must be one of none, all, lora_only, got"]),
    ("rank_pattern_a_list", ["method.rank_pattern=[q_proj]"], ["rank_pattern must be a mapping", "got ['q_proj']"]),
    ("rank_pattern_text", ["method.rank_pattern={q_proj: '8'}"], ["rank_pattern must be", "got {'q_proj': '8'}"]),
    ("alpha_pattern_text", ["method.alpha_pattern=x"], ["alpha_pattern must be a mapping of modules", "got 'x'"]),
    ("alpha_not_a_number", ["method.alpha_pattern={q_proj: big}"], ["alpha_pattern must be", "got {'q_proj': 'big'}"]),
    ("layers_text", ["method.layers_to_transform='0'"], ["layers_to_transform must be the number of", "got '0'"]),
    ("tokens_text", ["method.trainable_token_indices='5'"], ["trainable_token_indices must be a list", "got '5'"]),
    (
        "several_options",
        ["method.modules_to_save=lm_head", "method.bias=some"],
        ["modules_to_save must be a list of module names such as [lm_head], got 'lm_head'", "bias must be one of"],
    ),
    # data
    ("missing_file", ["data.train=nowhere.jsonl"], ["data file nowhere.jsonl does not exist"]),
    ("unknown_suffix", ["data.train=story.txt"], ["unknown file format '.txt'; accepted: .json, .jsonl, .csv"]),
    ("folder_as_data", ["data.train=foreign"], ["foreign is a folder; name one or several files"]),
    ("no_data", ["data.train=null"], ["data.train: required, but not given"]),
    ("malformed_jsonl", ["data.train=malformed.jsonl"], ["malformed.jsonl:3: not valid JSON"]),
    ("malformed_json", ["data.train=malformed.json"], ["malformed.json:3: not valid JSON"]),
    ("json_without_list", ["data.train=object.json"], ["object.json: expected a list of records, found dict"]),
    ("record_without_names", ["data.train=numbers.jsonl"], ["numbers.jsonl:1: expected an object", "found int"]),
    ("ragged_csv", ["data.train=ragged.csv"], ["ragged.csv:3: 1 fields where the header has 2"]),
    ("malformed_csv", ["data.train=quotes.csv"], ["quotes.csv:2: not valid CSV"]),
    ("csv_not_utf8", ["data.train=latin1.csv"], ["latin1.csv: not valid UTF-8"]),
    ("damaged_parquet", ["data.train=damaged.parquet"], ["damaged.parquet: not a valid Parquet file"]),
    ("empty_data", ["data.train=empty.jsonl"], ["empty.jsonl: no records"]),
    ("empty_test_data", ["data.test=empty.jsonl"], ["empty.jsonl: no records"]),
    ("no_format_fits", ["data.train=questions.jsonl"], ["no data format fits the columns question, reply"]),
    (
        "missing_column",
        ["data.train=questions.jsonl", "data.format=instruction"],
        ["questions.jsonl:1: format 'instruction' needs the column 'instruction'; the columns are: question, reply"],
    ),
    ("column_missing_later", ["data.train=later.jsonl"], ["later.jsonl:2", "needs the column 'output'"]),
    ("null_value", ["data.train=null.jsonl"], ["null.jsonl:2: column 'instruction' must be text, found null"]),
    ("nothing_to_learn", ["data.train=silent.jsonl"], ["silent.jsonl:2: column 'output' is empty"]),
    (
        "mapped_column_missing",
        ["data.columns={output: solution}"],
        ["good.jsonl:1: data.columns.output names the column 'solution', which is not there"],
    ),
    (
        "unknown_mapped_column",
        ["data.columns={instrucion: a}"],
        ["data.columns: unknown column 'instrucion'; did you mean 'instruction'?"],
    ),
    (
        "all_masked",
        ["data.train=long.jsonl", "data.max_length=200"],
        ["data.max_length 200 (the prompt fills it) in 1 of 2 examples: long.jsonl:2."],
    ),
    ("beyond_the_context", ["data.max_length=1000"], ["data.max_length: 1000 exceeds the model's context of 512"]),
    ("no_room_to_answer", ["data.test=good.jsonl", "evaluation.max_new_tokens=500"], ["evaluation.max_new_tokens 500"]),
    ("validation_too_large", ["data.validation_size=4"], ["data.validation_size: 4 leaves none of the 4"]),
    ("no_chat_template", ["data.train=chat.jsonl"], ["need a chat template", "model.chat_template"]),
    ("no_messages", ["data.train=turns.jsonl"], ["turns.jsonl:1: column 'messages' must be a list"]),
    ("no_assistant", ["data.train=no_assistant.jsonl"], ["no_assistant.jsonl:1: no message has the role 'assistant'"]),
    ("chat_template_missing", ["model.chat_template=no.jinja"], ["model.chat_template no.jinja cannot be read"]),
    ("unknown_starter_kind", ["data.train=starter:ad"], ["unknown kind of problem 'ad'; did you mean 'add'?"]),
    ("format_of_another_task", ["task=sequence_classification"], ["format 'instruction' is for task causal_lm"]),
    (
        "one_class",
        ["task=sequence_classification", "data.train=one_class.jsonl"],
        ["all training labels are 'yes'; a classifier needs at least two classes"],
    ),
    (
        "class_not_trained_for",
        ["task=sequence_classification", "data.train=classes.jsonl", "data.test=other_class.jsonl"],
        ["other_class.jsonl:1: label 'maybe' is none of the classes: no, yes"],
    ),
    (
        "label_of_wrong_type",
        ["task=sequence_classification", "data.train=list_label.jsonl"],
        ["list_label.jsonl:1: column 'label' must be a whole number, a number or a class name, found [1]"],
    ),
    # the model
    ("missing_model", ["model=./modle"], ["model folder ./modle does not exist; did you mean model?"]),
    ("adapter_as_model", ["model=adapter"], ["model 'adapter' is an adapter, not a model"]),
    ("file_as_model", ["model=good.jsonl"], ["model 'good.jsonl' is a file"]),
    ("unknown_hub_model", ["model=nobody/nothing"], ["model 'nobody/nothing' cannot be loaded"]),
    ("unknown_hub_data", ["data.train=nobody/nothing"], ["data 'nobody/nothing' is neither a file nor a dataset"]),
    ("model_without_config", ["model=./empty_model"], ["model './empty_model' cannot be loaded"]),
    ("pickled_weights", ["model=./pickled"], ["model './pickled' cannot be loaded", "safetensors"]),
    ("damaged_weights", ["model=./damaged"], ["model './damaged' cannot be loaded"]),
    # the output folder
    ("finished_run", ["output=finished"], ["output folder finished holds a finished run", "--overwrite"]),
    (
        "interrupted_run",
        ["output=interrupted"],
        ["output folder interrupted holds an interrupted run (step 40 of 100); continue it with --resume"],
    ),
    ("foreign_folder", ["output=foreign"], ["foreign is not empty and holds no run; choose another one"]),
    ("foreign_folder_overwrite", ["output=foreign", "--overwrite"], ["foreign is not empty and holds no run"]),
    ("no_permission", ["output=/proc/linchain"], ["output folder /proc/linchain: no permission to write in /proc"]),
    ("output_below_a_file", ["output=good.jsonl/run"], ["cannot be created", "good.jsonl is a file"]),
    ("resume_and_overwrite", ["--resume", "--overwrite"], ["give one of them"]),
    ("resume_nothing", ["--resume", "output=new"], ["--resume: there is no run in new"]),
    ("resume_finished", ["--resume", "output=finished"], ["--resume: the run in finished is complete"]),
    (
        "resume_with_another_configuration",
        ["--resume", "output=started", "training.seed=7"],
        ["--resume: the configuration differs", "training.seed: 42 is now 7"],
    ),
    ("resume_with_other_data", ["--resume", "output=started"], ["--resume: the data changed since the run in started"]),
]

EVALUATE = [
    ("no_data", [MODEL], ["--data: required"]),
    ("missing_data", [MODEL, "--data", "nowhere.csv"], ["data file nowhere.csv does not exist"]),
    ("missing_target", ["./nowhere", "--data", "good.jsonl"], ["model folder ./nowhere does not exist"]),
    ("metric_does_not_fit", [MODEL, "--data", "good.jsonl", "--metric", "pearson"], ["pearson does not go with task"]),
    (
        "run_of_a_search",
        ["search"],
        ["the run in search is done and keeps no weights: of a comparison, only the final"],
    ),
    ("run_without_adapter", ["no_adapter"], ["the run in no_adapter has no adapter yet (no checkpoint yet)"]),
    ("base_for_a_model", [MODEL, "--model", "x", "--data", "good.jsonl"], ["--model x", "no adapter and no run"]),
    (
        "adapter_for_another_width",
        ["adapter", "--model", "./wide", "--data", "good.jsonl"],
        ["adapter adapter was made for another model", "has shape (4, 32), the base model needs (4, 48)"],
    ),
    (
        "adapter_for_other_modules",
        ["adapter", "--model", "./gpt2", "--data", "good.jsonl"],
        ["adapter adapter was made for another model", "Target modules", "not found"],
    ),
    (
        "adapter_without_chains",
        ["no_chains", "--data", "good.jsonl"],
        ["no_chains: the configuration promises a chain of 3 matrices, but no tensor holds one"],
    ),
    (
        "adapter_with_more",
        ["more_tensors", "--data", "good.jsonl"],
        ["it has base_model.model.model.layers.0.self_attn.q_proj.lora_mixer", "1 tensors left over"],
    ),
    (
        "damaged_adapter",
        ["damaged_adapter", "--data", "good.jsonl"],
        ["damaged_adapter/adapter_model.safetensors is corrupt or cut short"],
    ),
    (
        "predictions_taken",
        [MODEL, "--data", "good.jsonl", "--output", "predictions/taken.jsonl"],
        ["predictions file predictions/taken.jsonl exists", "--overwrite"],
    ),
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, tiny_model):
    """A folder with every bad file, model, adapter and run that the cases name."""
    folder = tmp_path_factory.mktemp("bad_input")
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.replace(MODEL, str(tiny_model)).encode())
    _make_models(folder, tiny_model)
    _start_a_run(folder, tiny_model)
    return folder


def _make_models(folder: Path, tiny_model: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

    from linchain import LinChainConfig

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = model.config
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"])).save_pretrained(folder / "adapter")
    for name in ("model", "pickled", "damaged", "wide", "gpt2"):
        shutil.copytree(tiny_model, folder / name)
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    _cut(folder / "damaged" / "model.safetensors")
    config.hidden_size = 48
    LlamaForCausalLM(config).save_pretrained(folder / "wide")
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": config.vocab_size}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder / "gpt2")
    chained = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(chained, LinChainConfig(r=4, target_modules=["q_proj"])).save_pretrained(folder / "no_chains")
    shutil.copytree(folder / "no_chains", folder / "more_tensors")
    _edit_adapter(folder / "no_chains", lambda tensors: {k: t for k, t in tensors.items() if "chain" not in k})
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_mixer.weight"
    _edit_adapter(folder / "more_tensors", lambda tensors: tensors | {key: next(iter(tensors.values())).clone()})
    shutil.copytree(folder / "adapter", folder / "damaged_adapter")
    _cut(folder / "damaged_adapter" / "adapter_model.safetensors")


def _edit_adapter(folder: Path, edit: Callable[[dict], dict]) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    save_file(edit(load_file(path)), path, {"format": "pt"})


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _start_a_run(folder: Path, tiny_model: Path) -> None:
    """A run interrupted in its first steps, whose data have changed since."""
    from linchain.files import write_json, write_text
    from linchain.training.environment import hash_model
    from linchain.training.load_config import dump_config, load_config
    from linchain.training.run_folder import RunFolder

    run = RunFolder(folder / "started")
    write_text(run.config, dump_config(load_config(folder / "run.yaml", ["output=started"])))
    write_json(run.environment, {"model": hash_model(tiny_model), "data": {"train": {"records": 4, "sha256": "other"}}})


@pytest.fixture
def refuse(workspace, tiny_model, monkeypatch, capsys):
    """Runs a command that must be refused; returns its message on one line."""
    import transformers

    monkeypatch.chdir(workspace)
    monkeypatch.setattr(transformers.Trainer, "train", lambda *_, **__: pytest.fail("training has started"))
    before = sorted(workspace.rglob("*"))

    def run(*arguments):
        monkeypatch.setattr(
            "sys.argv", ["linchain", *(argument.replace(MODEL, str(tiny_model)) for argument in arguments)]
        )
        with pytest.raises(SystemExit) as exit:
            main()
        error = capsys.readouterr().err
        assert exit.value.code == 2
        assert error.startswith("error: ")
        assert "Traceback" not in error
        assert [path for path in sorted(workspace.rglob("*")) if path not in before and path.name != ".lock"] == []
        return " ".join(error.split())

    return run


@pytest.mark.parametrize(("arguments", "expected"), [case[1:] for case in TRAIN], ids=[case[0] for case in TRAIN])
def test_train_refuses(refuse, arguments, expected):
    own_file = arguments[0].endswith(".yaml")
    answer = refuse("train", *([] if own_file else ["run.yaml"]), *arguments)
    for part in expected:
        assert part in answer


@pytest.mark.parametrize(("arguments", "expected"), [case[1:] for case in EVALUATE], ids=[case[0] for case in EVALUATE])
def test_evaluate_refuses(refuse, arguments, expected):
    answer = refuse("evaluate", *arguments)
    for part in expected:
        assert part in answer


def test_float16_without_a_gpu_is_refused(refuse):
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    assert "training.precision: 'float16' needs a GPU" in refuse("train", "run.yaml", "training.precision=float16")
    of_protocol = refuse("train", "run.yaml", "protocol=paper-linchain", "data.validation_size=1")
    assert "training.precision: 'float16', the value of protocol paper-linchain, needs a GPU" in of_protocol
