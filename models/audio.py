"""Decodes sound: bytes, a path or a file object -> mono float32 waveform, at 16 kHz unless told, in blocks. The only place that decodes.

soundfile (libsndfile) reads WAV, FLAC, OGG Vorbis, OGG Opus, MP3, AIFF; PyAV (FFmpeg) reads M4A, AAC, MP4, WebM. Memory does not grow
with the length of the sound. Knows nothing of frames, networks, HTTP or settings.
"""

import io
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import av
import av.error
import numpy as np
import soundfile
import soxr

from models.errors import (
    AudioEmpty,
    AudioNotFinite,
    AudioTooLong,
    AudioTooShort,
    AudioUndecodable,
    AudioUnsupported,
    EarshotError,
    WrongPath,
)
from models.frontend import SAMPLE_RATE_HZ, FloatArray

AudioSource = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO

MIN_SAMPLE_RATE_HZ = 4_000
MAX_SAMPLE_RATE_HZ = 192_000
MAX_CHANNELS = 8
MAX_LEVEL = 1e6  # times full scale: beyond this the samples are no sound, and squares overflow
BLOCK_FRAMES = 1 << 17  # sample frames decoded at a time: 3 s at 44.1 kHz
CAREFUL_FRAMES = 1 << 10  # and from the start of a block that fails, so that little before the fault is lost
WARM_UP_S = (
    0.2  # read beyond a part's start, so that the resampler rings as within the whole; whole frames at any usual rate
)
FORMATS = "WAV, FLAC, OGG (Vorbis, Opus), MP3, M4A/AAC, MP4 or WebM"

# What FFmpeg may open. Playlists and other formats that name further files stay out.
AV_OPTIONS = {"format_whitelist": "mov,mp4,m4a,3gp,matroska,webm,aac", "protocol_whitelist": ""}

UNKNOWN_FRAMES = (1 << 63) - 1  # libsndfile's length of a FLAC that was written to a pipe
# What libsndfile writes into its log about a file that is damaged, or ends before its container says.
TRUNCATION_SIGNS = (
    "Corrupted bitstream",
    "Last page lacks an end-of-stream bit",
    "without an End-Of-Stream flag",
    "Junk after the last page",
)
CUTTABLE = frozenset(
    ["WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF", "OGG"]
)  # libsndfile finds any sample of these at once
STREAMED_WAV_SIZES = (0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF)  # placeholders of programs that write WAV to a pipe


@dataclass(frozen=True)
class Limits:
    """How much sound one input may hold; None is no limit.

    `max_duration_s` bounds the sound, `max_samples` (frames x channels) the work of decoding it, whatever the header claims.
    """

    max_duration_s: float | None = None
    max_samples: int | None = None


NO_LIMITS = Limits()


@dataclass
class AudioReader:
    """One opened sound, or the part of it from `start_s` to `end_s`. `blocks()` gives its waveform once.

    Then `duration_s` (of the part) and `warnings` are final. Raises AudioEmpty, AudioUndecodable, AudioUnsupported, AudioTooLong,
    AudioTooShort, AudioNotFinite, WrongPath, on opening or while reading.
    """

    source: AudioSource
    limits: Limits = NO_LIMITS
    sample_rate_hz: int = SAMPLE_RATE_HZ
    start_s: float = 0.0
    end_s: float | None = None
    warnings: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    def blocks(self) -> Iterator[FloatArray]:
        """The waveform, mono at `sample_rate_hz`, in blocks [n] that are not empty (a very short sound may give one empty block)."""
        from_s = max(0, math.floor(self.start_s / WARM_UP_S) - 1) * WARM_UP_S
        lead_s = self.start_s - from_s
        wanted = None if self.end_s is None else round((self.end_s - self.start_s) * self.sample_rate_hz)
        yield from _cut(self._resampled(from_s, lead_s), round(lead_s * self.sample_rate_hz), wanted)

    def _resampled(self, from_s: float, lead_s: float) -> Iterator[FloatArray]:
        """The waveform from `from_s` on, `lead_s` before the part begins, at the wanted rate."""
        source_rate_hz, channel_blocks = _open(self.source, self.limits, self.warnings, from_s)
        resampler = soxr.ResampleStream(source_rate_hz, self.sample_rate_hz, 1, "float32", "HQ")
        longest_s = math.inf if self.end_s is None else self.end_s - self.start_s
        frames = 0
        for block in channel_blocks:
            frames += len(block)
            self.duration_s = min(max(frames / source_rate_hz - lead_s, 0.0), longest_s)
            self._check_amount(frames, block.shape[1])
            mono = _average_channels(block)
            _check_samples(mono, from_s + (frames - len(block)) / source_rate_hz, len(block) / source_rate_hz)
            resampled = mono if source_rate_hz == self.sample_rate_hz else resampler.resample_chunk(mono)
            if len(resampled):
                yield resampled
        if not frames and not from_s:
            raise AudioUndecodable("the file holds no samples (only a header, or none that can be decoded)")
        if self.start_s and not self.duration_s:
            raise AudioTooShort(f"the sound ends before {self.start_s:g} s, where the wanted part begins")
        if source_rate_hz != self.sample_rate_hz:
            yield resampler.resample_chunk(np.empty(0, np.float32), last=True)

    def _check_amount(self, frames: int, channels: int) -> None:
        limit = self.limits
        if limit.max_duration_s is not None and self.duration_s > limit.max_duration_s:
            raise _too_long(limit.max_duration_s)
        if limit.max_samples is not None and frames * channels > limit.max_samples:
            raise AudioTooLong(
                f"more than {limit.max_samples:,} samples in all channels: send fewer channels, a lower sample rate or shorter pieces"
            )


def _cut(blocks: Iterator[FloatArray], skip: int, wanted: int | None) -> Iterator[FloatArray]:
    """Blocks [n] without their first `skip` samples, and of the rest the first `wanted` (all, by default)."""
    for block in blocks:
        kept = block[skip:]
        skip = max(0, skip - len(block))
        if wanted is not None:
            kept = kept[:wanted]
            wanted -= len(kept)
        if len(kept) or not len(block):
            yield kept
        if wanted == 0:
            return


@dataclass(frozen=True)
class Probe:
    """What a sound's header says. `duration_s` is None where only decoding tells; `cuttable`: any part of it is found at once."""

    duration_s: float | None
    sample_rate_hz: int
    channels: int
    cuttable: bool


def probe(source: AudioSource) -> Probe:
    """A sound's header, without decoding a sample. Raises AudioEmpty, AudioUndecodable, AudioUnsupported, WrongPath."""
    stream, close = _as_stream(source)
    try:
        with _SoundFile(stream) as sound:
            known = 0 < sound.frames < UNKNOWN_FRAMES
            _check_header(sound.samplerate, sound.channels, 0, NO_LIMITS)
            duration_s = sound.frames / sound.samplerate if known else None
            return Probe(duration_s, sound.samplerate, sound.channels, known and sound.format in CUTTABLE)
    except soundfile.LibsndfileError as error:
        stream.seek(0)
        container, track, claimed_s = _open_container(stream, error)
        context = track.codec_context
        with container:
            return Probe(claimed_s or None, context.sample_rate, context.channels, cuttable=False)
    finally:
        close()


@dataclass(frozen=True)
class Waveform:
    """A whole sound: samples [T] at 16 kHz, the source's duration, and what was odd about it."""

    samples: FloatArray
    duration_s: float
    warnings: tuple[str, ...]


def load_audio(source: AudioSource, limits: Limits = NO_LIMITS) -> Waveform:
    """Bytes, a path or a file object -> the whole waveform [T], mono float32 at 16 kHz. Raises as AudioReader."""
    reader = AudioReader(source, limits)
    samples = np.concatenate(list(reader.blocks()))
    return Waveform(samples, reader.duration_s, tuple(reader.warnings))


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """soundfile's, but it only ever reads on: its seek after each block fails where a header claims another length."""

    def seekable(self) -> bool:
        return False


def _open(
    source: AudioSource, limits: Limits, warnings: list[str], from_s: float = 0.0
) -> tuple[int, Iterator[FloatArray]]:
    """The source's sample rate and its sample frames from `from_s` on, in blocks [n, channels]."""
    stream, close = _as_stream(source)
    try:
        sound = _SoundFile(stream)
    except soundfile.LibsndfileError as error:
        stream.seek(0)
        rate_hz, blocks = _open_av(stream, close, limits, warnings, first_error=error)
        return rate_hz, _skip(blocks, round(from_s * rate_hz))
    known = sound.frames if sound.frames < UNKNOWN_FRAMES else 0
    try:
        _check_header(sound.samplerate, sound.channels, 0 if from_s else known, limits)
    except EarshotError:
        close()
        raise
    first = round(from_s * sound.samplerate)
    if 0 < first <= known and sound.format in CUTTABLE:
        try:
            sound.seek(first)
            return sound.samplerate, _read_soundfile(sound, stream, close, warnings, first)
        except soundfile.LibsndfileError:  # damaged: only reading from the start finds the place
            stream.seek(0)
            sound = _SoundFile(stream)
    return sound.samplerate, _skip(_read_soundfile(sound, stream, close, warnings), first)


def _skip(blocks: Iterator[FloatArray], first: int) -> Iterator[FloatArray]:
    """Blocks [n, channels] without their first sample frames; they are decoded all the same."""
    for block in blocks:
        if len(block) > first:
            yield block[first:]
        first = max(0, first - len(block))


def _as_stream(source: AudioSource) -> tuple[BinaryIO, Callable[[], None]]:
    """A seekable stream over the source, and what closes it (nothing, for a stream that is the caller's)."""
    if isinstance(source, (str, os.PathLike)):
        try:
            stream: BinaryIO = os.fdopen(os.open(source, os.O_RDONLY), "rb")  # without a name: its content decides
        except OSError as error:
            raise WrongPath(f"{source}: {error.strerror or error}") from error
        if not stream.seekable():
            stream.close()
            raise WrongPath(f"{source}: a pipe cannot be read twice: save it to a file first")
        if not os.fstat(stream.fileno()).st_size:
            stream.close()
            raise AudioEmpty("the file is empty (0 bytes)")
        return stream, stream.close
    if isinstance(source, (bytes, bytearray, memoryview)):
        if not len(source):
            raise AudioEmpty("no bytes were sent: put the sound in the body")
        return io.BytesIO(source), lambda: None
    if not source.seek(0, os.SEEK_END):
        raise AudioEmpty("the file is empty (0 bytes)")
    source.seek(0)
    return source, lambda: None


def _check_header(sample_rate_hz: int, channels: int, frames: int, limits: Limits) -> None:
    """Refuses, before a sample is decoded, what the header alone rules out."""
    if not MIN_SAMPLE_RATE_HZ <= sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
        raise AudioUnsupported(
            f"a sample rate of {sample_rate_hz} Hz: supported are {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ} Hz"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioUnsupported(f"{channels} channels: supported are 1 to {MAX_CHANNELS}; mix them down first")
    if limits.max_duration_s is not None and frames / sample_rate_hz > limits.max_duration_s:
        raise _too_long(limits.max_duration_s)


def _too_long(max_duration_s: float) -> AudioTooLong:
    return AudioTooLong(
        f"longer than the limit of {max_duration_s:g} s: send it in pieces, or classify it from the command line, which has no limit"
    )


def _average_channels(block: FloatArray) -> FloatArray:
    return block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)


def _check_samples(mono: FloatArray, start_s: float, length_s: float) -> None:
    if len(mono) and not (mono.max() <= MAX_LEVEL and mono.min() >= -MAX_LEVEL):  # NaN fails every comparison
        raise AudioNotFinite(
            f"samples that are NaN, infinite or absurdly large, between {start_s:.1f} s and {start_s + length_s:.1f} s: "
            "repair or re-export the file"
        )


def _read_soundfile(
    sound: soundfile.SoundFile, stream: BinaryIO, close: Callable[[], None], warnings: list[str], first: int = 0
) -> Iterator[FloatArray]:
    """Sample frames in blocks [n, channels], from the first on; a file that ends early gives what it has and a warning."""
    frames, fault = first, ""
    try:
        for size in (BLOCK_FRAMES, CAREFUL_FRAMES):
            try:
                if fault:  # from the start again, without a seek: a damaged file does not survive one
                    stream.seek(0)
                    sound = _SoundFile(stream)
                    for position in range(0, frames, BLOCK_FRAMES):
                        sound.read(min(BLOCK_FRAMES, frames - position), dtype="float32")
                while len(block := sound.read(min(size, sound.frames - frames), dtype="float32", always_2d=True)):
                    frames += len(block)
                    yield block
                break
            except soundfile.LibsndfileError as error:
                fault = fault or error.error_string
        if fault and not frames:
            raise AudioUndecodable(f"damaged from its first samples on: {fault}")
        if fault or frames < sound.frames < UNKNOWN_FRAMES or _looks_truncated(sound.extra_info):
            warnings.append(_truncated(frames / sound.samplerate, fault))
    finally:
        sound.close()
        close()


def _looks_truncated(log: str) -> bool:
    """Does libsndfile's log say that the container ends before its own end?"""
    if any(sign in log for sign in TRUNCATION_SIGNS):
        return True
    for line in log.splitlines():
        claimed, _, actual = line.removeprefix("data : ").partition(" (should be ")
        if line.startswith("data : ") and actual and claimed.isdigit():
            return int(claimed) not in STREAMED_WAV_SIZES and int(claimed) > int(actual.rstrip(")"))
    return False


def _truncated(heard_s: float, fault: str) -> str:
    reason = f" ({fault.removeprefix('Error : ').rstrip('.')})" if fault else ""
    return f"truncated: the file ends early{reason}; the answer covers the {heard_s:.2f} s that could be decoded"


def _open_av(
    stream: BinaryIO, close: Callable[[], None], limits: Limits, warnings: list[str], first_error: Exception
) -> tuple[int, Iterator[FloatArray]]:
    """As _open, through FFmpeg, for what libsndfile does not know."""
    try:
        container, track, claimed_s = _open_container(stream, first_error)
    except EarshotError:
        close()
        raise
    sample_rate_hz, channels = track.codec_context.sample_rate, track.codec_context.channels
    try:
        _check_header(sample_rate_hz, channels, int(claimed_s * sample_rate_hz), limits)
    except EarshotError:
        container.close()
        close()
        raise
    return sample_rate_hz, _read_av(container, sample_rate_hz, claimed_s, close, warnings)


def _open_container(
    stream: BinaryIO, first_error: Exception
) -> tuple[av.container.InputContainer, av.audio.stream.AudioStream, float]:
    """FFmpeg's view of a stream: the container, its first audio track, and the seconds that it claims to hold (0: it does not say)."""
    try:
        container = av.open(stream, "r", options=AV_OPTIONS, metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError, OSError, EOFError) as error:
        raise AudioUndecodable(f"not a sound that can be decoded: send {FORMATS}") from (error or first_error)
    if not container.streams.audio:
        container.close()
        raise AudioUndecodable("the file has no audio track")
    track = container.streams.audio[0]
    claimed_s = float(track.duration * track.time_base) if track.duration and track.time_base else 0.0
    return container, track, claimed_s or (container.duration or 0) / av.time_base


def _read_av(
    container: av.container.InputContainer,
    sample_rate_hz: int,
    claimed_s: float,
    close: Callable[[], None],
    warnings: list[str],
) -> Iterator[FloatArray]:
    """Sample frames in blocks [n, channels] of the first audio track."""
    convert = av.AudioResampler(format="fltp")
    frames, fault = 0, ""
    try:
        for decoded in container.decode(audio=0):
            for piece in convert.resample(decoded):
                block = piece.to_ndarray().T.astype(np.float32, copy=False)
                frames += len(block)
                yield block
    except (av.error.FFmpegError, ValueError) as error:
        fault = getattr(error, "strerror", None) or str(error)
        if not frames:
            raise AudioUndecodable(f"not a sound that can be decoded: {fault}") from error
    finally:
        container.close()
        close()
    if frames and (fault or frames / sample_rate_hz < claimed_s - 0.2):
        warnings.append(_truncated(frames / sample_rate_hz, fault))
