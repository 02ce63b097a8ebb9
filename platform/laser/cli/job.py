"""The frame of every job: arguments, `--help`, exit status, and one JSON object as the last line of standard output.

The exit status is 0 when the job is done, 1 after a failure of ours (with a traceback) or of all that the job has run
(with its summary), 2 after a mistake of the user's (with one line `error: …`), and 130 after an interruption.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

from pydantic import BaseModel

from laser.cli.help import help_text
from laser.cli.quiet import quieten
from laser.cli.unused import unused_line
from laser.config.compose import load_config
from laser.errors import UserError
from laser.storage.credentials import masked

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=BaseModel)


class AllFailedError(Exception):
    """The job did its part, but all that it has run failed. The summary is shown in spite of it."""

    def __init__(self, message: str, summary: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.summary = summary


def run_job(
    main: Callable[[C], Mapping[str, Any]],
    config_class: type[C],
    default: Path | None = None,
    arguments: Sequence[str] | None = None,
    resume_with: str | None = None,
) -> NoReturn:
    """Run a job's `main` and end the process.

    Args:
        main: takes the configuration and returns the summary. It imports heavy packages itself, so that `--help`
            stays fast.
        config_class: the schema of the job's configuration.
        default: the YAML file that is read without `config=`, relative to the folder above the job's.
        arguments: command-line words; those of this process by default.
        resume_with: the setting that resumes an interrupted run of this job; the message on an interruption names it.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # as Python does for sys.stderr
    if any(argument in ("--help", "-h") for argument in arguments):
        print(help_text(sys.modules[main.__module__].__doc__ or "", config_class, default))
        sys.exit(0)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    quieten()
    for chatty in ("httpx", "alembic", "mlflow", "ray.tune", "huggingface_hub", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    let_threads_sleep()
    # `kill` and `ray job stop` then end a job in the same way as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stdout = _stdout_apart()
    try:
        config = load_config(config_class, arguments, default and _project(main) / default)
        unused = unused_line(config)
        if unused is not None:
            logger.warning("%s", masked(unused))
        summary = main(config)
    except UserError as error:
        print(f"error: {masked(str(error))}", file=sys.stderr)
        sys.exit(2)
    except AllFailedError as error:
        print(f"error: {masked(str(error))}", file=sys.stderr)
        print(json.dumps(error.summary), file=stdout, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        advice = f"; resume with {resume_with}=true" if resume_with else ""
        print(f"interrupted{advice}", file=sys.stderr)
        sys.exit(130)
    print(json.dumps(summary), file=stdout, flush=True)
    sys.exit(0)


def let_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait for one another, before torch loads OpenMP.

    Where other processes take turns on the cores, an epoch of SASRec took 17 s with threads that spin and 1.3 s without
    (2 threads, load 6 on 2 cores). The results are the same.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _project(main: Callable[..., Any]) -> Path:
    """Return the folder that holds `jobs/` and `configs/`, wherever the job is started."""
    return Path(sys.modules[main.__module__].__file__ or "").resolve().parents[1]


def _stdout_apart() -> TextIO:
    """Send all that libraries and child processes print to standard error; return the real standard output."""
    sys.stdout.flush()
    real = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return real
