"""The recipe of a table is an example that works."""

from pathlib import Path

from laser.reproduction import paper
from laser.reproduction.cells import cells_of
from laser.reproduction.paper import read_table


def test_the_table_of_the_recipe_has_two_cells(repo: Path, desk, tmp_path: Path, monkeypatch):
    text = (repo / "docs" / "recipes" / "table.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "table-recipe.yaml").write_text(text)
    monkeypatch.setattr(paper, "TABLES", tmp_path)
    cells = cells_of(read_table("table recipe"), desk.job("table=4"))
    assert [(cell.row, cell.config.mformer.num_layers) for cell in cells] == [("two", 2), ("four", 4)]
