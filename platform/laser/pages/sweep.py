"""The page of a sweep: which settings matter, which trials are best, their courses and experts, and what they cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from laser.evaluation.metrics import SELECTION_METRIC, selection_first, title
from laser.pages.document import Block, Code, Grid, Heading, Paragraph, Plot
from laser.pages.run_figures import expert_load, run_figures

K_AND_L = ("mformer.num_experts", "mformer.num_virtual_tokens")
SYMBOLS = {"mformer.num_experts": "K", "mformer.num_virtual_tokens": "L"}
MOST_CURVES = 8
"""Trials whose courses are drawn together; more of them cannot be told apart."""
MOST_NAMED = 3
"""With more trials than that, so many have their names in the figure of cost. The others would cover one another."""
IMPORTANCE_TRIALS = 4
"""Fewer trials say nothing about the importance of settings."""


@dataclass(frozen=True)
class TrialFacts:
    """What a page says of one trial."""

    name: str
    state: str
    overrides: Mapping[str, Any]
    """Dotted key → value of what the trial changes."""
    val: Mapping[str, float] = field(default_factory=dict)
    """Validation metrics of its best epoch; empty before there is one."""
    test: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 0
    seconds: float | None = None
    tokens_per_second: float | None = None
    run_id: str | None = None
    history: Sequence[Mapping[str, float]] = ()
    """Metrics and `epoch` of each epoch."""

    @property
    def score(self) -> float | None:
        return self.val.get(SELECTION_METRIC)


def best_first(trials: Sequence[TrialFacts]) -> list[TrialFacts]:
    """Sort by validation NDCG@10; trials without it come last."""
    return sorted(trials, key=lambda trial: (-(trial.score if trial.score is not None else -1.0), trial.name))


def sweep_figures(trials: Sequence[TrialFacts]) -> dict[str, str]:
    """Draw what a sweep's page shows: name → SVG. What the sweep does not have is left out."""
    from laser.pages.plots import heat_map, lines, points  # matplotlib takes a second to import

    known = [trial for trial in best_first(trials) if trial.score is not None]
    figures: dict[str, str] = {}
    if not known:
        return figures
    quality = f"validation {title(SELECTION_METRIC)}"
    rows, columns = (sorted({trial.overrides[key] for trial in known if key in trial.overrides}) for key in K_AND_L)
    if rows and columns:
        best_of: dict[tuple[Any, ...], float] = {}  # where more than K and L vary, the best of the others
        for trial in reversed(known):
            best_of[tuple(trial.overrides.get(key) for key in K_AND_L)] = trial.score or 0.0
        values = [[best_of.get((row, column)) for column in columns] for row in rows]
        names = ("K, experts", "L, virtual tokens", quality)
        figures["K-by-L"] = heat_map([*map(str, rows)], [*map(str, columns)], values, names)
    num_named = len(known) if len(known) <= MOST_CURVES else MOST_NAMED
    cost = [
        (trial.name if place < num_named else "", trial.seconds, trial.score or 0.0)
        for place, trial in enumerate(known)
        if trial.seconds
    ]
    if cost:
        figures["quality-by-cost"] = points(cost, 0, "seconds of training, encoding and validation", quality)
    key = f"val/{SELECTION_METRIC}"
    courses = {
        trial.name: [(row["epoch"], row[key]) for row in trial.history if key in row] for trial in known[:MOST_CURVES]
    }
    if any(len(course) > 1 for course in courses.values()):
        figures["courses"] = lines({name: course for name, course in courses.items() if course}, "epoch", quality)
    return figures


def importance(trials: Sequence[TrialFacts], seed: int = 0) -> dict[str, float]:
    """Share of the variance of validation NDCG@10 that each setting explains, by Optuna's fANOVA (Hutter et al. 2014).

    Empty where there are too few trials, or they are all alike.
    """
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    known = [trial for trial in trials if trial.score is not None]
    keys = sorted({key for trial in known for key in trial.overrides})
    values = {key: sorted({json.dumps(trial.overrides.get(key)) for trial in known}) for key in keys}
    varied = {key: CategoricalDistribution(values[key]) for key in keys if len(values[key]) > 1}
    if len(known) < IMPORTANCE_TRIALS or not varied or len({trial.score for trial in known}) == 1:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for trial in known:
        params = {key: json.dumps(trial.overrides.get(key)) for key in varied}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=varied, value=trial.score))
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))


def sweep_page(name: str, note: str, trials: Sequence[TrialFacts]) -> list[Block]:
    """Return the blocks of a sweep's page.

    Args:
        name: of the sweep.
        note: what it is, in sentences.
        trials: all of them, in any order.
    """
    ordered, figures = best_first(trials), sweep_figures(trials)
    blocks: list[Block] = [Heading(f"Sweep {name}", 1), Paragraph(note), Paragraph(_summary(ordered))]
    if "K-by-L" in figures:
        blocks += [Heading("K and L"), Plot(figures["K-by-L"], "validation NDCG@10 of each K and L")]
    blocks += [Heading("Best trials"), _table(ordered)]
    if ordered and ordered[0].overrides:
        settings = " ".join(f"{key}={json.dumps(value)}" for key, value in ordered[0].overrides.items())
        blocks += [Paragraph("The best trial's settings, as a command takes them:"), Code(settings)]
    shares = importance(trials)
    if shares:
        blocks += [
            Heading("Importance of the settings"),
            Paragraph("Share of the variance over these trials that a setting explains by itself or with others."),
            Grid(["setting", "share"], [[SYMBOLS.get(key, key), f"{share:.0%}"] for key, share in shares.items()]),
        ]
    if "courses" in figures:
        blocks += [Heading("Courses"), Plot(figures["courses"], f"the best {MOST_CURVES} trials over their epochs")]
    load = run_figures(ordered[0].history).get("expert-load") if ordered else None
    if load is not None:
        last = {expert: shares[-1] or 0.0 for expert, shares in expert_load(ordered[0].history).items()}
        blocks += [Heading("Experts of the best trial"), Plot(load, "share of the training histories of each expert")]
        rows = [[expert.removeprefix("expert "), f"{share:.0%}"] for expert, share in last.items()]
        blocks.append(Grid(["expert", "share at the end"], rows))
    if "quality-by-cost" in figures:
        blocks += [
            Heading("Cost"),
            Plot(figures["quality-by-cost"], "what each trial cost and what it reached, the best named"),
        ]
    return blocks


def _summary(ordered: Sequence[TrialFacts]) -> str:
    states = sorted({trial.state for trial in ordered})
    counts = ", ".join(f"{sum(trial.state == state for trial in ordered)} {state}" for state in states)
    seconds = sum(trial.seconds or 0.0 for trial in ordered)
    text = f"{len(ordered)} trials ({counts}), {seconds / 60:.1f} minutes of training together."
    if ordered and ordered[0].score is not None:
        best = ordered[0]
        text += f" The best is {best.name}: validation {title(SELECTION_METRIC)} {best.score:.4f}"
        text += f", test {best.test[SELECTION_METRIC]:.4f}." if SELECTION_METRIC in best.test else "."
    return text


def _table(ordered: Sequence[TrialFacts]) -> Grid:
    metrics = selection_first()
    header = ["trial", *(f"val {title(name)}" for name in metrics), f"test {title(SELECTION_METRIC)}"]
    header += ["epochs", "seconds", "tokens/s", "state"]

    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    rows = [
        [
            trial.name,
            *(number(trial.val.get(name), ".4f") for name in metrics),
            number(trial.test.get(SELECTION_METRIC), ".4f"),
            str(trial.epochs),
            number(trial.seconds, ".0f"),
            number(trial.tokens_per_second, ",.0f"),
            trial.state,
        ]
        for trial in ordered
    ]
    return Grid(header, rows)
