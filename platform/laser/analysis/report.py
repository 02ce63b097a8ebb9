"""The report on what items and users share of the text cache: tables by block, one figure, what each way would save."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from laser.analysis.shared_states import POOL, BlockSharing, Sharing, TextSharing
from laser.pages.document import Block, Bullets, Code, Grid, Heading, Paragraph, Plot, as_html, as_markdown
from laser.pages.plots import as_file, lines
from laser.storage.files import write_json, write_whole

RANKS = (8, 32, 96)
"""Numbers of directions that the tables show."""
SHARES = (0.9, 0.99)
"""Shares of the energy for which the report says how many numbers hold them."""
FIGURE = "shared-energy.svg"


def write_sharing(
    sharing: TextSharing,
    ranked: Mapping[str, float],
    folder: Path,
    data: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the report and its figure, and return the summary of the job.

    Args:
        sharing: what was measured.
        ranked: what is kept of the items' keys and values → validation NDCG@10 of a trained run; empty without one.
        folder: of the files.
        data: facts of the dataset.
        environment: of this process: hardware, commit, command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figure, savings = _figure(sharing.users), _savings(sharing)
    blocks = _page(sharing, ranked, figure, savings, str(data["name"]), environment)
    write_whole(folder / "report.html", as_html(f"Text cache of {data['name']}", blocks))
    write_whole(folder / "report.md", as_markdown(blocks))
    write_whole(folder / FIGURE, as_file(figure))
    by_block = {name: list(map(_thinned, getattr(sharing, name))) for name in ("items", "users")}
    found = {"ndcg@10": ranked, "savings": savings, "sharing": {**asdict(sharing), **by_block}}
    content = {"data": data, "environment": environment, **found}
    write_json(folder / "report.json", content)
    return {"report": str((folder / "report.html").absolute()), "ndcg@10": dict(ranked), **savings}


def _savings(sharing: TextSharing) -> dict[str, Any]:
    """Return what a token takes by each way to keep it, and means of shares over keys and values of all blocks."""
    found: dict[str, Any] = {"bytes_per_token": sharing.token_bytes, "tokens_per_user": sharing.user_tokens}
    for name, blocks in (("items", sharing.items), ("users", sharing.users)):
        for share in SHARES:
            found[f"{name}_bytes_for_{share:.0%}"] = sharing.low_rank_bytes(blocks, share)
        parts = [part for block in blocks for part in (block.keys, block.values)]
        for rank in RANKS:
            found[f"{name}_shared_in_{rank}"] = float(np.mean([part.shared[_at(part, rank)] for part in parts]))
        found[f"{name}_pool"] = float(np.mean([part.pool for part in parts]))
    of_items = [part.item for block in sharing.users for part in (block.keys, block.values) if part.item is not None]
    return found | {"users_item_table": float(np.mean(of_items))}


def _page(
    sharing: TextSharing,
    ranked: Mapping[str, float],
    figure: str,
    savings: Mapping[str, Any],
    name: str,
    environment: Mapping[str, Any],
) -> list[Block]:
    hardware, whole = environment["hardware"], sharing.token_bytes
    tokens_per_item = sharing.item_tokens / sharing.num_items
    ways = [("whole", float(whole), 1.0)]
    ways += [
        (f"low rank, {share:.0%} of the energy", savings[f"users_bytes_for_{share:.0%}"], share) for share in SHARES
    ]
    ways.append((f"a pool of {POOL:,} rows for keys, one for values", 4.0 * len(sharing.users), savings["users_pool"]))
    ways.append(("a table of items, shared by all users", 4 / tokens_per_item, savings["users_item_table"]))
    return [
        Heading(f"What items and users share of the text cache: {name}", 1),
        Paragraph(
            "CollectiveKV's question (arXiv 2601.19178), asked of the frozen LLM's keys and values: how much of them "
            "is shared, so that it need not be kept for each? All shares are of the energy: the sum of squared "
            "differences from the mean row. Directions, pool and mean are those of one half of the texts, and the "
            "shares are of the other half. The instruction, which all share, is left out."
        ),
        Heading("What a user's text would take"),
        Paragraph(
            f"{sharing.num_users} users whose histories of {sharing.user_tokens:.0f} tokens are read as ordinary text, "
            f"so that an item sees those before it. A token takes {whole:,} bytes whole: {2 * sharing.width} numbers "
            f"in each of {len(sharing.users)} blocks. A pointer takes two bytes, an item's number four."
        ),
        Grid(
            ["way", "bytes a token", "of the whole", "energy held"],
            [[way, f"{size:,.1f}", f"{size / whole:.2%}", f"{held:.1%}"] for way, size, held in ways],
        ),
        Plot(figure, "energy of users' keys and values by the numbers kept for each token, mean over the blocks"),
        Heading("Between users"),
        Paragraph(
            "Columns: what the mean row holds of the energy about zero; in the leading directions of the known users; "
            "numbers for 90 and 99 % in them; in 32 directions of one other user's text; in the nearest row of a "
            "pool; in 32 directions of the user's own text, the most there can be; in the item's text read by itself."
        ),
        _grid(sharing.users),
        Heading("Between items"),
        Paragraph(
            f"{sharing.num_items:,} items, each read by itself, as the late prefix keeps them "
            "(`prompt.item_attention=own`): of these each user shares all, exactly."
        ),
        _grid(sharing.items),
        *_ranked(ranked),
        Heading("How it was measured"),
        Bullets(
            [
                f"commit {environment['commit']}",
                f"{hardware['cores']} cores of {hardware['processor']}, {hardware['memory_gib']} GiB",
            ]
        ),
        Code(str(environment["command"])),
    ]


def _ranked(ranked: Mapping[str, float]) -> list[Block]:
    heading = Heading("What a trained run ranks with less")
    if not ranked:
        return [heading, Paragraph("Not measured. Energy is not quality: run_id=<run> measures a run's ranking.")]
    whole = ranked["whole"]
    rows = [[way, f"{value:.4f}", f"{value / whole - 1:+.1%}"] for way, value in ranked.items()]
    text = (
        "Of each item's keys and of its values, in each block, only so much is kept, and the run reads that of its "
        "users' histories. Nothing is trained anew, and the item embeddings stay. The directions and the pool are of "
        "all items."
    )
    return [heading, Paragraph(text), Grid(["kept", "validation NDCG@10", "change"], rows)]


def _grid(blocks: Sequence[BlockSharing]) -> Grid:
    header = ["", "mean", *(f"r = {rank}" for rank in RANKS), *(f"numbers for {share:.0%}" for share in SHARES)]
    header += ["other's, r = 32", "pool", *(["own, r = 32", "item"] if blocks[0].keys.item is not None else [])]
    rows = []
    for number, block in enumerate(blocks, start=1):
        for kind, part in (("keys", block.keys), ("values", block.values)):
            shares = [part.mean, *(part.shared[_at(part, rank)] for rank in RANKS)]
            later = [part.other[_at(part, 32)], part.pool]
            later += [] if part.item is None else [part.own[_at(part, 32)], part.item]
            rows.append(
                [
                    f"block {number}, {kind}",
                    *(f"{share:.1%}" for share in shares),
                    *(str(part.numbers_for(share)) for share in SHARES),
                    *(f"{share:.1%}" for share in later),
                ]
            )
    return Grid(header, rows)


def _figure(blocks: Sequence[BlockSharing]) -> str:
    """Draw the share of the energy over the numbers that are kept of each token."""
    series = {}
    for kind in ("keys", "values"):
        parts: list[Sharing] = [getattr(block, kind) for block in blocks]
        for name, what in (("own", "the user's own"), ("shared", "all other users'"), ("other", "one other user's")):
            mean_D = np.mean([getattr(part, name) for part in parts], axis=0)
            series[f"{kind}, {what} directions"] = [(float(at + 1), float(mean_D[at])) for at in _shown(len(mean_D))]
    return lines(series, "numbers kept of each token, of keys or of values, in each block", "share of the energy")


def _thinned(block: BlockSharing) -> dict[str, Any]:
    """Return what was measured of a block, each curve at the places that the figure shows: number → share."""
    found: dict[str, Any] = asdict(block)
    for part in found.values():
        for name in ("own", "shared", "other"):
            part[name] = {str(at + 1): round(part[name][at], 4) for at in _shown(len(part[name]))}
    return found


def _shown(width: int) -> list[int]:
    """Return the places of a curve that a figure shows: powers of two and their middles, and the end."""
    places = {1, width, *(size for power in range(1, 16) for size in (2**power, 3 * 2**power // 2))}
    return sorted(place - 1 for place in places if place <= width)


def _at(part: Sharing, rank: int) -> int:
    """Return the place of a rank in a curve, or its end."""
    return min(rank, len(part.shared)) - 1
