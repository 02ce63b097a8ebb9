"""The page of a comparison: who is best, by how much, at what cost, how sure that is, for whom, and what to know."""

from laser.evaluation.lists import LIST_METRICS
from laser.evaluation.metrics import title
from laser.pages.document import Block, Bullets, Grid, Heading, Paragraph
from laser.reproduction.comparison import COSTS, Comparison

NOT_TOLD_APART = "="
"""Marks a system that the test does not tell apart from the best."""


def comparison_page(comparison: Comparison) -> list[Block]:
    """Write the page as blocks."""
    first = title(comparison.first_metric)
    blocks: list[Block] = [Heading(f"Comparison on {comparison.dataset.name}", 1), Paragraph(_protocol(comparison))]
    warnings = _warnings(comparison)
    if warnings:
        blocks += [Heading("Warnings"), Bullets(warnings)]
    alpha = comparison.job.alpha
    blocks += [
        Heading("Leaderboard"),
        Paragraph(
            f"By {first}, with its 95 % interval by a bootstrap over users. {NOT_TOLD_APART} marks what is not told "
            f"apart from the first at {alpha:g} (randomisation test, Holm over all pairs)."
        ),
        _leaderboard(comparison),
        Heading("Budget"),
        Paragraph(
            "Points: settings that were tried, of which validation chose one. Seconds are those of training and "
            "validation; what was in the cache already, such as a recommender under Laser or within another one, its "
            "head made ready, or texts that an LLM had read, does not count. Trained weights are all that steps "
            "change, a head included; Adam keeps 8 bytes of each. Memory is the peak of the process in the last epoch "
            "of Laser's stages, with libraries and data. A cell is empty where a run has not recorded the figure."
        ),
        _budget(comparison),
        Heading("Pairs"),
        Paragraph(
            f"Differences of {first}, first less second, with the 95 % interval of the paired bootstrap; d is the "
            "difference over its standard deviation across users. p is of the paired randomisation test, alone and "
            "corrected over all pairs by Holm and by Benjamini and Hochberg (BH). The last column is the smallest true "
            f"difference that a test at {alpha:g} finds with a chance of 80 % for these users."
        ),
        _pairs(comparison),
        Heading("Users apart"),
        Paragraph(f"{first} of groups of users. Few users make a wide interval."),
        _segments(comparison),
        Heading("How it is measured"),
        Bullets(
            [
                "One wanted item per user, ranked among all candidates, never a sample. All ties count against the "
                "system. Recall at k is then the hit rate, and the ideal gain of NDCG is 1.",
                "Lists hold ten items, with the user's own items among the candidates. Coverage: share of the "
                "catalogue in any list. Novelty: bits, -log2 of an item's share of the training interactions. "
                "Popularity bias: share of other items that were chosen less often, 0.5 for a random choice. "
                "Diversity: 1 - cosine of the words of two items of a list, over all pairs.",
                "Runs: " + ", ".join(f"{system.name} {system.run_id}" for system in comparison.systems) + ".",
            ]
        ),
    ]
    return blocks


def _protocol(comparison: Comparison) -> str:
    dataset, systems = comparison.dataset, comparison.systems
    shown = "among the candidates" if comparison.job.history == "shown" else "masked"
    return (
        f"{len(systems[0].ranks):,} test users, {dataset.num_candidates:,} candidates, the history {shown}. Split "
        f"{dataset.split.type}, fingerprint {dataset.fingerprint}."
    )


def _warnings(comparison: Comparison) -> list[str]:
    """The notes of the data, then findings: those that all systems share once, and others with the system's name."""
    shared = [text for text in comparison.findings[0] if all(text in found for found in comparison.findings)]
    own = [
        f"{system.name}: {text}"
        for system, found in zip(comparison.systems, comparison.findings, strict=True)
        for text in found
        if text not in shared
    ]
    return [*comparison.dataset.facts()["notes"], *shared, *own]


def _leaderboard(comparison: Comparison) -> Grid:
    of_lists = [name for name in LIST_METRICS if any(name in lists for lists in comparison.lists)]
    apart = {pair.second: pair.holm < comparison.job.alpha for pair in comparison.pairs if pair.first == 0}
    rows = []
    for row, system in enumerate(comparison.systems):
        low, high = comparison.intervals[comparison.first_metric][row]
        mark = "" if row == 0 or apart[row] else f" {NOT_TOLD_APART}"
        values = [f"{values_SE[row].mean():.4f}" for values_SE in comparison.metrics.values()]
        lists = comparison.lists[row]
        listed = [f"{lists[name]:.3f}" if name in lists else "" for name in of_lists]
        rows.append([f"{system.name}{mark}", values[0], f"{low:.4f} … {high:.4f}", *values[1:], *listed])
    names = [title(name) for name in comparison.metrics]
    return Grid(["system", names[0], "95 % interval", *names[1:], *map(title, of_lists)], rows)


def _budget(comparison: Comparison) -> Grid:
    rows = [
        [system.name, *(f"{system.costs[name]:,.0f}" if name in system.costs else "" for name in COSTS)]
        for system in comparison.systems
    ]
    names = ["points", "seconds of all points", "seconds of the chosen one", "trained weights", "memory, MiB"]
    return Grid(["system", *names], rows)


def _pairs(comparison: Comparison) -> Grid:
    rows = [
        [
            f"{comparison.systems[pair.first].name} − {comparison.systems[pair.second].name}",
            f"{pair.difference:+.4f}",
            f"{pair.low:+.4f} … {pair.high:+.4f}",
            f"{pair.effect_size:+.3f}",
            *(f"{value:.4f}" for value in (pair.p_value, pair.holm, pair.false_discovery, pair.detectable)),
        ]
        for pair in comparison.pairs
    ]
    return Grid(["pair", "difference", "95 % interval", "d", "p", "Holm", "BH", "detectable"], rows)


def _segments(comparison: Comparison) -> Grid:
    values_SE = comparison.metrics[comparison.first_metric]
    rows = [
        [name, f"{int(users_E.sum()):,}", *(f"{mean:.4f}" for mean in values_SE[:, users_E].mean(axis=1))]
        for name, users_E in comparison.segments.items()
    ]
    return Grid(["users", "number", *(system.name for system in comparison.systems)], rows)
