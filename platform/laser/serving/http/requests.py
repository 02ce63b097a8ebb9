"""What may be asked over HTTP, and how answers and refusals look. Nothing of Ray is in here.

    POST /recommend  {"histories": [["B001", "B002"], …], "k": 10, "mask_history": true, "allowed": […], "excluded": []}
                     {"answers": [{"items": [{"item": …, "title": …, "score": …}, …], "by": "model", "unknown": […]}]}
    GET  /health     {"status": "ok", "model": {…}}

A refusal is {"error": {"status": 422, "code": "invalid", "field": "k", "message": …}} with that status. `by` is
`popularity` where nothing of the history is known; its scores are null. `laser.serving.queries` says the rest.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from laser.config.jobs import RequestLimits
from laser.serving.queries import Answer, Options, Query


@dataclass(frozen=True)
class Refused(Exception):
    """A request that is not answered, and why."""

    status: int
    code: str
    message: str
    field: str | None = None

    def body(self) -> dict[str, Any]:
        """Return what the client gets."""
        named = {} if self.field is None else {"field": self.field}
        return {"error": {"status": self.status, "code": self.code, **named, "message": self.message}}


class RecommendRequest(BaseModel):
    """The body of POST /recommend."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    histories: list[list[StrictStr]] = Field(min_length=1)
    k: StrictInt = Field(default=10, ge=1)
    mask_history: StrictBool = True
    allowed: list[StrictStr] | None = None
    excluded: list[StrictStr] = []


def queries_of(body: bytes, limits: RequestLimits) -> list[Query]:
    """Read the body of a request.

    Raises:
        Refused: it is not JSON, not of this form, or beyond the limits.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "not_json", f"the body is not JSON: {error}") from error
    try:
        request = RecommendRequest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or None
        raise Refused(422, "invalid", first["msg"], field) from error
    checks = (
        ("histories", len(request.histories), limits.max_histories),
        ("histories", max(map(len, request.histories)), limits.max_history_items),
        ("k", request.k, limits.max_k),
        ("allowed", len(request.allowed or ()), limits.max_named_items),
        ("excluded", len(request.excluded), limits.max_named_items),
    )
    for field, asked, most in checks:
        if asked > most:
            raise Refused(422, "too_large", f"{asked} asked, at most {most} allowed", field)
    options = Options.of(request.k, request.mask_history, request.allowed, request.excluded)
    return [Query.of(history, options) for history in request.histories]


def answers_body(answers: list[Answer]) -> dict[str, Any]:
    """Return what the client gets."""
    return {
        "answers": [
            {
                "items": [
                    {"item": item, "title": title, "score": score}
                    for item, title, score in zip(answer.items, answer.titles, answer.scores, strict=True)
                ],
                "by": "popularity" if answer.is_popularity else "model",
                "unknown": answer.unknown,
                "unread": answer.num_unread,
            }
            for answer in answers
        ]
    }


def token_hash(token: str) -> str:
    """Return the hash by which replicas know the token, so that no settings hold the token itself."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_token(headers: Mapping[str, str], wanted: str | None) -> None:
    """Refuse a request without the token.

    Args:
        headers: of the request.
        wanted: the token's hash; None where no token is asked for.

    Raises:
        Refused: there is no token, or another one.
    """
    if wanted is None:
        return
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(token_hash(token.strip()), wanted):
        raise Refused(401, "unauthorized", "send the header `Authorization: Bearer <token>`")


def check_size(headers: Mapping[str, str], limits: RequestLimits) -> None:
    """Refuse a request that announces too large a body, before it is read.

    Raises:
        Refused: it is too large, or does not say how large it is.
    """
    length = headers.get("content-length", "")
    if not length.isdigit():
        raise Refused(411, "no_length", "send the header Content-Length")
    if int(length) > limits.max_body_bytes:
        raise Refused(413, "too_large", f"a body of {length} bytes, at most {limits.max_body_bytes} allowed")
