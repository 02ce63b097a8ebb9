"""Hashes of files: they follow the content, and a large file that has not changed is not read again."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from laser.errors import UserError
from laser.storage.content import REMEMBERED_BYTES, SETTLED_SECONDS, file_hash, folder_hash


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.safetensors"
    path.write_bytes(bytes(REMEMBERED_BYTES))
    return path


def test_a_hash_follows_the_content_at_the_same_name_size_and_time(large, tmp_path):
    before, times = file_hash(large, tmp_path / "cache"), os.stat(large)
    assert before == hashlib.sha256(bytes(REMEMBERED_BYTES)).hexdigest()
    with large.open("r+b") as file:
        file.write(b"new")
    os.utime(large, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_hash(large, tmp_path / "cache") != before
    assert not (tmp_path / "cache").exists(), "a file that has just changed may change again at the same time"


def test_a_large_file_that_has_settled_is_read_once(tmp_path):
    import torch

    old = max(Path(torch.__file__).parent.glob("lib/libtorch_*.so"), key=lambda path: path.stat().st_ctime)
    assert old.stat().st_size > REMEMBERED_BYTES
    link = tmp_path / "linked"
    link.symlink_to(old)
    known = file_hash(link, tmp_path)
    (memory,) = (tmp_path / "hashes").iterdir()
    content = json.loads(memory.read_text())
    assert content["sha256"] == known
    memory.write_text(json.dumps(content | {"sha256": "remembered"}))
    assert file_hash(link, tmp_path) == "remembered"
    for state in (
        {**content["state"], "size": 1},
        {**content["state"], "inode": 1},
        {**content["state"], "ctime_ns": 1},
    ):
        memory.write_text(json.dumps({"state": state, "sha256": "of another file"}))
        assert file_hash(link, tmp_path) == known
    memory.write_text("no JSON")
    assert file_hash(link, tmp_path) == known
    assert SETTLED_SECONDS >= 2  # of FAT


def test_a_folder_is_its_own_files_with_the_suffixes(tmp_path):
    (tmp_path / "a.json").write_text("1")
    (tmp_path / "README.md").write_text("1")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b.json").write_text("1")
    before = folder_hash(tmp_path, {".json"})
    (tmp_path / "README.md").write_text("2")
    (tmp_path / "inner" / "b.json").write_text("2")
    assert folder_hash(tmp_path, {".json"}) == before
    (tmp_path / "a.json").rename(tmp_path / "c.json")
    renamed = folder_hash(tmp_path, {".json"})
    (tmp_path / "c.json").write_text("2")
    assert len({before, renamed, folder_hash(tmp_path, {".json"})}) == 3


def test_what_cannot_be_read_or_remembered(large, tmp_path):
    (tmp_path / "cache").write_text("a file where the cache would be")
    assert file_hash(large, tmp_path / "cache") == file_hash(large)
    with pytest.raises(UserError, match=r"absent: No such file or directory; let this account read it"):
        file_hash(tmp_path / "absent")
    with pytest.raises(UserError, match=r"absent: No such file or directory; let this account read it"):
        folder_hash(tmp_path / "absent", {".json"})
