"""What a request may ask, and how it is refused; no server is needed for that."""

import json

import pytest

from laser.config.jobs import RequestLimits
from laser.serving.http.requests import Refused, answers_body, check_size, check_token, queries_of, token_hash
from laser.serving.queries import Answer, Options, Query

LIMITS = RequestLimits(max_histories=2, max_history_items=3, max_k=5, max_named_items=1, max_body_bytes=100)


def body(**fields: object) -> bytes:
    return json.dumps({"histories": [["a"]], **fields}).encode()


def test_a_request_becomes_a_query_for_each_history():
    whole = body(histories=[["a", "b"], []], k=3, mask_history=False, allowed=["x"], excluded=["y"])
    options = Options(3, False, frozenset(["x"]), frozenset(["y"]))
    assert queries_of(whole, LIMITS) == [Query(("a", "b"), options), Query((), options)]
    assert queries_of(body(k=5), LIMITS) == [Query(("a",), Options(k=5))]


@pytest.mark.parametrize(
    ("sent", "status", "field"),
    [
        (b"{", 400, None),
        (b"[" * 100_000, 400, None),
        (b"[]", 422, None),
        (body(histories=[]), 422, "histories"),
        (body(histories=[[1]]), 422, "histories.0.0"),
        (body(histories="a"), 422, "histories"),
        (body(k=0), 422, "k"),
        (body(k="3"), 422, "k"),
        (body(k=6), 422, "k"),
        (body(mask_history=1), 422, "mask_history"),
        (body(histories=[["a"]] * 3, k=1), 422, "histories"),
        (body(histories=[["a"] * 4], k=1), 422, "histories"),
        (body(allowed=["a", "b"], k=1), 422, "allowed"),
        (body(excluded=["a", "b"], k=1), 422, "excluded"),
        (body(user="a"), 422, "user"),
    ],
)
def test_what_is_refused_names_the_field(sent, status, field):
    with pytest.raises(Refused) as refused:
        queries_of(sent, LIMITS)
    error = refused.value.body()["error"]
    assert (error["status"], error.get("field")) == (status, field)
    assert error["message"] and error["code"]


def test_the_token_and_the_size_are_checked_first():
    wanted = token_hash("secret")
    check_token({"authorization": "Bearer secret"}, wanted)
    check_token({}, None)
    for headers in ({}, {"authorization": "Bearer other"}, {"authorization": "secret"}, {"authorization": "Bearer"}):
        with pytest.raises(Refused) as refused:
            check_token(headers, wanted)
        assert refused.value.status == 401
    check_size({"content-length": "100"}, LIMITS)
    for headers, status in (({"content-length": "101"}, 413), ({}, 411), ({"content-length": "-1"}, 411)):
        with pytest.raises(Refused) as refused:
            check_size(headers, LIMITS)
        assert refused.value.status == status


def test_an_answer_says_whether_it_is_the_models():
    answers = [Answer(["a"], ["A"], [0.5], ["x"], 2), Answer(["b"], ["B"], [None])]
    first, second = answers_body(answers)["answers"]
    assert first == {
        "items": [{"item": "a", "title": "A", "score": 0.5}], "by": "model", "unknown": ["x"], "unread": 2
    }  # fmt: skip
    assert (second["by"], second["items"][0]["score"]) == ("popularity", None)
