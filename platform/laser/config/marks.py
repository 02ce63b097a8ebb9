"""Marks: facts about a setting that the rest of the code acts on, written at its field in the schema.

    num_workers: Annotated[NonNegativeInt, HOW_IT_RUNS] = 1

A mark on a field that holds a section holds for all settings inside. A setting without a mark changes results, and must
stay the same when a run resumes. `laser.config.fields.marked` lists the settings that carry a mark.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mark:
    """A fact about a setting; pydantic keeps it in the field's metadata and does not act on it."""

    name: str


HOW_IT_RUNS = Mark("HOW_IT_RUNS")
"""Says where and how it runs. It changes no result, so it may differ when a run or sweep resumes."""
LABEL = Mark("LABEL")
"""Names the run. It changes no result, and results are found without it."""
MAY_DIFFER_ON_RESUME = Mark("MAY_DIFFER_ON_RESUME")
"""A run (or, in the section search, a sweep) resumes with another value, although the value can change results."""
NUM_EPOCHS = Mark("NUM_EPOCHS")
"""Says how long a stage trains. The weights do not depend on it until then, unless the learning rate does."""
ARTIFACT = Mark("ARTIFACT")
"""An artifact that runs share depends on it: dataset, prompts, recommender, encodings, or which examples those hold."""
SEED = Mark("SEED")
"""Seeds what is random. Runs that differ in it alone are repetitions of one result."""
PAPER_SEQUENCE = Mark("PAPER_SEQUENCE")
"""Belongs to the paper's own training sequence, which a report compares with ours in one sentence."""
PLACE = Mark("PLACE")
"""Names a file or folder. It becomes absolute before a process starts in another directory."""
LLM_SOURCE = Mark("LLM_SOURCE")
"""Names an LLM, whose content stands in its place in the names of what is made of it."""
OWN_CODE = Mark("OWN_CODE")
"""Names a module of the user's own. The content of its file belongs to the names of what is made with it."""
FINGERPRINTED = Mark("FINGERPRINTED")
"""Names files whose content hash stands in its place wherever results are told apart."""
THIS_SESSION = Mark("THIS_SESSION")
"""Belongs to one session on one machine, and no record of a result holds it."""
RECORDING = Mark("RECORDING")
"""Says where runs are recorded; no record of a result holds it."""
REPORTED_APART = Mark("REPORTED_APART")
"""Says which data or LLM is read. A report names them in sentences of their own, not among the settings."""
PERMISSION = Mark("PERMISSION")
"""Permits something. What the LLM gives for a text does not depend on it."""


@dataclass(frozen=True)
class ReadIf:
    """Says when anything reads the setting at all: with one of these values of another one.

    `laser.cli.unused` tells a user of settings that nothing reads. Several marks at a field must all hold. A mark at
    a setting stands in place of the one at its section.
    """

    alternatives: tuple[tuple[str, tuple[Any, ...]], ...]
    """Dotted key, and its values; without values, any but null, false, 0 and none."""

    def __or__(self, other: "ReadIf") -> "ReadIf":
        return ReadIf(self.alternatives + other.alternatives)


def read_if(key: str, *values: Any) -> ReadIf:
    """Mark a setting that is read with these values of `key`, or where `key` is not off."""
    return ReadIf(((key, values),))
