"""What the reports of tables conclude, in a line each, from their data (`report.json`)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laser.evaluation.metrics import title


def conclusions(folder: Path) -> list[str]:
    """Return a line of Markdown for each report in a folder of the results: a link, and how its rows compare."""
    return [_line(path.relative_to(folder), path.with_suffix(".json")) for path in sorted(folder.glob("*/report.md"))]


def _line(report: Path, data: Path) -> str:
    link = f"[{report.parent}]({report}), as a page with plots beside it"
    content = json.loads(data.read_text(encoding="utf-8")) if data.is_file() else {}
    compared = _compared(content.get("rows", []))
    if not compared:
        return f"{link}."
    seeds = len(content["seeds"])
    measured = f"{content['dataset'].partition(' (')[0]}, {seeds} seed{'s' * (seeds > 1)}, {title(content['metric'])}"
    sentences = [f"{verdict.capitalize()}, beside {other}: {'; '.join(rows)}." for (verdict, other), rows in compared]
    return f"{link} ({measured}). {' '.join(sentences)}"


def _compared(rows: list[Mapping[str, Any]]) -> list[tuple[tuple[str, str], list[str]]]:
    """Return for each verdict and reference the rows that have them, with their difference from it in percent."""
    names = {row["id"]: row["name"] for row in rows}
    compared: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["verdict"]:
            ours, users = row["difference"]["ours"], row.get("over_users")
            interval = f", {users['low']:+.1f} … {users['high']:+.1f} % over users" if users else ""
            compared.setdefault((row["verdict"], names[row["reference"]]), []).append(
                f"{row['name']} ({ours:+.1f} %{interval})"
            )
    return sorted(compared.items(), key=lambda item: item[0][0])
