"""Values of any type as text: the same text whichever parser read them."""

from decimal import Decimal

import pyarrow as pa
import pytest

from laser.ingest.texts import as_text, clean, value_text

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.0, 12345678901.0, -1e10, 2.0**53 - 1], ["1", "12345678901", "-10000000000", "9007199254740991"]),
        ([0.1, 1e-7, 1e300, NAN, None], ["0.1", "1e-7", "1e+300", "", ""]),
        ([["x", None, "", "y"], [], None, [None]], ["x, y", "", "", ""]),
        ([[1.0, NAN, 1e10, None]], ["1, 10000000000"]),
        ([["x", "nan", " ", "None", "y"], ["NaN "], [" "]], ["x, y", "", ""]),
        ([7, None], ["7", ""]),
        ([True, False], ["true", "false"]),
    ],
)
def test_a_column_and_its_values_have_the_same_text(values: list, texts: list[str]):
    column = pa.chunked_array([values, pa.array(values)[1:]])
    assert as_text(column).to_pylist() == texts + texts[1:]
    assert [value_text(value) for value in values] == texts


def test_whole_decimals_lose_their_point_as_whole_floats_do():
    for digits, texts in ((0, ["12", "-3", ""]), (2, ["12", "-3", ""])):
        column = pa.chunked_array([pa.array([12, -3, None]).cast(pa.decimal128(25, digits))])
        assert as_text(column).to_pylist() == texts
    assert as_text(pa.chunked_array([pa.array([Decimal("12.50"), Decimal("0.05")])])).to_pylist() == ["12.50", "0.05"]


def test_lists_of_any_kind_are_joined():
    for kind in (pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2)):
        assert as_text(pa.chunked_array([pa.array([["x", None], None], kind)])).to_pylist() == ["x", ""]


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Pen &amp; Paper &quot;A&quot;", 'Pen & Paper "A"'),
        ("Tom &amp;amp; Jerry&#39;s &#x27;caf&eacute;&#x27;", "Tom & Jerry's 'café'"),
        ("by\n    \n    Acme", "by Acme"),
        ("a\tb  c&nbsp;d\xa0e", "a b c d e"),
        ('<span class="a-size">Foo</span>', "Foo"),
        ("&lt;b&gt;Foo&lt;/b&gt;<br/>Bar<!-- x -->", "Foo Bar"),
        ("H<sub>2</sub>O", "H2O"),
        ("Toys, </span></span>, Blocks, <li>, ", "Toys, Blocks"),
        ("<body><title>Foo</title></body>", "<title>Foo</title>"),  # the name of a work may be in such brackets
        ("<dl><dt>Foo</dt><dd><cite>Bar</cite></dd></dl>", "Foo Bar"),
        ("Foo<script>go()</script>", ""),
        (".a-box-inner{background-color:#fff}#foo", ""),
        ("Foo #bar .a:hover, @media x { margin: 0 ; color: red }", ""),
        ("P.when('A').execute(function(A) { })", ""),
        ("document.write('<b>Foo</b>')", ""),
        ("var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();", ""),
        ("if (window.ue) { uet(&#39;be&#39;, function(){}) }", ""),
    ],
)
def test_text_of_a_page_becomes_what_a_reader_sees(raw: str, cleaned: str):
    texts, num_changed, num_sources = clean(pa.chunked_array([["as it is"], [raw, ""]]))
    assert texts.to_pylist() == ["as it is", cleaned, ""]
    assert (num_changed, num_sources) == (1, cleaned == "")


@pytest.mark.parametrize(
    "text",
    ["I <3 You", "AT&T", "a < b > c", "R&D; S", "Salt&notes", "<Deluxe> & more", "5' 3\"", "A Function (Vol. 2)"]
    + ["Album #1 {Deluxe: 2 CDs}", "@home {a}", ".NET {beta}", "#1 Hits {Live}", "When P. when"],
)
def test_text_that_only_looks_like_markup_is_kept(text: str):
    assert clean(pa.chunked_array([[text]]))[0].to_pylist() == [text]
