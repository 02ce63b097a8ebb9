"""MLflow's databases: an SQLite file that is made whole or not at all, and checked before any run relies on it."""

import glob
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from laser.errors import UserError
from laser.storage.credentials import masked
from laser.storage.locks import exclusive
from laser.storage.places import check_place
from laser.tracking.mlflow_private import latest_schema, make_tables, table_names

STILL_SECONDS = 10.0
"""A file without all its tables that nobody has written for so long is not being made any more."""
LOCKED_SECONDS = 60.0
"""How long to wait for another process that writes."""

SERVER_LOCKS = {
    "postgresql": "SELECT 1 FROM pg_advisory_lock(465491420530)",
    "mysql": "SELECT GET_LOCK(CONCAT('laser ', MD5(DATABASE())), 86400)",
}
"""Kind of server → what takes the lock under which MLflow makes its tables in a database, and gives a true value."""

_VERSION = "alembic_version"
"""Table that holds the version of the others."""

State = Literal["missing", "whole", "half made", "of another MLflow", "foreign"]
"""foreign: a database of another program. Only a half-made database holds no run."""


@dataclass(frozen=True)
class SQLiteFile:
    """A file that holds an MLflow store."""

    path: Path
    """Absolute, because workers start in other directories."""
    options: str = ""
    """Of the address, such as `timeout=60`."""

    @classmethod
    def named(cls, uri: str) -> "SQLiteFile":
        """Find the file that an address names.

        `sqlite:///<file>` names it as it is written, or percent-encoded where only that exists. An address with the
        name of a driver, as `uri` makes it, is always percent-encoded.
        """
        scheme, _, name = uri.partition(":///")
        folder, slash, file = name.rpartition("/")
        file, _, options = file.partition("?")
        written, decoded = (
            Path(text).expanduser().absolute() for text in (folder + slash + file, unquote(folder + slash + file))
        )
        likely = [path for path in (written, decoded) if path.exists()]
        likely += [path for path in (written, decoded) if path.parent.is_dir()]
        path = decoded if "+" in scheme else (likely or [written])[0]
        return cls(path.resolve() if path.is_symlink() else path, options)

    @property
    def uri(self) -> str:
        """The address by which SQLAlchemy and MLflow find the file, whatever characters its name holds.

        MLflow makes the folder of `sqlite:///` before it decodes the name, and so an empty folder with an encoded name.
        It leaves an address alone that names the driver.
        """
        encoded = str(self.path).replace("%", "%25").replace("?", "%3F")
        scheme = "sqlite" if encoded == str(self.path) else "sqlite+pysqlite"
        return f"{scheme}:///{encoded}" + (f"?{self.options}" if self.options else "")

    @property
    def artifacts(self) -> Path:
        """The folder beside the file for the artifacts of new experiments."""
        return self.path.parent / "mlartifacts"

    def check(self) -> None:
        """Refuse a file that cannot be made, or that is no whole store of this MLflow.

        Raises:
            UserError: says what the file is, and the remedy.
        """
        if not self.path.parent.is_dir():
            raise UserError(f"tracking.uri: {self.path}: no folder {self.path.parent}; make it or set another file")
        state = self._settled_state()
        if state == "half made":
            raise UserError(
                f"tracking.uri: {self.path} was left half made and holds no run; remove this file, and start again"
            )
        if state == "of another MLflow":
            raise UserError(
                f"tracking.uri: {self.path} holds the tables of another MLflow; "
                f"make a copy of it and run: mlflow db upgrade '{self.uri}'"
            )
        if state == "foreign":
            raise UserError(f"tracking.uri: {self.path} holds no MLflow store; name another file")
        if state == "missing":
            check_place(self.path.parent, "tracking.uri")

    def check_writable(self) -> None:
        """Refuse a file that cannot be written.

        Raises:
            UserError: says why.
        """
        if not self.path.exists():
            return  # `check` has tried its folder
        try:
            with closing(self._connect()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise UserError(f"tracking.uri: {self.path}: {error}; let this account write it, or set another") from error

    def make(self) -> None:
        """Make the store unless it is there. Several processes may ask at once, and MLflow's own may be among them.

        MLflow makes its tables in some 60 steps, and two processes that do so at once leave tables that neither can
        use. So the tables are made in a file beside this one, which is then renamed.
        """
        if self._state() != "missing":
            return
        with exclusive(self.path.with_name(f".{self.path.name}.lock")):
            if self._state() != "missing":
                return
            aside = SQLiteFile(self.path.with_name(f".{self.path.name}.writing"))
            for left in self.path.parent.glob(f"{glob.escape(aside.path.name)}*"):
                left.unlink()  # by a killed process
            try:
                make_tables(aside.uri)
                self._take(aside.path)
            finally:
                aside.path.unlink(missing_ok=True)

    def _take(self, whole: Path) -> None:
        """Rename a whole file to this one, unless `mlflow ui` or another program has made it meanwhile."""
        if self.path.exists() and self._state() == "missing":  # it has no tables
            os.replace(whole, self.path)
            return
        try:
            os.link(whole, self.path)
        except FileExistsError:
            self.check()
        except OSError:  # a file system without links
            os.replace(whole, self.path)

    def _settled_state(self) -> State:
        """Return the state; wait while another program is making the file, as `mlflow ui` does in place."""
        while (state := self._state()) == "half made":
            files = [self.path, self.path.with_name(f"{self.path.name}-journal")]
            written = max(file.stat().st_mtime for file in files if file.exists())
            if time.time() - written > STILL_SECONDS:
                break
            time.sleep(0.2)
        return state

    def _state(self) -> State:
        if not self.path.exists() or (self.path.is_file() and not self.path.stat().st_size):
            return "missing"
        try:
            with closing(self._connect()) as connection:
                tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
                if not tables:
                    return "missing"
                runs = "runs" in tables and connection.execute("SELECT count(*) FROM runs").fetchone()[0]
                versions = connection.execute("SELECT * FROM alembic_version").fetchall() if _VERSION in tables else []
        except sqlite3.Error as error:
            raise UserError(f"tracking.uri: {self.path}: {error}; name an SQLite file that can be read") from error
        if versions == [(latest_schema(),)] and tables >= table_names():
            return "whole"
        if tables.isdisjoint(table_names()) and _VERSION not in tables:
            return "foreign"
        return "of another MLflow" if runs else "half made"

    def _connect(self) -> sqlite3.Connection:
        """Open the file that is there; its journal is played back where a killed process has left one."""
        return sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, timeout=LOCKED_SECONDS, isolation_level=None)


@contextmanager
def alone_on_server(uri: str) -> Iterator[None]:
    """Let one process at a time open a store on a server, because MLflow makes the tables of a new one as it opens it.

    The server frees the lock when the connection ends, however that happens. Other stores are opened at once, those of
    SQL Server among them.
    """
    lock = next((lock for kind, lock in SERVER_LOCKS.items() if uri.startswith(kind)), None)
    if lock is None:
        yield
        return
    from sqlalchemy import create_engine, text

    engine = create_engine(uri, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            taken = connection.execute(text(lock)).scalar()
            assert taken, "the server has given the lock"
            yield
    finally:
        engine.dispose()  # the lock belongs to the connection, which would go back into a pool


def check_server(uri: str) -> None:
    """Refuse the address of a database server that takes no connection, or for which a driver is missing.

    Raises:
        UserError: says why.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(uri)
        with engine.connect():
            pass
        engine.dispose()
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = masked(str(error)).splitlines()[0]
        raise UserError(
            f"tracking.uri: {masked(uri)}: {reason}; start the server, install its driver, or set another store"
        ) from error
