"""Unpacks zip, split zip and tar archives from strangers: only plain files, only below the folder, only so many bytes.

Each file appears whole or not at all. Knows nothing of where archives come from.
"""

import gzip
import io
import os
import stat
import tarfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import IO, Any

from models.errors import JobFailed

TAR = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (".zip", *TAR)
# What zipfile and tarfile raise; RuntimeError and its child NotImplementedError: encrypted, or packed in an unknown way.
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, RuntimeError)
BLOCK_BYTES = 1 << 18


@dataclass(frozen=True)
class Member:
    """One file of an archive; `open` reads it once, before the next member is asked for."""

    name: str
    plain: bool
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Can `unpack` open a file of this name?"""
    return name.endswith(SUFFIXES)


def unpack(
    parts: Sequence[Path],
    folder: Path,
    *,
    strip: bool = False,
    max_bytes: int,
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Unpacks an archive, or the parts of a split zip (the .zip last), into the folder; gives the number of files.

    `strip` drops the top folder of every name. Raises JobFailed for a damaged archive, for one that would write outside of the
    folder, holds links or devices, or more than `max_bytes`; OSError as the disk does.
    """
    archive, count, left = parts[-1], 0, max_bytes
    try:
        for member in _members(parts):
            target = _target(member, archive, folder, strip)
            if target is None:
                continue
            left -= _write(member, target, left, advance)
            if left < 0:
                raise JobFailed(f"{archive}: unpacks to more than {max_bytes:,} bytes, which no data set here does")
            count += 1
    except DAMAGE as error:
        advice = "Delete it and run the same command again"
        if len(parts) > 1:
            advice = f"Unpack it with another program, as `7z x {archive} -o{folder}`"
        raise JobFailed(f"{archive}: cannot be unpacked ({error}). {advice}") from error
    return count


def _target(member: Member, archive: Path, folder: Path, strip: bool) -> Path | None:
    """Where the member goes; None for a folder, and for what lies beside the top folder that is stripped."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise JobFailed(f"{archive}: holds {member.name!r}, which would be written outside of {folder}: do not use it")
    if not member.plain and not member.name.endswith("/"):
        raise JobFailed(f"{archive}: holds {member.name!r}, a link or a device, which no data set needs: do not use it")
    names = path.parts[1:] if strip else path.parts
    return folder.joinpath(*names) if member.plain and names else None


def _write(member: Member, target: Path, max_bytes: int, advance: Callable[[int], None]) -> int:
    """Writes the member and gives its size, or stops above `max_bytes` and leaves no file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    written = 0
    try:
        with member.open() as source, draft.open("wb") as output:
            while written <= max_bytes and (block := source.read(BLOCK_BYTES)):
                written += output.write(block)
                advance(len(block))
        if written <= max_bytes:
            os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return written


def _members(parts: Sequence[Path]) -> Iterator[Member]:
    return _tar_members(parts[0]) if parts[-1].name.endswith(TAR) else _zip_members(parts)


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r|*") as archive:
        for info in archive:
            name = f"{info.name}/" if info.isdir() else info.name
            yield Member(name, info.isfile(), partial(_extract, archive, info))


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    return archive.extractfile(info) or io.BytesIO()  # None is for folders, which nobody opens


def _zip_members(parts: Sequence[Path]) -> Iterator[Member]:
    with io.BufferedReader(Joined(parts)) as joined, zipfile.ZipFile(joined) as archive:
        for info in archive.infolist():
            if len(parts) > 1:
                _count_from_first_part(info, parts)
            plain = not info.is_dir() and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
            yield Member(info.filename, plain, partial(archive.open, info))


def _count_from_first_part(info: zipfile.ZipInfo, parts: Sequence[Path]) -> None:
    """In a split zip a file's place is counted from the start of its part; zipfile takes all for the last part."""
    sizes = [part.stat().st_size for part in parts]
    info.header_offset += sum(sizes[: info.volume]) - sum(sizes[:-1])
    if hasattr(info, "_end_offset"):  # newer zipfile derives it from the places before they are put right
        info._end_offset = None


class Joined(io.RawIOBase):
    """Several files, one after the other, as one seekable stream."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._streams = [part.open("rb", buffering=0) for part in parts]
        self._ends = list(accumulate(part.stat().st_size for part in parts))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._ends[-1]}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        part = bisect_right(self._ends, self._place)
        if part == len(self._ends):
            return 0
        stream = self._streams[part]
        stream.seek(self._place - (self._ends[part - 1] if part else 0))
        count = stream.readinto(buffer) or 0
        self._place += count
        return count

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        super().close()
