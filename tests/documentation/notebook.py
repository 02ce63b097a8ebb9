"""Runs a notebook without Jupyter: its code cells, one after the other, in one namespace.

python tests/documentation/notebook.py <notebook> [--write]     # --write stores what the cells show
"""

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def run(path: Path, write: bool) -> None:
    """Run all cells in the working directory, print what they show, and store it on demand."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    namespace: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        number += 1
        cell["execution_count"], cell["outputs"] = number, shown("".join(cell["source"]), namespace, number)
        print(json.dumps(cell["outputs"]), flush=True)
    if write:
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def shown(source: str, namespace: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Run one cell; return what it prints, and its last expression as a result, as Jupyter stores them."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), f"cell {number}", "exec"), namespace)
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace) if last else None
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = lines(value._repr_html_())
        outputs.append({"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": data})
    return outputs


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), "--write" in sys.argv[2:])
