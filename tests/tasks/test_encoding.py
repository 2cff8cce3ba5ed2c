import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertTokenizer

from linchain.errors import LinchainError
from linchain.tasks.encoding import IGNORE, Example, collate, encode_sentences, encode_texts, prompt_tokens
from linchain.tasks.formats import get_format
from linchain.tasks.instruction import InstructionFormat
from linchain.tasks.overlap import question
from linchain.tasks.records import Record
from linchain.tasks.sentence_pair import Labels, find_labels

PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd 2 and 3.\n\n### Response:\n"
)
PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
    "that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n2 and 3\n\n### Response:\n"
)
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def records(*rows):
    return [Record(fields, f"data.jsonl:{number}") for number, fields in enumerate(rows, 1)]


def learned_text(tokenizer, example):
    return tokenizer.decode([label for label in example.labels if label != IGNORE])


def encode(tokenizer, rows, max_length=400, train_on_prompt=False, task="causal_lm"):
    rows = records(*rows)
    return encode_texts(rows, get_format("auto", rows, task), tokenizer, max_length, train_on_prompt)


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({"instruction": "Add 2 and 3.", "output": "5"}, PROMPT),
        ({"instruction": "Add 2 and 3.", "input": "", "output": "5"}, PROMPT),
        ({"instruction": "Add.", "input": "2 and 3", "output": "5"}, PROMPT_WITH_INPUT),
    ],
)
def test_instruction_prompt_and_mask(tokenizer, fields, prompt):
    (example,) = encode(tokenizer, [fields])
    assert tokenizer.decode(example.input_ids) == f"<s>{prompt}5</s>"
    assert learned_text(tokenizer, example) == "5</s>"
    (question,) = prompt_tokens(tokenizer, [InstructionFormat().question(Record(fields, ""), tokenizer)[0]])
    assert example.input_ids[: len(question)] == question
    assert example.labels[: len(question)] == [IGNORE] * len(question)


def test_train_on_prompt_learns_every_token(tokenizer):
    (example,) = encode(tokenizer, [{"instruction": "Add 2 and 3.", "output": "5"}], train_on_prompt=True)
    assert example.labels == example.input_ids


def test_a_token_across_the_boundary_is_learned(tokenizer):
    # the prompt's last newlines and an answer that begins with them may merge into one token
    (example,) = encode(tokenizer, [{"instruction": "Add 2 and 3.", "output": "\n### Instruction:"}])
    assert learned_text(tokenizer, example).endswith("### Instruction:</s>")
    assert tokenizer.decode(example.input_ids) == f"<s>{PROMPT}\n### Instruction:</s>"


def test_text_learns_all_tokens_and_is_cut(tokenizer):
    whole, cut = (encode(tokenizer, [{"text": "a long story"}], max_length)[0] for max_length in (400, 5))
    assert whole.labels == whole.input_ids
    assert tokenizer.decode(whole.input_ids) == "<s>a long story</s>"
    assert not whole.cut
    assert cut.cut
    assert cut.input_ids == whole.input_ids[:5]


def test_a_prompt_and_its_completion_are_taken_as_they_are(tokenizer):
    (example,) = encode(tokenizer, [{"prompt": "Two and three are", "completion": " 5"}])
    assert tokenizer.decode(example.input_ids) == "<s>Two and three are 5</s>"
    assert learned_text(tokenizer, example) == " 5</s>"
    with pytest.raises(LinchainError, match="'prompt' must be text, found list"):
        encode(tokenizer, [{"prompt": [{"role": "user", "content": "Hi"}], "completion": "5"}])


def test_sharegpts_conversations_are_messages(tokenizer):
    tokenizer.chat_template = CHATML
    turns = [("human", "Hi"), ("gpt", "Hello"), ("human", "Bye"), ("gpt", "See you")]
    shared = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    roles = {"human": "user", "gpt": "assistant"}
    messages = {"messages": [{"role": roles[who], "content": text} for who, text in turns]}
    assert encode(tokenizer, [shared])[0].input_ids == encode(tokenizer, [messages])[0].input_ids
    assert question(Record(shared, "")) == "Hi\nBye"
    with pytest.raises(LinchainError, match="'from', one of system, human, user, gpt, assistant"):
        encode(tokenizer, [{"conversations": [{"from": "tool", "value": "x"}]}])
    tokenizer.chat_template = None


def test_messages_learn_the_assistants_turns(tokenizer):
    tokenizer.chat_template = CHATML
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "See you")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    (example,) = encode(tokenizer, [row])
    tokenizer.chat_template = None
    text = "<|user|>Hi\n<|assistant|>Hello\n<|user|>Bye\n<|assistant|>See you\n"
    assert tokenizer.decode(example.input_ids) == text
    assert learned_text(tokenizer, example) == "Hello\nSee you\n"


def test_what_a_template_adds_after_the_end_of_text_is_not_learned(tokenizer):
    tokenizer.chat_template = CHATML.replace("\n{% endfor %}", "</s>\n\n{% endfor %}")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (example,) = encode(tokenizer, [{"messages": messages}])
    tokenizer.chat_template = None
    assert tokenizer.decode(example.input_ids) == "<|user|>Hi</s>\n\n<|assistant|>Hello</s>\n\n"
    assert learned_text(tokenizer, example) == "Hello</s>"


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    tokenizer.chat_template = "{{ messages | length }}" + CHATML
    turns = [("user", "Hi"), ("assistant", "Hello")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    with pytest.raises(LinchainError, match=r"data.jsonl:1: the chat template rewrites earlier turns"):
        encode(tokenizer, [row])
    tokenizer.chat_template = None


def test_nothing_to_learn_is_refused_with_its_lines(tokenizer):
    rows = [{"instruction": "a" * length, "output": "5"} for length in (5, 300, 5, 300)]
    with pytest.raises(LinchainError, match=r"max_length 300 .* 2 of 4 examples: data.jsonl:2, data.jsonl:4\."):
        encode(tokenizer, rows, max_length=300)


def test_labels_are_found_by_their_kind():
    def labels(*values):
        return find_labels([Record({"label": value}, "") for value in values]).names

    assert labels(0, 2, 1) == ("0", "1", "2")
    assert labels("1", "0") == ("0", "1")
    assert labels("no", "yes") == ("no", "yes")
    assert labels(2.5, 3) is None
    assert labels("2.5", "3") is None
    assert labels(*range(11)) == tuple(str(index) for index in range(11))


def test_sentence_pairs(tokenizer):
    rows = records(
        {"sentence1": "one", "sentence2": None, "label": 1}, {"sentence1": "a", "sentence2": "b", "label": 0}
    )
    single, pair = encode_sentences(rows, Labels(("0", "1")), tokenizer, 100)
    assert tokenizer.decode(single.input_ids) == "<s>one"
    assert tokenizer.decode(pair.input_ids) == "<s>ab"
    assert [single.labels, pair.labels] == [1, 0]


def test_a_bert_sees_which_sentence_a_token_is_of():
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])}
    bert = BertTokenizer(vocab=words)
    rows = records(
        {"sentence1": "a b", "sentence2": "b", "label": 1},
        {"sentence1": "a", "sentence2": None, "label": 0},
        {"sentence1": "a a a a", "sentence2": "b b", "label": 0},
    )
    pair, single, cut = encode_sentences(rows, Labels(("0", "1")), bert, 6)
    assert (pair.segments, single.segments, cut.segments) == ([0, 0, 0, 0, 1, 1], None, [0, 0, 0, 0, 1, 1])
    batch = collate([pair, single], bert.pad_token_id)
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6]
    config = BertConfig(vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = BertForSequenceClassification(config).eval()
    expected = model(**bert("a b", "b", return_tensors="pt")).logits
    assert torch.equal(model(**collate([pair], bert.pad_token_id)).logits, expected)
    assert "token_type_ids" not in collate([single], bert.pad_token_id)


def test_collate_pads_on_the_right():
    batch = collate([Example([5, 6, 7], [IGNORE, 6, 7], "", False), Example([5], [5], "", False)], pad_token_id=1)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORE, 6, 7], [5, IGNORE, IGNORE]]
    assert collate([Example([5], 2, "", False)], 1)["labels"].dtype == torch.int64
    assert collate([Example([5], 2.5, "", False)], 1)["labels"].dtype == torch.float32
