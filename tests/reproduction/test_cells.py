"""The cells of each table: valid, different in exactly what they name, and found by what their result depends on."""

import pytest

from laser.config.compose import flatten, with_overrides
from laser.config.families.recommenders import SASRecConfig
from laser.config.identity import recommender_key, settings_key
from laser.config.schema import Experiment
from laser.errors import UserError
from laser.reproduction.cells import base_experiment, cells_of, distinct, wanted_table
from laser.reproduction.paper import Table, read_table, table_files

TABLES = [path.stem.replace("-", "=", 1) for path in table_files() if path.stem != "table-3"]
"""All but the one that is counted, as the job names them."""


RATED = ("table=tuning", "table=tuning-rates", "table=peso", "table=peso-rates")
"""Their rows start from a run that has made the head ready."""


def rows_to_run(table: Table) -> tuple[set[str], set[str]]:
    """Rows with a cell, and those among them that start from another row's run."""
    rows = {row.id for row in table.rows.values() if row.kind != "quoted"}
    return rows, {row for row in rows if "{'run': " in str(table.rows[row].changes)}


def test_the_tables_of_the_paper_have_their_cells():
    cells = {"table=2": 3, "table=4": 6, "table=5": 3, "table=6": 4, "table=7": 5, "figure=3": 14, "figure=4": 6}
    for name, number in cells.items():
        assert len(rows_to_run(read_table(name.replace("=", " ")))[0]) == number


@pytest.mark.parametrize("name", TABLES)
def test_each_cell_differs_from_the_base_in_exactly_the_settings_it_names(desk, name):
    job = desk.job(name, "bituning.prefix=mformer", f"pretrain_data={desk.job(name).data.path}")
    table = wanted_table(job)
    cells = cells_of(table, job)
    rows, starting = rows_to_run(table)
    assert [cell.row for cell in cells] == [row for row in table.rows if row in rows - starting]
    base = flatten(base_experiment(job))
    for cell in cells:
        row, settings = table.rows[cell.row], flatten(cell.config)
        differing = {key for key in {*base, *settings} if base.get(key) != settings.get(key)}
        named = {key for key, value in row.changes.items() if value != base.get(key)}
        if row.changes.get("recommender.type") not in (None, "sasrec"):  # another family has other settings
            differing = {key for key in differing if not key.startswith("recommender.") or key in row.changes}
        if "selection.type" in row.changes:
            differing = {key for key in differing if not key.startswith("selection.") or key in row.changes}
        assert differing - {"data.path"} == named - {"data.path"}, cell.row
        for key, value in row.changes.items():
            if not isinstance(value, dict):
                assert settings[key] == value


def test_rows_of_figure_3_wait_for_the_run_that_they_start_from(desk):
    job = desk.job("figure=3", f"pretrain_data={desk.job('table=7').data.path}")
    table = wanted_table(job)
    waiting = {row.id for row in table.rows.values()} - {cell.row for cell in cells_of(table, job)}
    assert waiting == {f"transferred-{percent}" for percent in (0, 5, 20, 50, 100)}
    made = cells_of(table, job, {("pretrained", 0): "run-1"})
    starts = {cell.row: cell.config.training.start_from for cell in made}
    assert {row for row, start in starts.items() if start == "run-1"} == waiting


def test_a_base_with_a_warm_start_goes_with_every_table(desk):
    """A warm start reads at the suffix, and a head that is made ready on the target is no zero-shot transfer."""
    for name in TABLES:
        arguments = (name, "head.width=8", "head.standardise=true", "warm_start.epochs=1", "bituning.init=eos")
        job = desk.job(*arguments, f"pretrain_data={desk.job(name).data.path}")
        table = wanted_table(job)
        cells = cells_of(table, job, {(row, 0): "run-1" for row in table.rows})
        assert {cell.row for cell in cells} == rows_to_run(table)[0]
        for cell in cells:
            without = name == "table=5" or cell.row in ("transferred-0", "untrained-0", "no-warm-start", "alignment")
            without |= "finetuning.type" in cell.overrides or (
                name in RATED and "training.start_from" in cell.overrides
            )
            assert cell.config.warms_up_head != without, cell.name


def test_seeds_go_to_what_is_trained(desk):
    job = desk.job("table=2", "seeds=[3,4]")
    cells = cells_of(wanted_table(job), job)
    seeds = {(cell.kind, cell.seed): (cell.config.training.seed, cell.config.recommender.seed) for cell in cells}
    assert seeds["laser", 3] == (3, 0) and seeds["laser", 4] == (4, 0)
    assert seeds["recommender", 3] == (0, 3) and seeds["recommender", 4] == (0, 4)


def test_rows_that_ask_for_the_same_run_share_it(desk):
    job = desk.job("figure=4", "mformer.num_experts=8", "mformer.num_virtual_tokens=32")
    cells = cells_of(wanted_table(job), job)
    assert {cell.row for cell in cells} - {cell.row for cell in distinct(cells)} == {"laser-bert4rec-to-sasrec"}
    seventh = desk.job("table=7", "mformer.num_experts=8", "mformer.num_virtual_tokens=32", "recommender=sasrec")
    keys = {cell.row: cell.key for cell in cells_of(wanted_table(seventh), seventh)}
    assert keys["K8-L32"] == {cell.row: cell.key for cell in cells}["laser-sasrec"]


def test_the_key_is_of_what_a_result_depends_on():
    base = Experiment()
    key = settings_key(base, "data")
    same = {"training.num_workers": 0, "name": "other", "llm.compile": False, "data.path": "elsewhere"}
    for changes in same.items():
        assert settings_key(with_overrides(base, dict([changes])), "data") == key, changes
    for changes in {"training.seed": 1, "mformer.num_experts": 4, "recommender.type": "sasrec"}.items():
        assert settings_key(with_overrides(base, dict([changes])), "data") != key, changes
    assert settings_key(base, "other data") != key
    assert recommender_key(SASRecConfig(), "data") != recommender_key(SASRecConfig(seed=1), "data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one, such as table=4"),
        (("table=4", "figure=3"), "name one, such as table=4"),
        (("table=4", "seeds=[]"), r"seeds: \[\]; give at least one"),
        (("table=4", "seeds=[1,1]"), r"seeds: \[1, 1\]; give at least one, and each once"),
        (("table=4", "training.test=false"), "training.test: false; table 4 reports the test set"),
    ],
)
def test_a_wrong_request_is_the_users_mistake(desk, arguments, message):
    with pytest.raises(UserError, match=message):
        desk.look_up(*arguments)
