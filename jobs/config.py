"""Compare two configurations: files, or recorded runs by their id. Only the settings that differ are shown.

python jobs/config.py diff configs/quickstart.yaml configs/experiment/recommended.yaml
python jobs/config.py diff <run id> <run id>
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from laser.cli.job import run_job
from laser.config.jobs import ConfigJob

logger = logging.getLogger("config")


def main(job: ConfigJob) -> Mapping[str, Any]:
    """Show the settings that differ, as a table and in the summary."""
    from laser.cli.compare import differences, settings_of_file
    from laser.cli.tables import markdown_table
    from laser.tracking.runs import open_tracking

    def settings(name: str, key: str) -> dict[str, str]:
        return settings_of_file(name) or open_tracking(job.tracking, must_exist=True).find(name, key).settings()

    different = differences(settings(job.a, "a"), settings(job.b, "b"))
    rows = [[key, *map(str, values)] for key, values in different.items()]
    logger.info("%d settings differ\n\n%s", len(rows), markdown_table(["setting", "a", "b"], rows, text=(0, 1, 2)))
    return {"a": job.a, "b": job.b, "different": different}


def as_settings(words: Sequence[str]) -> list[str]:
    """Return the words of the command line with `diff a b` written as settings."""
    if len(words) >= 3 and words[0] == "diff":
        return [f"a={words[1]}", f"b={words[2]}", *words[3:]]
    return list(words)


if __name__ == "__main__":
    run_job(main, ConfigJob, arguments=as_settings(sys.argv[1:]))
