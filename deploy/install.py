"""Run a long installation quietly: show how far it is, keep all that it says in a file, and repeat it if it fails.

    python deploy/install.py <log file> <command ...>

It needs no package, because it runs before there are any.
"""

import subprocess
import sys
import time
from pathlib import Path

SHOWN_LINES = 30
"""Lines of the log that are repeated after a failure."""
LINE_SECONDS = 15.0
"""Between two lines of progress where there is no terminal."""
STEPS = {"Collecting ": "packages chosen", "Downloading ": "downloaded", "Using cached ": "from pip's cache"}
"""What a line of pip's begins with → what it counts as."""


def main() -> int:
    """Run the command and return its exit status."""
    log, command = Path(sys.argv[1]), sys.argv[2:]
    counts = dict.fromkeys(STEPS.values(), 0)
    phase, next_line, terminal = "installs", time.monotonic() + LINE_SECONDS, sys.stderr.isatty()
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            for beginning, name in STEPS.items():
                counts[name] += line.lstrip().startswith(beginning)
            phase = "installs the packages" if line.startswith("Installing collected") else phase
            if terminal or time.monotonic() >= next_line:
                next_line = time.monotonic() + LINE_SECONDS
                said = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
                sys.stderr.write(f"\r\x1b[2K{phase}: {said}" if terminal else f"{phase}: {said}\n")
                sys.stderr.flush()
    if terminal:
        sys.stderr.write("\r\x1b[2K")
    if process.returncode:
        sys.stderr.write("".join(log.read_text(encoding="utf-8").splitlines(keepends=True)[-SHOWN_LINES:]))
        sys.stderr.write(f"error: the installation failed; all that it said is in {log}\n")
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
