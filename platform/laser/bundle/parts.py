"""One compressed archive, written as parts of at most a given size, each with its hash.

A part is a cut of the archive's bytes and means nothing alone. Cutting by bytes makes every part but the last as large
as it may be, also where one file is larger than a part.
"""

import gzip
import hashlib
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

LEVEL = 1
"""Of gzip. SmolLM2 in bf16 (269 MB) takes 173 MB by xz in three minutes, and some 200 MB by a fast method in 15 s."""


class Entry(NamedTuple):
    """A file and its name in the archive."""

    name: str
    path: Path


@dataclass(frozen=True)
class Part:
    """One part as the manifest names it."""

    name: str
    bytes: int
    sha256: str


def write_parts(entries: Iterable[Entry], folder: Path, part_bytes: int) -> list[Part]:
    """Write the archive of some files into a folder, as `part-001`, `part-002`, …"""
    writer = _Parts(folder, part_bytes)
    with gzip.GzipFile(fileobj=writer, mode="wb", compresslevel=LEVEL, mtime=0) as packed:  # type: ignore[arg-type]
        with tarfile.open(fileobj=packed, mode="w|") as archive:
            for entry in entries:
                archive.add(entry.path, entry.name, recursive=False, filter=_without_owner)
    writer.close()
    return writer.parts


def _without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode |= 0o644
    return member


class _Parts:
    """A file to write to, which begins a new part whenever one is full."""

    def __init__(self, folder: Path, part_bytes: int) -> None:
        self.folder, self.part_bytes, self.parts = folder, part_bytes, list[Part]()
        self.file: BinaryIO | None = None
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, content: bytes | memoryview) -> int:
        rest = memoryview(content).cast("B")
        while len(rest):
            if self.file is None:
                self.file = (self.folder / self.name).open("wb")
                self.digest, self.size = hashlib.sha256(), 0
            piece = rest[: self.part_bytes - self.size]
            self.file.write(piece)
            self.digest.update(piece)
            self.size += len(piece)
            rest = rest[len(piece) :]
            if self.size == self.part_bytes:
                self.close()
        return len(memoryview(content).cast("B"))

    def flush(self) -> None:
        if self.file is not None:
            self.file.flush()

    @property
    def name(self) -> str:
        return f"part-{len(self.parts) + 1:03}"

    def close(self) -> None:
        """End the part that is being written."""
        if self.file is not None:
            self.file.close()
            self.file = None
            self.parts.append(Part(f"part-{len(self.parts) + 1:03}", self.size, self.digest.hexdigest()))
