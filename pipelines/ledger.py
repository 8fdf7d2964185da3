"""What a watch has finished, in one SQLite file: it outlives the process, and one process at a time may hold it."""

import contextlib
import hashlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import platformdirs

from models.errors import BadInput, EarshotError, StoreFailed, WrongPath
from models.storage import Entry, Store

State = Literal["done", "rejected"]

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS watch (purpose TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS finished (
        name TEXT PRIMARY KEY, size INTEGER NOT NULL, modified_ns INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('done', 'rejected'))
    ) WITHOUT ROWID""",
)


def purpose_of(source: Store, out: Store) -> str:
    """What a ledger is for: the two addresses, without the credentials that they may hold."""
    return " -> ".join(re.sub("//[^/@]*@", "//", store.address).rstrip("/") for store in (source, out))


def default_ledger(purpose: str) -> Path:
    """Where the ledger of a watch lies unless told otherwise."""
    name = hashlib.sha256(purpose.encode()).hexdigest()[:16]
    return platformdirs.user_state_path("earshot") / "watch" / f"{name}.sqlite"


class Ledger:
    """The last version of each object that was finished. One that is not in it is still queued."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path, self._connection = path, connection
        rows = connection.execute("SELECT name, size, modified_ns FROM finished")
        self._finished = {name: Entry(name, size, modified_ns) for name, size, modified_ns in rows}

    def __contains__(self, version: Entry) -> bool:
        return self._finished.get(version.name) == version

    def record(self, version: Entry, state: State) -> None:
        """The version is finished; on disk when this returns. Raises StoreFailed."""
        with _explaining(self._path):
            self._connection.execute(
                "REPLACE INTO finished VALUES (?, ?, ?, ?)", (version.name, version.size, version.modified_ns, state)
            )
        self._finished[version.name] = version


@contextlib.contextmanager
def open_ledger(path: Path, purpose: str) -> Iterator[Ledger]:
    """The ledger of the watch with this purpose, for this process alone while the block runs.

    Raises BadInput where another process holds it, or it is another watch's; WrongPath where the file cannot be one.
    """
    with _explaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    with contextlib.closing(connection):
        with _explaining(path):
            _prepare(connection)
            _check_purpose(connection, path, purpose)
            ledger = Ledger(path, connection)
        yield ledger


def _prepare(connection: sqlite3.Connection) -> None:
    """Makes the tables, and takes the file's lock, which SQLite then keeps until the connection ends, however it ends."""
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    for statement in SCHEMA:
        connection.execute(statement)
    connection.execute("COMMIT")


def _check_purpose(connection: sqlite3.Connection, path: Path, purpose: str) -> None:
    row = connection.execute("SELECT purpose FROM watch").fetchone()
    if row is None:
        connection.execute("INSERT INTO watch VALUES (?)", (purpose,))
    elif row[0] != purpose:
        raise BadInput(f"{path} is the ledger of another watch ({row[0]}): name another with --ledger")


@contextlib.contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """What SQLite raises while the block runs becomes one of Earshot's errors, naming the file and the next step."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    except OSError as error:
        raise WrongPath(f"{error.filename or path}: {error.strerror or error}") from error


def _explained(path: Path, error: sqlite3.Error) -> EarshotError:
    match (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF:  # the rest are finer grades of the same
        case sqlite3.SQLITE_BUSY:
            return BadInput(f"another watch holds the ledger {path}: stop that one, or name another with --ledger")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return WrongPath(f"{path} cannot be a ledger ({error}): name another with --ledger")
    return StoreFailed(f"the ledger {path} cannot be written: {error}. Free space, or name another with --ledger")
