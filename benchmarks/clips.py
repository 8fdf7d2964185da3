"""The same clips for every system, each as an OGG body and as a WAV body, and the model they are scored with."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import soundfile

from models.bundle import Bundle
from models.errors import EarshotError
from models.weights import Places, find_tagger

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EARSHOT_SHARED") or ROOT.parent / "shared")
SOUNDS = (".ogg", ".wav", ".flac", ".mp3")
FORMATS = ("ogg", "wav")

Bodies = dict[str, list[bytes]]


class Unusable(Exception):
    """Something the run needs is not here; the message is one line and says what to do."""


@dataclass(frozen=True)
class Inputs:
    """What every system gets: bodies by format, and the bundle whose int8 graph scores them."""

    bodies: Bodies
    bundle: Bundle


def load_inputs(clips: Path | None, weights: Path | None, count: int = 40) -> Inputs:
    """The clips and the model. Raises Unusable."""
    return Inputs(load_bodies(clips or _default_clips(), count), load_model(weights))


def _default_clips() -> Path:
    esc10 = SHARED / "data" / "esc10" / "audio"
    return esc10 if esc10.is_dir() else ROOT / "ui" / "samples"


def load_bodies(folder: Path, count: int) -> Bodies:
    """At most `count` sounds, taken evenly from a folder. Raises Unusable."""
    paths = sorted(path for path in folder.glob("*") if path.suffix in SOUNDS)
    if not paths:
        raise Unusable(f"no sounds in {folder}: name a folder with --clips")
    chosen = paths[:: max(1, len(paths) // count)][:count]
    return {kind: [_encode(path, kind) for path in chosen] for kind in FORMATS}


def _encode(path: Path, kind: str) -> bytes:
    if path.suffix == f".{kind}":
        return path.read_bytes()
    samples, sample_rate_hz = soundfile.read(path, dtype="float32")
    stream = io.BytesIO()
    soundfile.write(
        stream, samples, sample_rate_hz, format=kind.upper(), subtype="PCM_16" if kind == "wav" else "VORBIS"
    )
    return stream.getvalue()


def load_model(weights: Path | None) -> Bundle:
    """The tagger from --weights, EARSHOT_WEIGHTS or the shared folder. Raises Unusable."""
    named = os.environ.get("EARSHOT_WEIGHTS")
    folder = Path(named) if named else SHARED / "weights"
    try:
        return find_tagger(Places(explicit=weights, folder=folder, download=False))
    except EarshotError as error:
        reason = str(error).splitlines()[0]
        raise Unusable(f"{reason} Name a folder: --weights FOLDER (or EARSHOT_WEIGHTS=FOLDER)") from error
