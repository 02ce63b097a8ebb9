"""The text that the LLM reads: where it begins, what is between its segments, and where items are cut."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from laser.config.schema import DataConfig, PromptConfig
from laser.data.dataset import Dataset
from laser.data.examples import Examples
from laser.data.prompts import PromptFiles, Prompts
from laser.llm.loading import load_tokenizer
from laser.sources.prepare import prepare_dataset

ITEMS = "item,title,brand\na,Apple </s>,Acme\nb,Bread of the very long title,\n"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "interactions.csv").write_text("user,item,timestamp\nu,a,1\nu,b,2\nv,b,1\nv,a,2\n")
    (folder / "items.csv").write_text(ITEMS)
    return prepare_dataset(DataConfig(path=str(folder)), folder / "cache")


@pytest.fixture
def tokenizer(tiny_llm: Path, tmp_path: Path) -> PreTrainedTokenizerFast:
    """One that puts BOS before a text and EOS after it, and cuts on the left."""
    tokenizer = load_tokenizer(tiny_llm)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair=None,
        special_tokens=[("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)],
    )
    tokenizer.truncation_side = "left"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    return load_tokenizer(tmp_path / "tokenizer")


def ids(dataset: Dataset, *names: str) -> np.ndarray:
    return np.array([dataset.items.column("raw_id").to_pylist().index(name) for name in names], dtype=np.int32)


def test_a_prompt_is_its_words_after_one_bos(dataset, tokenizer, tmp_path):
    prompts = Prompts.build(dataset, PromptConfig(instruction="Sum up", max_history_items=3), tokenizer, tmp_path)
    tokens = prompts.tokens(ids(dataset, "a", "b"))
    assert tokens[0] == tokenizer.bos_token_id
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & {*tokens[1:].tolist()}
    words = "Sum up\n>> 1. Apple </s> (brand: Acme)\n>> 2. Bread of the very long title\n"
    assert tokenizer.decode(tokens[1:]) == words
    history = Examples(ids(dataset, "a", "b"), *map(np.array, ([0], [0], [2], [0])))
    assert prompts.lengths(history).tolist() == [len(tokens)]


def test_bos_stays_on_both_sides_without_an_instruction(dataset, tokenizer, tmp_path):
    made = PromptFiles.make(dataset, PromptConfig(instruction=""), tokenizer, tmp_path)
    of_users, of_items = made.open(), made.with_instruction("Sum up", tokenizer).open()
    history = ids(dataset, "b")
    bos = tokenizer.bos_token_id
    for prompts, words in ((of_users, ""), (of_items, "Sum up\n")):
        tokens = prompts.tokens(history)
        assert tokens[0] == bos and tokenizer.decode(tokens[1:]) == f"{words}>> 1. Bread of the very long title\n"
    assert made.with_instruction("", tokenizer).instruction == made.instruction == (bos,)


@pytest.mark.parametrize("most", [1, 2, 7])
def test_a_long_title_keeps_its_start(most, dataset, tokenizer, tmp_path):
    prompts = Prompts.build(dataset, PromptConfig(attributes=(), max_item_tokens=most), tokenizer, tmp_path)
    [item] = ids(dataset, "b")
    whole = tokenizer(" Bread of the very long title", add_special_tokens=False)["input_ids"]
    [newline] = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert prompts.item(item).tolist() == [*whole[: most - 1], newline]


def test_the_default_prompt_is_the_same_to_the_token(smollm2, dataset, tmp_path):
    tokenizer = load_tokenizer(smollm2)
    tokens = Prompts.build(dataset, PromptConfig(max_history_items=2), tokenizer, tmp_path).tokens(ids(dataset, "b"))
    expected = f"{PromptConfig().instruction}\n>> 1. Bread of the very long title\n"
    assert tokens.tolist() == tokenizer(expected)["input_ids"] == STORED


STORED = [
    2683,
    359,
    354,
    11173,
    338,
    10066,
    2190,
    260,
    4616,
    282,
    253,
    2914,
    618,
    253,
    2244,
    9624,
    28,
    1552,
    335,
    260,
    21240,
    1463,
    282,
    260,
    2914,
    30,
    198,
    7791,
    216,
    33,
    30,
    32329,
    282,
    260,
    1035,
    986,
    5038,
    198,
]
"""The tokens of SmolLM2 before prompts stood apart from the tokenizer's settings."""


def test_many_prompts_at_once_are_those_of_each(dataset, tokenizer, tmp_path):
    for settings in ({"instruction": "Sum up"}, {"item_attention": "own", "instruction": ""}):
        prompts = Prompts.build(dataset, PromptConfig(max_history_items=3, **settings), tokenizer, tmp_path)
        histories = [ids(dataset, *names) for names in ("a", "ba", "aab", "b")]
        packed = prompts.packed(np.concatenate(histories), np.array(list(map(len, histories))))
        assert packed.dtype == np.int32
        assert packed.tolist() == np.concatenate([prompts.tokens(history) for history in histories]).tolist()
