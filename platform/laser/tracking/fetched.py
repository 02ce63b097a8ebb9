"""The selected checkpoint of a recorded run, fetched into a folder that processes share."""

import os
import shutil
import tempfile
from pathlib import Path

from laser.storage.locks import exclusive
from laser.tracking.interface import StoredRun

CHECKSUMS = "checksums.json"
"""The file by which a checkpoint is known; it holds the hashes of the others."""


def fetched_checkpoint(run: StoredRun, folder: Path) -> Path:
    """Fetch the selected checkpoint of a recorded run into a folder, and return its directory.

    Several processes may ask at once. A run that was resumed since the last call has another checkpoint.
    """
    place = folder / "checkpoint"
    with exclusive(folder.with_name(f"{folder.name}.lock")):
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as aside:
            known = place / CHECKSUMS
            if known.is_file():
                now = run.fetch(f"checkpoint/{CHECKSUMS}", Path(aside) / "now")
                if known.read_bytes() == now.read_bytes():
                    return place
            fetched = run.fetch("checkpoint", Path(aside))
            shutil.rmtree(place, ignore_errors=True)
            os.replace(fetched, place)
    return place
