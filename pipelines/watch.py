"""Watches a store: every sound that comes is classified once, whatever is killed in between.

An object's version is its name, size and time. It counts as whole when two looks in a row find it the same. It is finished when its
results are written and the ledger says so; a watch that died between the two finds the results, and only records them. What fails for
no fault of the sound stays queued. Knows nothing of the terminal.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow.fs as pafs

from models.answer import Answer
from models.errors import BadInput, EarshotError, OutputMismatch, WrongPath
from models.storage import Entry, Store, reaching
from pipelines.classify import Classifier, is_sound
from pipelines.ledger import Ledger, State
from pipelines.results import Results, draw

LONGEST_PAUSE_S = 60.0
PATIENCE = 5  # failures in a row, after which a watch that is to end gives up


@dataclass(frozen=True)
class Finished:
    """A version that is finished, and what to say of it."""

    name: str
    state: State
    says: str


@dataclass(frozen=True)
class Trouble:
    """A failure that is no sound's fault: the watch goes on trying."""

    error: EarshotError


@dataclass(frozen=True)
class Recovered:
    """The first success after trouble."""


@dataclass
class Watch:
    """The sounds of a source, and what is finished of them. `queued` are the others, as the last look found them."""

    source: Store
    results: Results
    ledger: Ledger
    classify: Classifier
    queued: dict[str, Entry] = field(default_factory=dict)
    _tries: Counter[str] = field(default_factory=Counter)

    def look(self) -> list[Entry]:
        """What is queued and as it was at the last look, least tried first. Raises StoreFailed."""
        sounds = (entry for entry in self.source.list_files() if is_sound(entry.name))
        before, self.queued = self.queued, {entry.name: entry for entry in sounds if entry not in self.ledger}
        resting = [entry for entry in self.queued.values() if before.get(entry.name) == entry]
        return sorted(resting, key=lambda entry: self._tries[entry.name])

    def finish(self, version: Entry) -> Finished | None:
        """Classifies a version, unless its results are there; None where it has changed or gone. Raises any EarshotError."""
        self._tries[version.name] += 1
        state = self.results.find(version)
        finished = Finished(version.name, state, "finished before") if state else self._classify(version)
        if finished:
            self.ledger.record(version, finished.state)
            del self.queued[version.name], self._tries[version.name]
        return finished

    def _classify(self, version: Entry) -> Finished | None:
        """Classifies and writes. A sound that changes while it is read is left for a later look."""
        rejected: BadInput | None = None
        try:
            with self.source.open_sound(version.name) as sound:
                answer = self.classify(sound)
                picture = draw(sound, answer)
        except WrongPath:
            if self.source.exists(version.name):
                raise
            return None
        except BadInput as error:
            rejected = error
        if self.source.size(version.name) != version.size:
            return None
        if rejected:
            self.results.reject(version, rejected)
            return Finished(version.name, "rejected", str(rejected))
        self.results.write(version, answer, picture)
        return Finished(version.name, "done", best_label(answer))


def require_place(source: Store) -> None:
    """Raises WrongPath where the folder, or the bucket, does not exist: an empty one would look the same for ever."""
    is_local = isinstance(source.filesystem, pafs.LocalFileSystem)
    top = source.root if is_local else source.root.partition("/")[0]
    with reaching(source.address):
        kind = source.filesystem.get_file_info(top).type
    if kind != pafs.FileType.Directory:
        raise WrongPath(f"{source.address}: no such {'folder' if is_local else 'bucket'}: make it, or mend the address")


def best_label(answer: Answer) -> str:
    """The first label and its score, for a line."""
    best = answer.labels[0]
    return f"{best.label} {best.score:.1%}"


def keep_watching(
    watch: Watch, stop: threading.Event, every_s: float, *, once: bool = False
) -> Iterator[Finished | Trouble | Recovered]:
    """Looks every `every_s` and finishes what is there, until `stop` is set; with `once` until nothing that rests is left.

    Failures only make the pauses longer, up to a minute. Raises what the first look raises, OutputMismatch, and with `once` the
    fifth failure in a row.
    """
    watch.look()
    failures, pause_s = 0, every_s
    while not stop.wait(pause_s):
        began_s = time.monotonic()
        try:
            resting = watch.look()
            for finished in _finish_some(watch, resting, stop, every_s):
                if failures:
                    yield Recovered()
                failures = 0
                yield finished
        except OutputMismatch:
            raise
        except EarshotError as error:
            failures += 1
            if once and failures == PATIENCE:
                raise
            if failures == 1:
                yield Trouble(error)
            pause_s = min(every_s * 2**failures, max(every_s, LONGEST_PAUSE_S))
            continue
        if failures:
            yield Recovered()
        if once and not resting:
            return
        failures, pause_s = 0, max(0.0, began_s + every_s - time.monotonic())


def _finish_some(watch: Watch, resting: list[Entry], stop: threading.Event, enough_s: float) -> Iterator[Finished]:
    """Finishes versions until `enough_s` have passed: then it is time for a new look at what they are."""
    began_s = time.monotonic()
    for version in resting:
        if finished := watch.finish(version):
            yield finished
        if stop.is_set() or time.monotonic() - began_s >= enough_s:
            return
