"""What is asked of a model, and what it answers.

| a history | its answer |
|---|---|
| with unknown items | as without them; the answer names them (`Answer.unknown`) |
| empty, or of unknown items alone | the most popular items; their scores are None, for they are not the model's |
| longer than `prompt.max_history_items` | the LLM reads its last items; all of it is masked, or gets the history bias |
| with an item several times | as it is: the model has learnt from such histories |
| asked for twice | computed once, answered twice |
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    """How to make a list."""

    k: int = 10
    """Items of a list; fewer where there are no more candidates."""
    mask_history: bool = True
    """Leave out the items of the user's own history."""
    allowed: frozenset[str] | None = None
    """Raw ids of the only items to recommend; None for the whole catalogue. Unknown ones are passed over."""
    excluded: frozenset[str] = frozenset()
    """Raw ids of items never to recommend."""

    @staticmethod
    def of(k: int, mask_history: bool, allowed: Iterable[str] | None, excluded: Iterable[str]) -> "Options":
        return Options(k, mask_history, None if allowed is None else frozenset(allowed), frozenset(excluded))


@dataclass(frozen=True)
class Query:
    """One history, and what is wanted for it."""

    history: tuple[str, ...]
    """Raw ids of items, the oldest first."""
    options: Options = Options()

    @staticmethod
    def of(history: Sequence[str], options: Options = Options()) -> "Query":
        return Query(tuple(history), options)


@dataclass(frozen=True)
class Answer:
    """A list, best first."""

    items: list[str]
    """Raw ids."""
    titles: list[str]
    scores: list[float | None]
    """The model's scores, which compare items of one list alone. None where the items are the most popular ones."""
    unknown: list[str] = field(default_factory=list)
    """Items of the history that the catalogue lacks, each once."""
    num_unread: int = 0
    """Oldest items that the LLM did not read, because the history is longer than its prompt."""

    @property
    def is_popularity(self) -> bool:
        """Whether nothing was known of the history."""
        return bool(self.scores) and self.scores[0] is None
