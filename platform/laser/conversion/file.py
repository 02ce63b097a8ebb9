"""The lists of a GGUF file: its keys and the names of its tensors, without the weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from laser.errors import UserError

ROTATION_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


@dataclass(frozen=True)
class GGUF:
    """The lists of a GGUF file."""

    path: Path
    architecture: str
    settings: dict[str, Any]
    """Keys of the architecture, without its name, and their values."""
    tokenizer: dict[str, Any]
    """Keys of the tokenizer that hold one value."""
    rotations: dict[str, NDArray[np.float64]]
    """The tensors of `ROTATION_TENSORS` that the file has."""
    tensors: tuple[str, ...]
    """The names of all tensors."""

    @staticmethod
    def open(path: Path) -> "GGUF":
        """Read all but the weights."""
        reader = gguf.GGUFReader(str(path))
        kept = {name: field for name, field in reader.fields.items() if not name.startswith("tokenizer.")}
        values = {name: field.contents() for name, field in kept.items()}
        if values.get("split.count", 1) > 1:
            raise UserError(
                f"llm.source: {path}: one of {values['split.count']} parts; join them with gguf-split first"
            )
        single = {name: field for name, field in reader.fields.items() if name not in kept and len(field.data) == 1}
        architecture = str(values["general.architecture"])
        prefix = f"{architecture}."
        return GGUF(
            path,
            architecture,
            {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)},
            {name.removeprefix("tokenizer.ggml."): field.contents() for name, field in single.items()},
            {
                tensor.name: np.asarray(tensor.data, dtype=np.float64)
                for tensor in reader.tensors
                if tensor.name in ROTATION_TENSORS
            },
            tuple(tensor.name for tensor in reader.tensors),
        )

    def refused(self, key: str, value: Any, why: str = "and is not converted") -> UserError:
        """Return the error that names a key or a tensor which would be lost."""
        shown = f" = {value}" if value is not None else ""
        return UserError(
            f"llm.source: {self.path}: {key}{shown} changes what the model computes, {why}; "
            "name a folder with the model's own safetensors"
        )

    def key(self, suffix: str) -> str:
        """Return the whole name of a key of the architecture."""
        return f"{self.architecture}.{suffix}"
