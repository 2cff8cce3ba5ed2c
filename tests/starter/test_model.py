from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from linchain import starter
from linchain.evaluation.data import prepare
from linchain.evaluation.predict import predict
from linchain.evaluation.scores import score
from linchain.starter import pretrain
from linchain.starter.word_problems import EASY_KINDS, equations
from linchain.tasks.instruction import WITH_INPUT, WITHOUT_INPUT, InstructionFormat
from linchain.tasks.records import Record

SPECIAL = (pretrain.PAD, pretrain.BOS, pretrain.EOS)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(starter.model_dir())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(starter.model_dir()).eval()


def exact_match(model, tokenizer, kind, n=40):
    records = [Record(fields, fields["id"]) for fields in starter.problems(kind, "test", n, 1)]
    data = prepare(records, InstructionFormat(), tokenizer, "exact_match", 256)
    return score("exact_match", predict(model, tokenizer, data, batch_size=40, max_new_tokens=32))[0].value


def test_it_is_small_and_a_plain_llama():
    folder = starter.model_dir()
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] >= 512
    assert (folder / "model.safetensors").stat().st_size < 8_000_000
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert sum(file.get_tensor(key).numel() for key in file.keys()) <= 4_000_000  # noqa: SIM118  not a mapping


def test_the_script_would_make_a_model_of_these_shapes_and_this_tokenizer(model, tokenizer):
    texts = ["12 + 7 = 19."]
    made = pretrain.new_model(tokenizer)
    assert made.config.to_diff_dict() | {"architectures": None, "dtype": None} == (
        model.config.to_diff_dict() | {"architectures": None, "dtype": None}
    )
    assert pretrain.train_tokenizer(texts).chat_template == tokenizer.chat_template


def test_its_special_tokens_and_its_way_to_generate_agree(tokenizer):
    generation = GenerationConfig.from_pretrained(starter.model_dir())
    assert (generation.pad_token_id, generation.bos_token_id, generation.eos_token_id) == (
        tokenizer.pad_token_id,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
    )
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert not generation.do_sample


@given(text=st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: not any(s in text for s in SPECIAL)))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    tokens = tokenizer(text)["input_ids"]
    assert tokens[0] == tokenizer.bos_token_id
    assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_digits_and_the_prompts_fixed_lines_are_single_tokens(tokenizer):
    assert tokenizer.tokenize("12 + 345.") == ["1", "2", "Ġ+", "Ġ", "3", "4", "5", "."]
    for prompt in (WITHOUT_INPUT, WITH_INPUT):
        tokens = tokenizer.tokenize(prompt.format(instruction="", input=""))
        assert all(token in {*pretrain.FIXED_LINES, "Ċ"} for token in tokens)


def test_the_chat_template_writes_the_prompt_it_was_trained_on(tokenizer):
    question = [{"role": "user", "content": "How many?"}]
    chat = tokenizer.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
    assert chat == tokenizer(WITHOUT_INPUT.format(instruction="How many?"))["input_ids"]
    answered = tokenizer.apply_chat_template(
        [*question, {"role": "assistant", "content": "12."}], return_assistant_tokens_mask=True, return_dict=True
    )
    learned = [
        token for token, mask in zip(answered["input_ids"], answered["assistant_masks"], strict=True) if mask == 1
    ]
    assert learned == [*tokenizer("12.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    system = [{"role": "system", "content": "Be brief."}, *question]
    assert tokenizer.apply_chat_template(system, tokenize=False).startswith("<s>Be brief.\n\n### Instruction:\nHow")


# `compare` is the weak one: of its test wordings, those that ask "What is the difference?" are answered with a sum.
LEAST = {"add": 0.8, "subtract": 0.8, "total": 0.8, "compare": 0.2}


@pytest.mark.parametrize("kind", EASY_KINDS)
def test_it_solves_the_easy_kinds_as_well_as_its_card_says(model, tokenizer, kind):
    assert exact_match(model, tokenizer, kind) >= LEAST[kind]


def test_it_does_not_solve_the_kind_that_is_left_to_learn(model, tokenizer):
    assert exact_match(model, tokenizer, "two_step") <= 0.1


def test_it_takes_text_longer_than_any_problem(model, tokenizer):
    tokens = tokenizer("Ω and 🎉 " * 100, return_tensors="pt")["input_ids"]
    assert tokens.shape[1] > 512
    assert torch.isfinite(model(tokens).logits).all()


def test_pre_training_puts_the_loss_on_answers_only(tokenizer, monkeypatch):
    monkeypatch.setattr(pretrain, "EQUATIONS", 5)
    facts = pretrain.encode_equations(tokenizer)
    for line, fact in zip(equations(5, pretrain.SEED), facts, strict=True):
        learned = [label for label in fact.labels if label != pretrain.IGNORE]
        assert tokenizer.decode(fact.input_ids, skip_special_tokens=True) == line
        assert tokenizer.decode(learned) == line[line.index("=") + 1 :]


def test_pre_training_from_nothing_writes_a_loadable_model_and_its_card(tmp_path, monkeypatch):
    for name, value in {
        "EQUATION_STEPS": 2,
        "EQUATIONS_PER_STEP": 8,
        "STEPS": 2,
        "PROBLEMS_PER_STEP": 4,
        "EQUATIONS_BESIDE": 4,
        "PROBLEMS_PER_KIND": 50,
        "EQUATIONS": 200,
        "TEST_PROBLEMS": 2,
    }.items():
        monkeypatch.setattr(pretrain, name, value)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        for copy in ("first", "second"):
            pretrain.main(tmp_path / copy)
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    first, second = ((tmp_path / copy / "model.safetensors").read_bytes() for copy in ("first", "second"))
    assert first == second
    assert (tmp_path / "first/tokenizer.json").read_bytes() == (tmp_path / "second/tokenizer.json").read_bytes()
    AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    card = (tmp_path / "first/README.md").read_text()
    assert "| two_step | no | 0.0 % |" in card
    assert "Seed 0; 2 steps of 8 equations" in card
