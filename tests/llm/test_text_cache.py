"""The text cache: texts are read once, new ones are added, and a damaged file is made again."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from laser.config.schema import LLMConfig
from laser.llm.loading import llm_config, load_llm
from laser.llm.text_cache import Text, TextCache
from laser.llm.text_files import StateShape, state_files
from laser.llm.text_states import read_texts
from tiny.laser import CPU

TEXTS = [Text(np.arange(1, length + 1, dtype=np.int32), kept_from) for length, kept_from in ((5, 0), (9, 3), (30, 0))]
SETTINGS = LLMConfig(compile=False)


def never() -> None:
    raise AssertionError("all texts are there")


@pytest.fixture
def load(tiny_llm):
    return lambda: load_llm(tiny_llm, torch.float32, SETTINGS, CPU)


@pytest.fixture
def cache(tiny_llm, tmp_path) -> TextCache:
    return TextCache(tmp_path / "texts", StateShape.of(llm_config(tiny_llm, None), torch.float32))


def rows(cache: TextCache, text: Text) -> torch.Tensor:
    start = int(cache.starts([text])[0])
    return torch.stack([rows_R2GE[start : start + text.num_kept] for rows_R2GE in cache.open()])


def expected(load, text: Text) -> torch.Tensor:
    ids = torch.from_numpy(text.token_ids.astype(np.int64))
    with torch.no_grad():
        return read_texts(load(), ids, torch.tensor([len(ids)]))[:, text.kept_from :]


def test_rows_are_the_states_of_each_text_read_alone(cache, load):
    cache.add(TEXTS, load, CPU)
    for text in TEXTS:
        torch.testing.assert_close(rows(cache, text), expected(load, text), rtol=0, atol=1e-5)  # measured: 5e-7


def test_a_new_text_is_added_without_touching_the_others(cache, load):
    cache.add(TEXTS[:2], load, CPU)
    before = [path.read_bytes() for path in state_files(cache.folder, 2)]
    cache.add(TEXTS, load, CPU)
    after = [path.read_bytes() for path in state_files(cache.folder, 2)]
    assert all(new.startswith(old) and len(new) > len(old) for old, new in zip(before, after, strict=True))
    cache.add(TEXTS, never, CPU)


def test_what_a_text_keeps_is_part_of_its_name(cache, load):
    cache.add([TEXTS[1]], load, CPU)
    whole = Text(TEXTS[1].token_ids)
    cache.add([whole], load, CPU)
    torch.testing.assert_close(rows(cache, whole)[:, 3:], rows(cache, TEXTS[1]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("damage", ["cut", "altered", "index", "gone"])
def test_a_damaged_cache_is_noticed_and_made_again(cache, load, damage, caplog):
    cache.add(TEXTS, load, CPU)
    states, index = state_files(cache.folder, 2)[1], cache.folder / "index.safetensors"
    content = states.read_bytes()
    if damage == "cut":
        states.write_bytes(content[:-100])
    elif damage == "altered":
        states.write_bytes(bytes(len(content)))
    elif damage == "index":
        index.write_bytes(b"no safetensors")
    else:
        states.unlink()
    assert not cache.is_whole()
    cache.add([*TEXTS, TEXTS[0], Text(np.empty(0, np.int32))], load, CPU)  # one is there twice, one keeps nothing
    assert cache.is_whole() and states.read_bytes() == content
    assert "is damaged" in caplog.text


def test_rows_that_a_killed_writer_left_behind_are_written_over(cache, load):
    cache.add(TEXTS[:1], load, CPU)
    with state_files(cache.folder, 2)[1].open("ab") as file:
        file.write(b"x" * 12_345)
    cache.add(TEXTS, load, CPU)
    torch.testing.assert_close(rows(cache, TEXTS[2]), expected(load, TEXTS[2]), rtol=0, atol=1e-5)


def test_a_full_disk_is_an_error_and_leaves_what_was_there(cache, load):
    import resource

    cache.add(TEXTS[:1], load, CPU)
    before = rows(cache, TEXTS[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError):
            cache.add(TEXTS, load, CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cache.is_whole() and torch.equal(rows(cache, TEXTS[0]), before)
    cache.add(TEXTS, load, CPU)


ADD = """
import sys
from pathlib import Path
import numpy as np, torch
from laser.config.schema import LLMConfig
from laser.llm.loading import llm_config, load_llm
from laser.llm.text_cache import Text, TextCache
from laser.llm.text_files import StateShape, state_files
llm, folder, first = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
cpu = torch.device("cpu")
cache = TextCache(folder, StateShape.of(llm_config(llm, None), torch.float32))
texts = [Text(np.arange(1, length, dtype=np.int32)) for length in range(first, first + 20)]
cache.add(texts, lambda: load_llm(llm, torch.float32, LLMConfig(compile=False), cpu), cpu)
"""


def test_two_processes_add_at_once(cache, load, tiny_llm):
    started = [
        subprocess.Popen([sys.executable, "-c", ADD, str(tiny_llm), str(cache.folder), first]) for first in ("5", "15")
    ]
    assert [process.wait(timeout=300) for process in started] == [0, 0]
    texts = [Text(np.arange(1, length, dtype=np.int32)) for length in range(5, 35)]
    cache.add(texts, never, CPU)
    with safe_open(cache.folder / "index.safetensors", framework="np") as file:
        assert len(file.get_tensor("names")) == 30  # none twice
    for text in (texts[0], texts[12], texts[-1]):
        torch.testing.assert_close(rows(cache, text), expected(load, text), rtol=0, atol=1e-5)


def test_a_row_has_the_size_of_the_keys_and_values_of_a_token(tiny_llm):
    shape = StateShape.of(llm_config(tiny_llm, None), torch.bfloat16)
    assert shape.row == (2, 2, 8) and shape.row_bytes == 64 and shape.token_bytes == 128
