"""Each report of a table says in a line how its rows compare."""

import json

from laser.records.reports import conclusions


def row(name, reference=None, ours=None, verdict="", **more):
    return {"id": name, "name": name, "reference": reference, "difference": {"ours": ours}, "verdict": verdict, **more}


def test_a_report_says_how_its_rows_compare(tmp_path):
    users = {"low": 2.04, "high": 9.0, "p": 0.01}
    rows = [
        row("whole"),
        row("narrow", "whole", -2.71, "worse"),
        row("wide", "whole", 5.5, "better", over_users=users),
        row("deep", "whole", -1.0, "worse", over_users=None),
        row("not run", "whole"),
    ]
    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes" / "report.md").write_text("")
    content = {"dataset": "Toys (3 users)", "seeds": [0, 1], "metric": "ndcg@10", "rows": rows}
    (tmp_path / "sizes" / "report.json").write_text(json.dumps(content))
    assert conclusions(tmp_path) == [
        "[sizes](sizes/report.md), as a page with plots beside it (Toys, 2 seeds, NDCG@10). Better, beside whole: wide "
        "(+5.5 %, +2.0 … +9.0 % over users). Worse, beside whole: narrow (-2.7 %); deep (-1.0 %)."
    ]


def test_a_report_of_another_kind_is_a_link(tmp_path):
    for name, content in (("none", None), ("other", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.md").write_text("")
        if content is not None:
            (tmp_path / name / "report.json").write_text(content)
    assert conclusions(tmp_path) == [
        f"[{name}]({name}/report.md), as a page with plots beside it." for name in ("none", "other")
    ]
