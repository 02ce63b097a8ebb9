"""What we claim, checked against the recorded ranks: `claims.yaml` says it, `claims.json` says whether it holds.

    claims:
      - claim: <a sentence>
        system: <a recorded result>
        reference: <another one, or published:<benchmark>, which stands for each row of it>
        metrics: [ndcg@10]

Each claim is checked with the history among the candidates and with it masked, by a paired bootstrap over users, seed
by seed. It holds where the system is above in every seed with p < .01. A published row has no ranks of its own, and its
number is taken as exact.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from pydantic import Field, ValidationError

from laser.config.explain import complaint
from laser.config.section import Section
from laser.errors import UserError
from laser.evaluation.metrics import SELECTION_METRIC, masked_name
from laser.evaluation.significance import Comparison, compare_with_values
from laser.evaluation.user_ranks import read_ranks
from laser.records.published import read_published
from laser.records.results import Result, compared, paired_ranks

CLAIMS = "claims.yaml"
LEVEL = 0.01
"""The largest p at which a claim holds."""
PUBLISHED = "published:"


class Claim(Section):
    """One sentence of `claims.yaml`."""

    claim: str
    system: str
    reference: str
    metrics: tuple[str, ...] = (SELECTION_METRIC,)


class Claims(Section):
    """The file."""

    claims: tuple[Claim, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Verdict:
    """A claim, checked with one metric and one way of ranking the history."""

    claim: str
    dataset: str
    system: str
    reference: str
    metric: str
    history: str
    """shown or masked: the column `rank` or `rank_masked` of the files."""
    system_ranks: list[str]
    """Files of the users' ranks, one a seed, beside claims.json."""
    reference_ranks: list[str]
    """The same of the reference; none of a published row."""
    ours: float
    theirs: float
    ratio: float
    p: float
    """The largest of the seeds."""
    holds: bool


def sentences(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a sentence for each claim about one system: in how many ways it was checked and holds, and where not."""
    found = []
    for (claim, system), group in groupby(verdicts, key=lambda verdict: (verdict.claim, verdict.system)):
        checked = list(group)
        failed = [verdict for verdict in checked if not verdict.holds]
        verdict = "Holds" if not failed else "Does not hold" if len(failed) == len(checked) else "Holds in part"
        shown = [_numbers(one) for one in (failed or checked)]
        if not failed and len(checked) > 2:  # of many rows, the closest says it all
            shown = ["the closest: " + _numbers(min(checked, key=lambda one: one.ratio))]
        ways = f"{len(checked) - len(failed)} of {len(checked)}"
        found.append(f"**{verdict}** ({ways}): {claim} {system}{', not' if failed else ','} {'; '.join(shown)}.")
    return found


def _numbers(verdict: Verdict) -> str:
    seeds = f" of {len(verdict.system_ranks)} seeds" if len(verdict.system_ranks) > 1 else ""
    return (
        f"beside {verdict.reference}, {verdict.metric}, history {verdict.history}: {verdict.ours:.4f} and "
        f"{verdict.theirs:.4f}, ratio {verdict.ratio:.3f}, p {verdict.p:.4f}{seeds}"
    )


def check_claims(results: Sequence[Result], folder: Path) -> list[Verdict]:
    """Check all claims of a folder of results; none where it has no `claims.yaml`.

    Raises:
        UserError: the file is not of the form, or names a result or benchmark that is not there.
    """
    path = folder / CLAIMS
    if not path.is_file():
        return []
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        claims = Claims.model_validate({"claims": tuple(_with_tuples(claim) for claim in content["claims"])})
    except ValidationError as error:
        field = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(f"{path}: {field}: {complaint(error)[:300]}") from error
    by_name = {result.name: result for result in results}
    verdicts: list[Verdict] = []
    for claim in claims.claims:
        for name in (claim.system, claim.reference):
            if name not in by_name and not name.startswith(PUBLISHED):
                raise UserError(f"{path}: no result {name!r} in {folder}; add it first")
        verdicts += _verdicts(claim, by_name, folder)
    return verdicts


def as_json(verdicts: Sequence[Verdict]) -> str:
    """Return what `claims.json` holds: a list with an object for each verdict."""
    return json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n"


def _verdicts(claim: Claim, by_name: dict[str, Result], folder: Path) -> Iterator[Verdict]:
    system = by_name[claim.system]
    if not claim.reference.startswith(PUBLISHED):
        pairs = [(mine, theirs) for mine, theirs, _ in paired_ranks(system, by_name[claim.reference])]
        found = [compared(folder / mine, folder / theirs) for mine, theirs in pairs]
        files = [mine for mine, _ in pairs], [theirs for _, theirs in pairs]
        for metric, history in _ways(claim.metrics):
            name = masked_name(metric) if history == "masked" else metric
            yield _verdict(claim, system, claim.reference, metric, history, files, [one[name] for one in found])
        return
    mine = [run.ranks for run in system.runs() if run.ranks is not None]
    read = [read_ranks(folder / name) for name in mine]
    rows = read_published(claim.reference.removeprefix(PUBLISHED)).of(system.dataset)
    for metric, history in _ways(claim.metrics):
        known = [(row.name, numbers[metric]) for row, numbers in rows if metric in numbers]
        by_seed = [
            compare_with_values(one.masked if history == "masked" else one.ranks, metric, [value for _, value in known])
            for one in read
        ]
        for (name, _), found_here in zip(known, zip(*by_seed, strict=True), strict=True):
            yield _verdict(claim, system, f"{name} (published)", metric, history, (mine, []), found_here)


def _ways(metrics: Sequence[str]) -> list[tuple[str, str]]:
    return [(metric, history) for metric in metrics for history in ("shown", "masked")]


def _verdict(
    claim: Claim,
    system: Result,
    reference: str,
    metric: str,
    history: str,
    files: tuple[list[str], list[str]],
    found: Sequence[Comparison],
) -> Verdict:
    ours, theirs = fmean(one.ours for one in found), fmean(one.theirs for one in found)
    return Verdict(
        claim=claim.claim,
        dataset=system.dataset,
        system=system.name,
        reference=reference,
        metric=metric,
        history=history,
        system_ranks=files[0],
        reference_ranks=files[1],
        ours=ours,
        theirs=theirs,
        ratio=ours / theirs,
        p=max(one.p_value for one in found),
        holds=all(one.difference > 0 and one.p_value < LEVEL for one in found),
    )


def _with_tuples(claim: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in claim.items()}
