"""Text becomes the same tokens whatever a tokenizer was saved with, and no title steers the LLM."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from laser.data.plain_text import PlainText
from laser.llm.loading import load_tokenizer

TEXTS = [
    " Title (brand: a)",
    ">> 1.",
    "\n",
    "",
    " two  spaces ",
    "\tTab\r\n",
    " naïve ☃ 北京",
    " a longer title of some words",
]
CONTROLS = ["</s>", "<s>", "<unk>", "<think>", "<|im_end|>", "[SEP]"]


def byte_level(tiny_llm: Path) -> PreTrainedTokenizerFast:
    """The tiny LLM's tokenizer, with the tokens that chat models have."""
    tokenizer = load_tokenizer(tiny_llm)
    tokenizer.add_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "<|im_end|>", "[SEP]")])
    tokenizer.add_tokens([AddedToken("<think>"), AddedToken("Acme"), AddedToken("  ")])
    return tokenizer


def sentence_piece(model: type) -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2 has it, whose own vocabulary holds the control tokens, by merges or by scores."""
    letters = sorted({*"▁Titlebrandcmoewsphgf(:)></<|_km.1[SEP]u", *"AZ"})
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        "<think>",
        "<|im_end|>",
        "[SEP]",
        "<0x0A>",
        *letters,
        "▁T",
        "th",
        "</",
        "s>",
        "[S",
    ]
    if model is models.Unigram:
        backend = Tokenizer(models.Unigram([(piece, -float(n > 6)) for n, piece in enumerate(pieces)], 0, True))
    else:
        merges = [("▁", "T"), ("t", "h"), ("<", "/"), ("s", ">"), ("</", "s>"), ("[", "S")]
        vocab = {piece: number for number, piece in enumerate(pieces)}
        backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens(["<unk>", "<s>", "</s>", "<|im_end|>", "[SEP]"])
    backend.add_tokens(["<think>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    vocab = ["[UNK]", "</s>", "<s>", "<unk>", "<think>", "<|im_end|>", "[SEP]", "title", "##s", "s", "<", "/", ">"]
    backend = Tokenizer(models.WordPiece({word: n for n, word in enumerate(vocab)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["[UNK]", *CONTROLS])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def template(single: str) -> Callable[[PreTrainedTokenizerFast], None]:
    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        ids = [(text, tokenizer.convert_tokens_to_ids(text)) for text in ("<s>", "</s>", "[SEP]")]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=None, special_tokens=ids
        )

    return change


def cut(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.enable_truncation(3, direction="left")
    tokenizer.truncation_side, tokenizer.model_max_length = "left", 3


def pad(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.enable_padding(direction="left", length=40)
    tokenizer.padding_side = "left"


def prefix_space(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("☃"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.add_prefix_space = True


def strip(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFC()])


def split_special(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.split_special_tokens = True


def clean_up(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.clean_up_tokenization_spaces = True


def dropout(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.backend_tokenizer.model.dropout = 0.9


def metaspace(scheme: str) -> Callable[[PreTrainedTokenizerFast], None]:
    def change(tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.backend_tokenizer.normalizer = None
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        tokenizer.backend_tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)

    return change


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> PlainText:
    tokenizer.save_pretrained(folder)
    return PlainText(load_tokenizer(folder))


@pytest.mark.parametrize(
    "change",
    [
        cut, pad, prefix_space, strip, split_special, clean_up, dropout,
        template("$A </s>"), template("<s> $A </s>"), template("[SEP] $A [SEP]"),
    ],
)  # fmt: skip
def test_what_a_tokenizer_is_saved_with_changes_no_token(change, tiny_llm, tmp_path):
    tokenizer = byte_level(tiny_llm)
    expected = PlainText(tokenizer).tokens(TEXTS)
    assert expected[0] == tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    change(tokenizer)
    text = saved(tokenizer, tmp_path)
    assert text.tokens(TEXTS) == expected
    assert text.tokens(TEXTS) == expected  # nothing is random


@pytest.mark.parametrize("model", [models.BPE, models.Unigram])
def test_no_space_is_put_before_a_segment(model, tmp_path):
    tokenizer = sentence_piece(model)
    expected = PlainText(tokenizer).tokens([" Title", "Title"])
    names = [tokenizer.convert_ids_to_tokens(ids) for ids in expected]
    assert names[0][0] == "▁T" and names[1][0] == "T"
    for scheme in ("always", "first", "never"):
        metaspace(scheme)(tokenizer)
        assert saved(tokenizer, tmp_path / scheme).tokens([" Title", "Title"]) == expected


@pytest.mark.parametrize("kind", ["byte level", "BPE", "Unigram", "WordPiece"])
@pytest.mark.parametrize("split", [False, True])
def test_text_that_spells_a_control_token_is_text(kind, split, tiny_llm, tmp_path):
    makers = {
        "byte level": lambda: byte_level(tiny_llm),
        "BPE": lambda: sentence_piece(models.BPE),
        "Unigram": lambda: sentence_piece(models.Unigram),
        "WordPiece": word_piece,
    }
    tokenizer = makers[kind]()
    tokenizer.split_special_tokens = split
    text = saved(tokenizer, tmp_path)
    if kind != "byte level":  # which spells whatever it does not know
        assert "<unk>" in text.control_ids or "[UNK]" in text.control_ids
    control_ids = {*text.control_ids.values()} - {tokenizer.unk_token_id}
    assert control_ids
    for control in CONTROLS:
        for written in (control, f" {control}", f" A{control}b", f" {control} ({control})"):
            assert not control_ids & {*text.tokens([written])[0]}, written
    if kind != "WordPiece":  # which has no letters for it
        pieces = tokenizer.convert_ids_to_tokens(text.tokens(["Title </s>"])[0])
        assert "".join(pieces).replace("▁", " ").replace("Ġ", " ") == "Title </s>"


def test_added_words_keep_their_ids(tiny_llm, tmp_path):
    tokenizer = byte_level(tiny_llm)
    acme = tokenizer.convert_tokens_to_ids("Acme")
    assert acme > max(tokenizer.convert_tokens_to_ids(text) for text in ("<s>", "<think>"))
    text = saved(tokenizer, tmp_path)
    assert text.tokens(["Acme"]) == [[acme]]
    assert text.tokens([" A  b"])[0][2] == tokenizer.convert_tokens_to_ids("  ")


@pytest.mark.parametrize(
    ("change", "start"),
    [
        (template("$A"), []), (template("$A </s>"), []), (template("<s> $A"), ["<s>"]),
        (template("<s> $A </s>"), ["<s>"]), (template("[SEP] <s> $A [SEP]"), ["[SEP]", "<s>"]),
    ],
)  # fmt: skip
def test_a_prompt_starts_as_the_template_says_and_does_not_end_so(change, start, tiny_llm, tmp_path):
    tokenizer = byte_level(tiny_llm)
    change(tokenizer)
    text = saved(tokenizer, tmp_path)
    assert tokenizer.convert_ids_to_tokens(text.start) == start


def test_an_instruction_may_spell_control_tokens_and_mean_them(tiny_llm):
    tokenizer = byte_level(tiny_llm)
    text, end = PlainText(tokenizer), tokenizer.convert_tokens_to_ids("<|im_end|>")
    found = text.tokens_and_controls("Sum up<|im_end|>\n")
    assert found == [*text.tokens(["Sum up"])[0], end, *text.tokens(["\n"])[0]]
    assert text.tokens_and_controls("") == []


def test_the_tokenizer_itself_stays_as_it_is(tiny_llm):
    tokenizer = byte_level(tiny_llm)
    cut(tokenizer)
    before = tokenizer.backend_tokenizer.to_str()
    PlainText(tokenizer).tokens(TEXTS)
    assert tokenizer.backend_tokenizer.to_str() == before


def test_the_default_llm_reads_what_its_tokenizer_gives(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    text = PlainText(tokenizer)
    assert text.start == ()
    assert text.tokens(TEXTS) == tokenizer(TEXTS, add_special_tokens=False)["input_ids"]
    instruction = "You are an assistant that summarises.\n"
    assert text.tokens_and_controls(instruction) == tokenizer(instruction)["input_ids"]
