"""Downloads a public data set into a folder that its reader can read: licence beside it, hashes checked, unpacked, resumable.

    FOLDER/LICENCE.txt   under which terms, and how to cite
    FOLDER/SOURCE.json   what came from where and when, with the hash of each file
    FOLDER/downloads/    what is on its way; a file put here by hand is taken as if it had been downloaded

A file whose hash nobody publishes is trusted when it first comes; its hash is then recorded, and must be the same ever after.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import BadOption, JobFailed
from models.storage import open_store, reaching
from pipelines.archives import is_archive, unpack
from pipelines.download import Patience, download
from pipelines.sources import SOURCES, File, Item, Source

if TYPE_CHECKING:
    from rich.progress import Progress

LICENCE, RECORD, DOWNLOADS = "LICENCE.txt", "SOURCE.json", "downloads"
MAX_RATIO = 20  # an archive of sound unpacks to at most this many times its size, and SPARE_BYTES
SPARE_BYTES = 1 << 28


@dataclass(frozen=True)
class Manner:
    """How to fetch: who shows progress, who hears what a person should know, and whether archives stay once they are unpacked."""

    progress: "Progress"
    say: Callable[[str], None]
    keep: bool = False
    patience: Patience = field(default_factory=Patience)


def fetch(name: str, folder: Path, manner: Manner) -> int:
    """Brings the named data set into the folder and gives the number of files that were downloaded: 0 when all is there.

    Says the licence first. A run that was broken off goes on where it was. Raises BadOption (the name, the folder, a set that must be
    got by hand), StoreFailed (network, disk), JobFailed (the address does not give the file, or gives another one).
    """
    source = known(name)
    if not source.items:
        raise BadOption(f"{name} cannot be fetched by a program: {source.by_hand}")
    with reaching(str(folder)):
        visit = Visit(name, source, folder, manner, _read_files(name, folder))
        manner.say(notice(source))
        fetched = sum(visit.bring(item) for item in source.items)
        if visit.downloads.is_dir() and not any(visit.downloads.iterdir()):
            visit.downloads.rmdir()
    if source.by_hand:
        manner.say(source.by_hand)
    return fetched


def known(name: str) -> Source:
    """The table's entry. Raises BadOption naming the entries there are."""
    if name not in SOURCES:
        raise BadOption(f"no data set named {name!r} can be fetched; there are: {', '.join(SOURCES)}")
    return SOURCES[name]


def notice(source: Source) -> str:
    """What a person should know before using the data set."""
    size = f"{source.size_bytes / 1e9:.2f} GB" if source.size_bytes else "not published"
    return (
        f"{source.title}\nfrom     {source.homepage}\nlicence  {source.licence}\n         {source.licence_url}\n"
        f"cite     {source.cite}\nsize     {size}"
    )


@dataclass
class Visit:
    """One run: a source on its way into a folder. `files` is the record of each file that has arrived."""

    name: str
    source: Source
    folder: Path
    manner: Manner
    files: dict[str, dict[str, Any]]

    @property
    def downloads(self) -> Path:
        """Where files are until they are in their place."""
        return self.folder / DOWNLOADS

    def bring(self, item: Item) -> int:
        """One item, from wherever it stands to its place; gives how many files were downloaded."""
        if self.is_here(item):
            return 0
        self.downloads.mkdir(parents=True, exist_ok=True)
        self.write_record()
        parts = [self.downloads / file.name for file in item.files]
        missing = sum(not part.exists() for part in parts)
        entries = {file.name: self.obtain(file) for file in item.files}
        if is_archive(parts[-1].name):
            self.unpack(item, parts)
        else:
            os.replace(parts[0], self.folder / item.gives[0])
        if absent := [path for path in item.gives if not (self.folder / path).exists()]:
            raise JobFailed(f"{parts[-1]}: holds no {absent[0]}. Get the data set from {self.source.homepage} by hand")
        self.files |= entries
        self.write_record()
        if not self.manner.keep:
            for part in parts:
                part.unlink(missing_ok=True)
        return missing

    def is_here(self, item: Item) -> bool:
        """Has the item arrived, and as it is published now? Raises JobFailed for a plain file that was changed since."""
        if any(self.files.get(file.name, {}).get("hash", "") != self.wanted(file) for file in item.files):
            return False
        paths = [self.folder / path for path in item.gives]
        if not all(path.exists() for path in paths):
            return False
        if not is_archive(item.files[-1].name):
            self.check(item.files[-1], paths[0])
        return True

    def obtain(self, file: File) -> dict[str, Any]:
        """Makes downloads/FILE the expected file; gives what the record will say of it."""
        target = self.downloads / file.name
        arrived = target
        if not target.exists():
            arrived = target.with_name(f"{file.name}.part")
            advice = f"or put {file.name} from {file.url} into {self.downloads} by hand"
            download(file.url, arrived, self.manner.progress, self.manner.patience, advice)
            arrived.with_name(f"{arrived.name}.tag").unlink(missing_ok=True)
        seen = self.check(file, arrived)
        os.replace(arrived, target)
        published = file.hash is not None
        entry = {"url": file.url, "hash": seen, "hash_published": published, "size_bytes": target.stat().st_size}
        return entry | {"fetched": datetime.now(UTC).isoformat(timespec="seconds")}

    def check(self, file: File, path: Path) -> str:
        """The file's hash. Raises JobFailed when it is not the expected one, and deletes the file if a download brought it."""
        wanted = self.wanted(file)
        kind = wanted.partition(":")[0] or "sha256"
        with path.open("rb") as stream:
            seen = f"{kind}:{hashlib.file_digest(stream, kind).hexdigest()}"
        if not wanted:
            self.manner.say(
                f"{file.name}: nobody publishes its hash; it has {seen}, which is recorded and checked from now on"
            )
        elif seen != wanted:
            done = "Delete it and run the same command again"
            if path.suffix == ".part":
                path.unlink()
                done = "It was deleted: run the same command again"
            raise JobFailed(
                f"{path}: not the expected file ({seen}, expected {wanted}). {done}; if that does not help, "
                f"{self.source.homepage} tells whether there is a new version, which you can get by hand"
            )
        return seen

    def wanted(self, file: File) -> str:
        """The hash that the file must have: the published one, else the one that it first came with, else "" for any."""
        return file.hash or str(self.files.get(file.name, {}).get("hash", ""))

    def unpack(self, item: Item, parts: list[Path]) -> None:
        """Unpacks the item where its reader looks for it."""
        progress = self.manner.progress
        task = progress.add_task(f"unpacking {parts[-1].name}", total=None)
        max_bytes = MAX_RATIO * sum(part.stat().st_size for part in parts) + SPARE_BYTES
        advance = partial(progress.advance, task)
        unpack(parts, self.folder / item.into, strip=item.strip, max_bytes=max_bytes, advance=advance)

    def write_record(self) -> None:
        """LICENCE.txt and SOURCE.json, each in one step."""
        source, store = self.source, open_store(self.folder)
        record = {"name": self.name, "title": source.title, "homepage": source.homepage, "licence": source.licence}
        record |= {"licence_url": source.licence_url, "cite": source.cite}
        text = json.dumps(record | {"files": self.files}, indent=2)
        store.write(LICENCE, f"{notice(source)}\n".encode())
        store.write(RECORD, f"{text}\n".encode())


def _read_files(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """What the record says of each file. Raises BadOption for a folder that holds something else."""
    path = folder / RECORD
    if not path.is_file():
        if folder.is_dir() and any(entry.name != DOWNLOADS and entry.name[0] != "." for entry in folder.iterdir()):
            raise BadOption(f"--root {folder}: holds other files. Name a folder that is empty or not there yet")
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        held, files = str(record["name"]), dict(record["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise JobFailed(
            f"{path}: damaged. Name another folder, or delete this one and run the same command again"
        ) from error
    if held != name:
        raise BadOption(f"--root {folder}: holds {held}. Name another folder for {name}")
    return files
