"""The part of a report on the experts: whom each serves, and how even their load is."""

from collections.abc import Mapping, Sequence
from typing import Any

from laser.pages.document import Block, Bullets, Grid, Heading, Paragraph, Plot
from laser.pages.plots import boxes, lines
from laser.reproduction.experts import ExpertUsers, association, explained_share, typical_values


def expert_report(experts: ExpertUsers, load: Mapping[str, Sequence[tuple[float, float]]], run: str) -> list[Block]:
    """Which users each expert serves, and how even the load is over the epochs.

    Args:
        experts: the test users, routed.
        load: expert → (epoch, share of the training histories).
        run: what was analysed.
    """
    number, total = experts.num_experts, len(experts.users)
    chosen = experts.experts_E.tolist()
    used = [expert for expert in range(number) if expert in chosen]
    grid = []
    for expert in used:
        values = typical_values(experts, expert)
        typical = ", ".join(f"{_short(value)} ({factor:.1f} ×)" for value, factor in values)
        grid.append(
            [
                f"expert {expert}",
                str(chosen.count(expert)),
                f"{100 * chosen.count(expert) / total:.1f} %",
                f"{experts.of(expert, 'gate').mean():.3f}",
                _quartiles(experts.of(expert, "history_length")),
                _quartiles(experts.of(expert, "popularity")),
                typical,
            ]
        )
    attribute = experts.attribute or "attribute"
    effects = [
        f"history length: {100 * explained_share(experts.column('history_length'), chosen):.1f} % of its variance lies "
        "between experts (η²)",
        f"popularity of the items: {100 * explained_share(experts.column('popularity'), chosen):.1f} % of its variance",
        f"{attribute}: Cramér's V {association(experts.column('attribute').tolist(), chosen):.3f} (0 none, 1 complete)",
    ]
    blocks: list[Block] = [
        Heading("Which users each expert serves"),
        Paragraph(
            f"{run}, {total} test users, routed by the selected weights: {len(used)} of {number} experts serve any. "
            "Popularity of a user: median over the history of how often an item occurs in training. Numbers are median "
            f"(quartiles). Last column: the most over-represented {attribute} among the users' main values, and by "
            "which factor."
        ),
        Grid(["", "users", "share", "gate", "history length", "popularity", attribute], grid),
        Bullets(effects),
    ]
    for name, axis in (("history_length", "history length in items"), ("popularity", "popularity of the history")):
        groups = {f"expert {expert}": experts.of(expert, name).tolist() for expert in used}
        blocks.append(Plot(boxes(groups, axis), f"{axis}, by expert: quartiles; whiskers at 5 and 95 %"))
    if load and max(map(len, load.values())) > 1:
        blocks += [
            Heading("Load of the experts over the epochs", 3),
            Plot(lines(load, "epoch", "share of the histories"), "share of the training histories that each handled"),
            Grid(
                ["", *(f"epoch {int(epoch)}" for epoch, _ in next(iter(load.values())))],
                [[name, *(f"{share:.3f}" for _, share in points)] for name, points in load.items()],
            ),
        ]
    return blocks


def _quartiles(values: Any) -> str:
    ordered = sorted(map(float, values))
    low, middle, high = (ordered[round(part * (len(ordered) - 1))] for part in (0.25, 0.5, 0.75))
    return f"{middle:g} ({low:g}–{high:g})"


def _short(value: str) -> str:
    """The end of a long value: of a category with its parents, its own name."""
    return value if len(value) <= 40 else f"…{value[-39:].lstrip()}"
