"""The files that a job's tasks read besides the sounds: a model found on the driver's machine goes along to nodes that lack it."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.bundle import CARD


def pack_files(paths: Iterable[Path]) -> dict[str, bytes]:
    """Files, and the files of folders, with their content; a model's card last, because a folder with a card is whole."""
    files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file()]
    return {str(file): file.read_bytes() for file in sorted(files, key=lambda file: file.name == CARD)}


def are_here(names: Iterable[str]) -> bool:
    """Is every file on this machine?"""
    return all(Path(name).is_file() for name in names)


def unpack_files(contents: Mapping[str, bytes]) -> None:
    """Writes those that are missing where they were on the driver's machine, each in one step."""
    for name, content in contents.items():
        target = Path(name)
        if target.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
        try:
            with open(handle, "wb") as stream:
                stream.write(content)
            os.chmod(draft, 0o644)
            os.replace(draft, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
