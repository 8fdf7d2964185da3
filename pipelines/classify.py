"""Classifies files one by one, in this process or through a running service. Knows nothing of the terminal."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from cluster.client import EarshotClient
from cluster.settings import Settings
from models.answer import Answer, Options
from models.errors import BadInput, WrongPath
from models.runtime import load_runtime
from models.tagger import Scorer, Tagger
from models.weights import find_head, find_tagger, warn_of_starter

SOUND_SUFFIXES = frozenset(
    [
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".m4a",
        ".aac",
        ".mp4",
        ".webm",
        ".aif",
        ".aiff",
        ".caf",
        ".au",
        ".mka",
        ".3gp",
        ".mov",
    ]
)

Classifier = Callable[[Path | BinaryIO], Answer]


@dataclass(frozen=True)
class Outcome:
    """What became of one file: its answer, or why it was rejected."""

    path: Path
    answer: Answer | None
    reason: str = ""


def is_sound(name: str) -> bool:
    """Does the name end as those of sounds do?"""
    return PurePosixPath(name).suffix.lower() in SOUND_SUFFIXES


def walk_sounds(paths: Iterable[Path]) -> Iterator[Path]:
    """Files as they are named; a folder stands for every sound below it, in order of name."""
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if is_sound(p.name) and p.is_file())
        else:
            yield path


def classify_here(settings: Settings, options: Options) -> Classifier:
    """A classifier in this process. Raises WeightsMissing, WeightsCorrupt."""
    bundle = warn_of_starter(find_tagger(settings.places()))
    head = find_head(settings.head_places(), bundle)
    tagger = Tagger(
        Scorer(bundle, load_runtime(bundle)),
        Scorer(head, load_runtime(head)) if head else None,
        settings.second_opinion_rate,
        settings.unsure_below,
    )
    return lambda sound: tagger.tag(sound, options)


def classify_at(server: str, settings: Settings, options: Options) -> Classifier:
    """A classifier that asks the service at an address."""
    key = settings.api_keys[0].get_secret_value() if settings.api_keys else None
    client = EarshotClient(server, api_key=key)
    query = options.model_dump(exclude_none=True)

    def classify(sound: Path | BinaryIO) -> Answer:
        try:
            audio = sound.read_bytes() if isinstance(sound, Path) else sound.read()
        except OSError as error:
            raise WrongPath(f"{sound}: {error.strerror or error}") from error
        return Answer.model_validate(client.classify(audio, **query))

    return classify


def classify_files(paths: Iterable[Path], classifier: Classifier) -> Iterator[Outcome]:
    """Every file's outcome, in order. Only what is the file's own fault becomes a rejection; all else is raised."""
    for path in paths:
        try:
            yield Outcome(path, classifier(path))
        except BadInput as error:
            yield Outcome(path, None, str(error))
