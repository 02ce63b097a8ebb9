"""The application on Ray Serve: replicas that hold the model, and answer requests in batches.

`build` is what `serveConfigV2` of deploy/kuberay/rayservice.yaml names. `jobs/serve.py` runs the same on one machine.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from starlette.requests import Request
from starlette.responses import JSONResponse

from laser.config.compose import validate
from laser.config.jobs import ServeJob
from laser.errors import UserError
from laser.serving.answerer import Answerer
from laser.serving.http.requests import (
    Refused,
    answers_body,
    check_size,
    check_token,
    queries_of,
    token_hash,
)
from laser.serving.opening import open_named
from laser.serving.package import read_package
from laser.serving.queries import Answer, Query

logger = logging.getLogger(__name__)

NAME = "laser"
TOKEN = "LASER_SERVE_TOKEN"
"""Environment variable of the token; it goes before the file of `token_file`."""


class Recommender:
    """One replica.

    Args:
        settings: a `ServeJob` as plain data.
        package: folder of the model.
        wanted: hash of the token; None where no token is asked for.
    """

    def __init__(self, settings: Mapping[str, Any], package: str, wanted: str | None) -> None:
        job = validate(ServeJob, settings)
        opened = read_package(Path(package))
        new_items = None if job.new_items is None else Path(job.new_items)
        self.limits, self.wanted, self.model = job.limits, wanted, asdict(opened.identity)
        self.answerer = Answerer.open(opened, Path(job.cache_dir), new_items, job.use_gpu)
        # Compiles, and fills what is cached: the tutorial's first request took 15 s without it, on two busy cores.
        self.answerer.recommend([self.answerer.catalogue.raw_ids[:1]], k=1)
        self._answer.set_max_batch_size(job.max_batch_size)  # type: ignore[attr-defined]  # of serve.batch
        self._answer.set_batch_wait_timeout_s(job.batch_wait_ms / 1000)  # type: ignore[attr-defined]

    async def __call__(self, request: Request) -> JSONResponse:
        """Answer a request."""
        try:
            return JSONResponse(await self._respond(request))
        except Refused as refused:
            headers = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else None
            return JSONResponse(refused.body(), refused.status, headers)
        except Exception:
            logger.exception("a request failed")
            failure = Refused(500, "failed", "the request could not be answered; the server's log says why")
            return JSONResponse(failure.body(), failure.status)

    async def _respond(self, request: Request) -> dict[str, Any]:
        path, method = request.url.path.rstrip("/"), request.method
        wanted = {"/health": "GET", "/recommend": "POST"}.get(path)
        if wanted is None:
            raise Refused(404, "not_found", "there are GET /health and POST /recommend")
        if method != wanted:
            raise Refused(405, "wrong_method", f"{path} takes {wanted}")
        if path == "/health":
            return {"status": "ok", "model": self.model}
        check_token(request.headers, self.wanted)
        check_size(request.headers, self.limits)
        queries = queries_of(await request.body(), self.limits)
        answered = await self._answer(queries)
        if isinstance(answered, Refused):
            raise answered
        return answers_body(answered)

    @serve.batch
    async def _answer(self, requests: list[list[Query]]) -> list[Any]:
        """Answer several requests at once: one pass of the model."""
        try:
            answers = await asyncio.to_thread(self.answerer.answer, [query for one in requests for query in one])
        except UserError:  # one of them allows no item: each by itself, so that the others get theirs
            return [await asyncio.to_thread(self._alone, queries) for queries in requests]
        rest = iter(answers)
        return [[next(rest) for _ in one] for one in requests]

    def _alone(self, queries: list[Query]) -> list[Answer] | Refused:
        try:
            return self.answerer.answer(queries)
        except UserError as error:
            return Refused(422, "invalid", str(error), "allowed")

    def check_health(self) -> None:
        """Ray Serve calls this; it replaces a replica that raises."""
        assert len(self.answerer.catalogue)


def build(settings: Mapping[str, Any]) -> Application:
    """Return the application of a `ServeJob`, given as plain data. The model is fetched and packaged here, once.

    Raises:
        UserError: the settings are wrong, there is no such model, or no token where others could reach the server.
    """
    job = validate(ServeJob, settings)
    package = open_named(job.model, job.run_id, job.tracking, Path(job.cache_dir))
    token = serve_token(job)
    scaling: dict[str, Any] = {"num_replicas": job.min_replicas}
    if job.max_replicas > job.min_replicas:
        bounds = {"min_replicas": job.min_replicas, "max_replicas": job.max_replicas}
        scaling = {"autoscaling_config": {**bounds, "target_ongoing_requests": job.target_ongoing_requests}}
    deployment = serve.deployment(
        Recommender,
        name=NAME,
        max_ongoing_requests=4 * job.max_batch_size,
        max_queued_requests=job.limits.max_queued_requests,
        ray_actor_options={"num_cpus": job.cpus_per_replica, "num_gpus": int(job.use_gpu)},
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=20,
        **scaling,
    )
    plain = job.model_dump(mode="json")
    return deployment.bind(plain, str(package.folder), None if token is None else token_hash(token))


def serve_token(job: ServeJob) -> str | None:
    """Return the token that requests must send; None if none is asked for.

    Raises:
        UserError: the file is missing or empty, or others could reach a server without a token.
    """
    token = os.environ.get(TOKEN)
    if token is None and job.token_file is not None:
        try:
            token = Path(job.token_file).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(
                f"token_file: {job.token_file}: {error.strerror}; write a token into it, or set {TOKEN}"
            ) from error
        if not token:
            raise UserError(f"token_file: {job.token_file} is empty; write a token into it")
    if token is None and job.host not in ("127.0.0.1", "localhost", "::1"):
        raise UserError(f"token_file: null, and host {job.host} can be reached by others; name a file, or set {TOKEN}")
    return token
