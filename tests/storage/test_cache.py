"""Made once, whole or not at all: by several processes at once, after a failure, after a kill."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laser.errors import UserError
from laser.storage.cache import make_once

MAKE = """
import sys, time
from pathlib import Path
from laser.errors import UserError
from laser.storage.cache import make_once

def make(aside):
    aside.mkdir()
    for part in range(3):
        time.sleep(0.1)
        (aside / str(part)).write_text(sys.argv[2])

print(make_once(Path(sys.argv[1]), make), len(list(Path(sys.argv[1]).iterdir())))
"""


def test_of_several_processes_one_makes_it_and_all_find_it_whole(tmp_path: Path, repo: Path):
    place = tmp_path / "cache" / "thing"
    environment = {**os.environ, "PYTHONPATH": str(repo / "platform")}
    processes = [
        subprocess.Popen([sys.executable, "-c", MAKE, str(place), str(n)], stdout=subprocess.PIPE, env=environment)
        for n in range(4)
    ]
    said = sorted(process.communicate()[0].decode().split() for process in processes)
    assert said == [["False", "3"]] * 3 + [["True", "3"]]
    assert len({(place / str(part)).read_text() for part in range(3)}) == 1


@pytest.mark.parametrize("folder", [False, True])
def test_a_failure_leaves_nothing_and_the_next_call_starts_over(tmp_path: Path, folder: bool):
    place = tmp_path / "thing"

    def write(aside: Path, text: str) -> None:
        if folder:
            aside.mkdir()
        (aside / "part" if folder else aside).write_text(text)

    def fail(aside: Path) -> None:
        write(aside, "half")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        make_once(place, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["thing.lock"]
    assert make_once(place, lambda aside: write(aside, "whole"))
    assert not make_once(place, lambda aside: write(aside, "again"))
    assert (place / "part" if folder else place).read_text() == "whole"


def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path):
    (tmp_path / ".thing.writing").mkdir()
    (tmp_path / ".thing.writing" / "part").write_text("half")
    assert make_once(tmp_path / "thing", lambda aside: aside.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing", "thing.lock"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "Error writing bytes to file"), RuntimeError("I/O error: full (os error 28)")]
)
def test_a_full_disk_is_the_users_to_free(tmp_path: Path, error):
    def make(aside: Path) -> None:
        aside.write_text("half")
        raise error

    with pytest.raises(UserError, match=r"cache_dir: .*: no space left on the disk; free some"):
        make_once(tmp_path / "entry", make)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]
