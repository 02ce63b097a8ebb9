"""docs/recipes/recommender.md, carried out on a copy of the code: a family is two files, and the contract finds it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CONFIG = "platform/laser/config/families/recommenders.py"


def test_the_recipe_adds_a_family_that_passes_the_contract(repo: Path, tmp_path: Path):
    blocks = re.findall(r"```(python|bash)\n(.*?)```", (repo / "docs/recipes/recommender.md").read_text(), re.S)
    (_, section), (_, union), (_, module) = (block for block in blocks if block[0] == "python")
    command = next(text for language, text in blocks if language == "bash").split()
    for folder in ("platform", "tests/recommenders", "tests/tiny"):
        shutil.copytree(repo / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("tests/conftest.py", "pyproject.toml"):
        shutil.copyfile(repo / file, tmp_path / file)

    where, _, module = module.partition("\n")
    (tmp_path / where.removeprefix("# ")).write_text(module)
    section, union = (text.partition("\n")[2] for text in (section, union))
    config = (tmp_path / CONFIG).read_text()
    line = next(line for line in config.splitlines() if line.startswith(union.partition("=")[0]))
    (tmp_path / CONFIG).write_text(config.replace(f"{line}\n", f"{section}\n\n{union}"))

    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "platform")}
    assert command.pop(0) == "python"
    ran = subprocess.run(
        [sys.executable, *command], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    passed = re.search(r"(\d+) passed, 1 skipped", ran.stdout)  # skipped: it is not trained by gradient
    assert passed is not None and int(passed[1]) >= 6, ran.stdout
