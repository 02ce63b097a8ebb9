"""What all jobs share: arguments, `--help`, exit status, and one JSON object as the last line of standard output.

Exit status: 0 done; 1 our failure, with traceback; 2 the user's mistake, one line `error: …`; 130 interrupted.
"""

import json
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from laser.config.compose import _sections, load_config
from laser.config.errors import UserError

C = TypeVar("C", bound=BaseModel)


def run_job(
    main: Callable[[C], Mapping[str, Any]],
    config_class: type[C],
    default: Path | None = None,
    arguments: Sequence[str] | None = None,
    resume_with: str | None = None,
) -> NoReturn:
    """Run a job's `main` and leave the process.

    Args:
        main: takes the configuration, returns the summary. It imports what is heavy itself, so that `--help` stays fast.
        config_class: the schema of the job's configuration.
        default: the YAML file that applies without `config=`.
        arguments: command-line words; those of this process by default.
        resume_with: the setting that resumes an interrupted run of this job, named to who interrupts it.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if any(argument in ("--help", "-h") for argument in arguments):
        print(help_text(sys.modules[main.__module__].__doc__ or "", config_class, default))
        sys.exit(0)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for chatty in ("httpx", "alembic", "mlflow", "ray.tune", "huggingface_hub", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        config = load_config(config_class, arguments, default)
        with summary_only_on_stdout():
            summary = main(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        advice = f"; go on with {resume_with}=true" if resume_with else ""
        print(f"interrupted{advice}", file=sys.stderr)
        sys.exit(130)
    print(json.dumps(summary), flush=True)
    sys.exit(0)


@contextmanager
def summary_only_on_stdout() -> Iterator[None]:
    """Send what libraries and child processes print to standard error, so that standard output ends in the summary alone."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


def help_text(job: str, config_class: type[BaseModel], default: Path | None) -> str:
    """The job's own words, how to call it, and every setting with type, default and meaning."""
    name = Path(sys.argv[0]).name
    lines = [
        job.strip(),
        "",
        f"usage: python jobs/{name} [config=<file.yaml>] [section.key=value ...]",
        f"without config= it reads {default}" if default else "it reads no configuration file by default",
    ]
    lines += _help_lines(config_class, "")
    return "\n".join(lines)


def _help_lines(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        members = _sections(section, name)
        for member in members:
            kind = f" ({member.model_fields['type'].default})" if "type" in member.model_fields else ""
            doc = " ".join((member.__doc__ or "").split())
            yield ""
            yield f"{prefix}{name}{kind}: {doc}"
            yield from _help_lines(member, f"{prefix}{name}.")
        if members:
            continue
        default = "required" if field.default is PydanticUndefined else json.dumps(field.default)
        yield f"  {prefix}{name} = {default}   [{_type_name(field.annotation)}]"
        yield textwrap.fill(
            " ".join((field.description or "").split()), 100, initial_indent=" " * 6, subsequent_indent=" " * 6
        )


def _type_name(annotation: Any) -> str:
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("typing.Literal", "").replace("typing.", "").replace("NoneType", "null").replace("None", "null")
