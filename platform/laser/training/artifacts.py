"""What runs share, made once: enough to name and check it, without opening it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SharedStages:
    """Stages that are made."""

    dataset: str
    """The dataset's name."""
    fingerprint: str
    """The dataset's content hash."""
    recommender: Path | None
    """Directory of the trained ID-based recommender; None where nothing reads one."""
    checkpoint_bytes: int = 0
    """Size of a checkpoint, counted on the model's shapes; 0 where it was not counted."""
