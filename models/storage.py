"""Files on any filesystem that pyarrow reads: a local folder, s3://, gs://. Reads, lists, and writes whole or not at all.

An S3 server of your own is named in the address, `s3://bucket/prefix?endpoint_override=127.0.0.1:9000&scheme=http`, or by the
variable AWS_ENDPOINT_URL. Knows nothing of what the files hold.
"""

import contextlib
import errno
import io
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.fs as pafs

from models.errors import EarshotError, StoreFailed, WrongPath

FULL = (errno.ENOSPC, errno.EDQUOT)
DRAFT = ".draft"
RANGE_BYTES = 1 << 20  # read at a time: each read of a remote file is a request


@dataclass(frozen=True)
class Entry:
    """One file of a store: its path below the store's root, its size in bytes and when it was last written."""

    name: str
    size: int
    modified_ns: int


@dataclass(frozen=True)
class Store:
    """A folder on some filesystem. Names are relative to it, with forward slashes; an absolute one leaves it."""

    filesystem: pafs.FileSystem
    root: str
    address: str

    def path_of(self, name: str) -> str:
        """The name as the filesystem wants it."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def address_of(self, name: str) -> str:
        """The name as a person would write it, and `open_file` reads it."""
        base, question, query = self.address.partition("?")
        return f"{base.rstrip('/')}/{name}{question}{query}"

    def exists(self, name: str = "") -> bool:
        """Is there a file or a folder of this name?"""
        with reaching(self.address):
            return bool(self.filesystem.get_file_info(self.path_of(name)).type != pafs.FileType.NotFound)

    def list_files(self, name: str = "") -> list[Entry]:
        """Every file below the folder, in order of name; none where there is no such folder. Hidden files (.x) are left out."""
        with reaching(self.address):
            selector = pafs.FileSelector(self.path_of(name), allow_not_found=True, recursive=True)
            found = self.filesystem.get_file_info(selector)
            start = len(self.root.rstrip("/")) + 1
            files = [Entry(f.path[start:], f.size, f.mtime_ns or 0) for f in found if f.type == pafs.FileType.File]
        return sorted((f for f in files if not f.name.rsplit("/", 1)[-1].startswith(".")), key=lambda f: f.name)

    def open_file(self, name: str) -> BinaryIO:
        """A seekable stream over the file. Raises WrongPath where there is none."""
        with reaching(self.address_of(name)):
            return cast(BinaryIO, self.filesystem.open_input_file(self.path_of(name)))

    @contextlib.contextmanager
    def open_sound(self, path: str) -> Iterator[BinaryIO]:
        """A stream for a decoder, over a path as tables hold it: below the store's root, or absolute, or an address.

        Decoders take a read that fails for the sound's end; so whatever the block made of it, StoreFailed is raised at its end.
        """
        store, name = open_beside(path) if "://" in path or path.startswith("/") else (self, path)
        with store.open_file(name) as stream:
            ranges = _Ranges(stream)
            try:
                yield cast(BinaryIO, io.BufferedReader(ranges, RANGE_BYTES))
            finally:
                if ranges.fault is not None:
                    with reaching(store.address_of(name)):
                        raise ranges.fault

    def size(self, name: str) -> int:
        """The file's size in bytes; 0 where there is none."""
        with reaching(self.address_of(name)):
            return int(self.filesystem.get_file_info(self.path_of(name)).size or 0)

    def read(self, name: str) -> bytes:
        """The file's bytes. Raises WrongPath where there is none."""
        with self.open_file(name) as stream, reaching(self.address_of(name)):
            return stream.read()

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Writes the file in one step: a reader sees all of it or nothing."""
        with self.create(name) as stream:
            stream.write(content)

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A stream into a new file, which appears under its name when the block ends well, and not at all when it fails."""
        path = self.path_of(name)
        folder, _, base = path.rpartition("/")
        draft = path
        with reaching(self.address_of(name)):
            if isinstance(
                self.filesystem, pafs.LocalFileSystem
            ):  # elsewhere an object appears when its stream is closed
                self.filesystem.create_dir(folder, recursive=True)
                draft = f"{folder}/.{base}-{uuid.uuid4().hex[:8]}{DRAFT}"
            try:
                with self.filesystem.open_output_stream(draft) as stream:
                    yield stream
                if draft != path:
                    self.filesystem.move(draft, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.filesystem.delete_file(draft)
                raise

    def sweep(self) -> None:
        """Deletes the drafts that a killed process left behind."""
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            for draft in Path(self.root).rglob(f".*{DRAFT}"):
                draft.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Deletes the file, or the folder with all below it; nothing where there is none."""
        path = self.path_of(name)
        with reaching(self.address_of(name)):
            kind = self.filesystem.get_file_info(path).type
            if kind == pafs.FileType.Directory:
                self.filesystem.delete_dir(path)
            elif kind == pafs.FileType.File:
                self.filesystem.delete_file(path)


class _Ranges(io.RawIOBase):
    """A file that is read in large ranges; it keeps the first failure to read."""

    def __init__(self, stream: BinaryIO) -> None:
        self.fault: OSError | None = None
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        try:
            content = self._stream.read(len(buffer))
        except OSError as error:  # to raise it here would only make the decoder print it
            self.fault = self.fault or error
            return 0
        buffer[: len(content)] = content
        return len(content)


def open_store(address: str | os.PathLike[str]) -> Store:
    """A local path, s3://bucket/prefix or gs://bucket/prefix -> the store. Raises WrongPath for any other address."""
    text = os.fspath(address)
    if "://" not in text:
        local = str(Path(text).expanduser().absolute())
        return Store(pafs.LocalFileSystem(), local, local)
    try:
        filesystem, root = pafs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise WrongPath(f"{text}: {error}. Name a local folder, s3://bucket/prefix or gs://bucket/prefix") from error
    if not root:
        raise WrongPath(f"{text}: no bucket is named")
    return Store(filesystem, root, text)


def open_beside(address: str) -> tuple[Store, str]:
    """The address of one file -> the store of its folder, and its name there."""
    base, question, query = address.partition("?") if "://" in address else (address, "", "")
    folder, _, name = base.rpartition("/")
    if not name:
        raise WrongPath(f"{address}: names a folder, not a file")
    return open_store(f"{folder or ('.' if not base.startswith('/') else '/')}{question}{query}"), name


@contextlib.contextmanager
def reaching(address: str) -> Iterator[None]:
    """What a filesystem raises while the block runs becomes WrongPath or StoreFailed, naming the address and the next step."""
    try:
        yield
    except EarshotError:
        raise
    except FileNotFoundError as error:
        raise WrongPath(f"{address}: no such file") from error
    except UnicodeDecodeError as error:
        raise WrongPath(f"{address}: the name {error.object!r} there is not UTF-8: rename that file") from error
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise WrongPath(f"{address}: {error.strerror or error}") from error
    except OSError as error:
        if error.errno in FULL:
            raise StoreFailed(
                f"{address}: no space left. Free some, and run the same command again: it goes on from here"
            ) from error
        raise StoreFailed(
            f"{address} cannot be reached or written: {_first_line(error)}. "
            "Check address, network and credentials, and run the same command again"
        ) from error


def _first_line(error: Any) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
