"""Makes the packaged model and its tokenizer from nothing: `python -m linchain.starter.pretrain OUT`.

Everything is drawn from `SEED`, on one thread: the same versions on the same kind of machine give the same weights.
Only training problems of the easy kinds and training facts are seen; the harder kinds are left for fine-tuning.
"""

from __future__ import annotations

import os
import platform
import random
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from linchain.evaluation.data import prepare
from linchain.evaluation.predict import predict
from linchain.evaluation.scores import Score, score
from linchain.starter.word_problems import EASY_KINDS, equations, kinds, problems
from linchain.tasks.encoding import IGNORE, Example, collate, encode_texts
from linchain.tasks.instruction import WITH_INPUT, WITHOUT_INPUT, InstructionFormat
from linchain.tasks.records import Record

SEED = 0
PROBLEMS_PER_KIND = 15_000
EQUATIONS = 40_000
# Arithmetic alone comes first: it is what takes longest to learn, and an equation costs a fifth of a problem's tokens.
EQUATION_STEPS, EQUATIONS_PER_STEP = 500, 192
STEPS, PROBLEMS_PER_STEP, EQUATIONS_BESIDE = 900, 32, 64
LEARNING_RATE = 3e-3
WARMUP = 100
TEST_PROBLEMS = 300
SIZE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4}
CONTEXT = 1024
VOCABULARY = 512
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
# The prompt's fixed lines are one token each: a tiny model has no capacity to spend on reading them.
FIXED_LINES = tuple(
    dict.fromkeys(
        line for prompt in (WITHOUT_INPUT, WITH_INPUT) for line in prompt.splitlines() if line and "{" not in line
    )
)
# One user message is the same text as a record with an instruction only; a system message replaces the first line.
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- if messages[0]['role'] != 'system' %}{{- '" + WITHOUT_INPUT.split("\n")[0] + "\\n\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'assistant' %}"
    "{{- '### Response:\\n' }}{% generation %}{{- message['content'] + eos_token }}{% endgeneration %}{{- '\\n\\n' }}"
    "{%- elif message['role'] == 'system' %}{{- message['content'] + '\\n\\n' }}"
    "{%- else %}{{- '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '### Response:\\n' }}{%- endif %}"
)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE on `texts`, each digit a token of its own; any text encodes and decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(FIXED_LINES),
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(line, normalized=False) for line in FIXED_LINES])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights from torch's generator, and greedy decoding as its way to generate."""
    ends: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        **SIZE,
        **ends,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(do_sample=False, **ends)
    return model


def records(kind: str, split: str, n: int) -> list[Record]:
    return [Record(fields, fields["id"]) for fields in problems(kind, split, n, SEED)]


def encode_equations(tokenizer: PreTrainedTokenizerFast) -> list[Example]:
    """Number facts, with the loss on their results."""
    examples = []
    for line in equations(EQUATIONS, SEED):
        question, result = line.split(" =")
        asked = tokenizer(f"{question} =")["input_ids"]
        told = tokenizer(result, add_special_tokens=False)["input_ids"]
        examples.append(Example(asked + told, [IGNORE] * len(asked) + told, line, cut=False))
    return examples


def without_end(examples: list[Example]) -> Iterator[Example]:
    """The examples again and again, each time in another order."""
    rng = random.Random(SEED)
    while True:
        yield from rng.sample(examples, len(examples))


def train(
    model: LlamaForCausalLM, word_problems: list[Example], facts: list[Example], pad: int, console: Console
) -> float:
    """Equations, then problems beside equations; returns the mean loss of the last 100 steps on the problems."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.1)
    steps = EQUATION_STEPS + STEPS
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / WARMUP, 1 - step / steps))
    problem, fact = without_end(word_problems), without_end(facts)
    losses: list[float] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    model.train()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("pre-training", total=steps)
        for step in range(steps):
            counts = [(fact, EQUATIONS_PER_STEP)]
            if step >= EQUATION_STEPS:
                counts = [(fact, EQUATIONS_BESIDE), (problem, PROBLEMS_PER_STEP)]
            for source, count in counts:
                loss = model(**collate([next(source) for _ in range(count)], pad)).loss
                loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            bar.update(task, advance=1, description=f"pre-training, loss {losses[-1]:.4f}")
    model.eval()
    recent = losses[-100:]
    return sum(recent) / len(recent)


def exact_match(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, kind: str) -> Score:
    """The share of test problems of `kind` that are answered right, with its interval."""
    data = prepare(records(kind, "test", TEST_PROBLEMS), InstructionFormat(), tokenizer, "exact_match", CONTEXT)
    return score("exact_match", predict(model, tokenizer, data, batch_size=100, max_new_tokens=40))[0]


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write the model, its tokenizer and README.md to.")],
) -> None:
    """Train the starter model from nothing and write it, with a record of how it was made."""
    console = Console()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    started = time.perf_counter()
    easy = [record for kind in EASY_KINDS for record in records(kind, "train", PROBLEMS_PER_KIND)]
    tokenizer = train_tokenizer([f"{record.fields['instruction']}\n{record.fields['output']}" for record in easy])
    model = new_model(tokenizer)
    loss = train(
        model,
        encode_texts(easy, InstructionFormat(), tokenizer, CONTEXT),
        encode_equations(tokenizer),
        tokenizer.pad_token_id,
        console,
    )
    seconds = time.perf_counter() - started
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    scores = {}
    for kind in kinds():
        scores[kind] = exact_match(model, tokenizer, kind)
        value, interval = scores[kind].shown()
        console.print(f"{kind}: {value} ({interval})")
    (out / "README.md").write_text(card(model, loss, seconds, scores), encoding="utf-8")


def card(model: LlamaForCausalLM, loss: float, seconds: float, scores: dict[str, Score]) -> str:
    """The model card: what the model is, how it was made, and what it can do."""
    rows = "\n".join(
        f"| {kind} | {'yes' if kind in EASY_KINDS else 'no'} | {' | '.join(found.shown())} | {found.n} |"
        for kind, found in scores.items()
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers"))
    config = model.config
    return f"""# LinChain's starter model

A Llama of {model.num_parameters():,} parameters ({config.num_hidden_layers} layers, hidden size {config.hidden_size}, \
{config.vocab_size} byte-level BPE tokens, digits one by one),
pre-trained from nothing on word problems that the project generates. It is there so that the first command and the tests
need no download. It was trained on the easy kinds of problem, has never seen the others, and knows nothing else.

| kind of problem | pre-trained on | exact match, test split | 95 % interval | problems |
|---|---|---|---|---|
{rows}

Test problems share no name, no number fact and no whole wording with the training problems; a test wording combines
sentences that do occur in training.

## How it was made

`python -m linchain.starter.pretrain OUT`, which writes this page too.

- Seed {SEED}; {EQUATION_STEPS} steps of {EQUATIONS_PER_STEP} equations, then {STEPS} steps of {PROBLEMS_PER_STEP} \
problems and {EQUATIONS_BESIDE} equations;
  AdamW, learning rate {LEARNING_RATE}, decayed linearly.
- Loss on the answer tokens, mean of the last 100 steps: {loss:.4f}.
- {seconds / 60:.1f} minutes on one thread of {_processor()} ({os.cpu_count()} cores, other work beside it).
- Python {platform.python_version()}, {packages}.
- All text is the project's own; Apache-2.0, as the project.
"""


def _processor() -> str:
    """The processor's name, without anything that tells one machine from another of its kind."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    typer.run(main)
