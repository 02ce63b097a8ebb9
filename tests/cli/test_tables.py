"""Tables, letter by letter."""

from laser.cli.tables import markdown_table


def test_text_aligns_to_the_left_and_numbers_to_the_right():
    assert markdown_table(["name", "a", "value"], [["x|y", "1", ""], ["long name", "200", "0.5"]]).splitlines() == [
        "| name      |   a | value |",
        "| --------- | --: | ----: |",
        "| x\\|y      |   1 |       |",
        "| long name | 200 |   0.5 |",
    ]


def test_other_columns_may_hold_text_too():
    assert markdown_table(["rank", "trial"], [["1", "K=4"]], text=(1,)).splitlines() == [
        "| rank | trial |",
        "| ---: | ----- |",
        "|    1 | K=4   |",
    ]


def test_a_table_without_rows_is_its_header():
    assert markdown_table(["a", "b"], []).splitlines() == ["| a   |   b |", "| --- | --: |"]
