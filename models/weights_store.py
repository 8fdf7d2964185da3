"""Weights in a store that many machines share (s3://, gs://, file://): copied once into this machine's cache, every hash checked.

A store is laid out like a weights folder: the published files, or a bundle, at its root or in a folder of the weights' name.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from models.bundle import CARD, Card, sha256_of
from models.errors import StoreFailed, WeightsCorrupt
from models.published import TABLE
from models.storage import Store, open_store

COPIES = "from-store"
PIECE_BYTES = 1 << 20

logger = logging.getLogger("earshot")


def copy_weights(address: str, name: str, cache: Path, *, at_root: bool = True) -> Path | None:
    """The folder in the cache with what the store holds under that name, copied there if it is not yet; None where it holds nothing.

    Processes take turns, and each sees whole files only. While the store cannot be reached, the last copy serves. Raises StoreFailed where
    there is none, WeightsCorrupt.
    """
    folder = cache / COPIES / hashlib.sha256(address.encode()).hexdigest()[:12]
    with _locked(folder / f"{name}.lock"):
        last = folder / f"{name}.last"
        try:
            copied = _copy(open_store(address), name, folder, at_root)
        except StoreFailed:
            if not last.is_file():
                raise
            logger.warning("%s cannot be reached: its last copy of %s serves", address.partition("?")[0], name)
            return folder / last.read_text()
        if copied:
            last.write_text(str(copied.relative_to(folder)))
        return copied


def _copy(store: Store, name: str, target: Path, at_root: bool) -> Path | None:
    for prefix in ("", f"{name}/") if at_root else (f"{name}/",):
        if store.exists(prefix + CARD):
            return _copy_bundle(store, prefix, target, name)
        files = TABLE[name].files if name in TABLE else ()
        if files and all(store.exists(prefix + file.name) for file in files):
            for file in files:
                _copy_file(store, prefix + file.name, target / "published" / name / file.name, file.sha256)
            return target / "published" / name
    return None


def _copy_bundle(store: Store, prefix: str, target: Path, name: str) -> Path:
    """A bundle into a folder of its own card; the card comes last, so that a folder with a card is whole."""
    content = store.read(prefix + CARD)
    card_sha256 = hashlib.sha256(content).hexdigest()
    folder = target / card_sha256[:12] / name
    try:
        card = Card.model_validate_json(content)
    except ValidationError as error:
        raise WeightsCorrupt(
            f"{store.address_of(prefix + CARD)}: not a model's card ({error.errors()[0]['msg']})"
        ) from error
    for file, sha256 in card.files_sha256.items():
        if Path(file).name != file:
            raise WeightsCorrupt(f"{store.address_of(prefix + CARD)}: names {file!r}, which is no file beside it")
        _copy_file(store, prefix + file, folder / file, sha256)
    _copy_file(store, prefix + CARD, folder / CARD, card_sha256)
    return folder


def _copy_file(store: Store, name: str, target: Path, sha256: str) -> None:
    """One file, unless it is there already. `sha256` may be its first digits."""
    if target.is_file() and sha256_of(target).startswith(sha256):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    digest = hashlib.sha256()
    try:
        with open(handle, "wb") as stream, store.open_file(name) as source:
            while piece := source.read(PIECE_BYTES):
                digest.update(piece)
                stream.write(piece)
        if not digest.hexdigest().startswith(sha256):
            raise WeightsCorrupt(
                f"{store.address_of(name)}: SHA-256 is {digest.hexdigest()}, expected {sha256}. Put the right file there"
            )
        os.chmod(draft, 0o644)
        os.replace(draft, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; a process that dies gives the lock back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
