"""Places are tried before any work, and nothing is left there."""

from pathlib import Path

import pytest

from laser.config.compose import load_config, with_overrides
from laser.config.paths import check_places
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.storage.cache import make_once
from laser.storage.places import check_file, check_place


def test_a_place_that_can_be_made_or_written_is_left_as_it_was(tmp_path):
    (tmp_path / "there").mkdir()
    for place in ("there", "there/or/not", "not"):
        check_place(tmp_path / place, "output_dir")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/proc/laser", "No such file or directory"),
        ("file", "Not a directory"),
        ("file/inside", "Not a directory"),
        ("dangling", "No such file or directory"),
        ("dangling/inside", "No such file or directory"),
        ("loop", "Too many levels of symbolic links"),
        ("n" * 300, "File name too long"),
        ("missing/" + "n" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("setting", ["cache_dir", "output_dir"])
def test_any_other_place_is_told_in_one_line(setting, place, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("dangling").symlink_to("/nowhere/at/all")
    Path("loop").symlink_to("loop")
    with pytest.raises(UserError, match=f"^{setting}: .*{reason}; name a folder that can be made and written"):
        check_places(with_overrides(Experiment(), {setting: place}))


def test_a_file_to_write_is_no_folder_and_lies_where_files_can_be_made(tmp_path):
    check_file(tmp_path / "new" / "page.html", "output")
    with pytest.raises(UserError, match=f"^output: {tmp_path} is a folder; name a file"):
        check_file(tmp_path, "output")
    with pytest.raises(UserError, match="^output: /proc/laser: No such file or directory; name a folder"):
        check_file(Path("/proc/laser/page.html"), "output")


@pytest.mark.parametrize("setting", ["data.path", "llm.source", "cache_dir", "output_dir"])
def test_an_empty_place_is_not_the_working_directory(setting):
    with pytest.raises(UserError, match=f'^{setting}: ""; '):
        load_config(Experiment, [f"{setting}="], None)


@pytest.mark.parametrize(
    ("place", "reason"), [("/proc/laser", "No such file or directory"), (f"/tmp/{'n' * 300}", "File name too long")]
)
def test_a_cache_that_cannot_be_written_is_told_when_something_is_missing(place: str, reason: str):
    with pytest.raises(UserError, match=f"^cache_dir: {place}.*: {reason}; name a folder"):
        make_once(Path(place) / "thing", Path.touch)
