"""Decoding: every format and way in, what is refused and why, files that end early, and memory that does not grow."""

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soxr

from models.audio import AudioReader, Limits, load_audio, probe
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
from tests.sounds import encode, tone

AV_CODECS = {"ipod": "aac", "adts": "aac", "mp4": "aac", "webm": "libopus"}
SOUNDFILE_SUBTYPES = {
    "WAV u8": ("WAV", "PCM_U8"),
    "WAV 16": ("WAV", "PCM_16"),
    "WAV 24": ("WAV", "PCM_24"),
    "WAV 32": ("WAV", "PCM_32"),
    "WAV float": ("WAV", "FLOAT"),
    "FLAC": ("FLAC", "PCM_16"),
    "OGG Vorbis": ("OGG", "VORBIS"),
    "OGG Opus": ("OGG", "OPUS"),
    "MP3": ("MP3", "MPEG_LAYER_III"),
}
RATE_HZ = 48_000  # one that Opus knows


def encode_av(samples: np.ndarray, container: str, rate_hz: int = RATE_HZ, **options: str) -> bytes:
    """Samples [T] -> a file's bytes, through FFmpeg."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container, options=options) as output:
        track = output.add_stream(AV_CODECS[container], rate=rate_hz, layout="mono")
        context = track.codec_context
        whole = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
        whole.sample_rate, whole.pts = rate_hz, 0
        pieces = av.AudioResampler(context.format.name, "mono", rate_hz, context.frame_size)
        for piece in [*pieces.resample(whole), *pieces.resample(None), None]:
            output.mux(track.encode(piece))
    return stream.getvalue()


def encode_any(name: str, samples: np.ndarray) -> bytes:
    if name in AV_CODECS:
        return encode_av(samples, name)
    return encode(samples, RATE_HZ, *SOUNDFILE_SUBTYPES[name])


def noise(seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * rate_hz)).astype(np.float32)


def loudest_hz(samples: np.ndarray) -> float:
    return np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples)


def flac_claiming(frames: int, samples: np.ndarray) -> bytes:
    """A FLAC file at 16 kHz whose header claims so many frames; 0 is 'unknown', as programs write to a pipe."""
    content = bytearray(encode(samples, 16_000, "FLAC"))
    known = int.from_bytes(content[18:26], "big")
    content[18:26] = (known >> 36 << 36 | frames).to_bytes(8, "big")
    return bytes(content)


def wav_claiming(size: int, samples: np.ndarray) -> bytes:
    """A WAV file at 16 kHz whose header claims so many bytes."""
    content = bytearray(encode(samples))
    content[4:8], content[40:44] = struct.pack("<I", min(size + 36, 0xFFFFFFFF)), struct.pack("<I", size)
    return bytes(content)


@pytest.mark.parametrize("name", [*SOUNDFILE_SUBTYPES, *AV_CODECS])
def test_format_decodes_the_same_from_bytes_path_and_stream(name: str, tmp_path: Path) -> None:
    content = encode_any(name, tone(1000, 2.0, RATE_HZ))
    path = tmp_path / "sound"
    path.write_bytes(content)
    sound = load_audio(content)
    assert sound.warnings == ()
    assert sound.samples.dtype == np.float32
    assert sound.duration_s == pytest.approx(2.0, abs=0.05)  # AAC adds frames before and after
    assert abs(len(sound.samples) - sound.duration_s * 16_000) <= 1
    assert loudest_hz(sound.samples) == pytest.approx(1000, abs=1)
    assert sound.samples[4000:-4000].std() == pytest.approx(0.5 / np.sqrt(2), abs=0.01)
    with path.open("rb") as stream:
        stream.read(3)  # it is read from its start all the same
        for source in (path, str(path), stream, memoryview(content), bytearray(content)):
            np.testing.assert_array_equal(load_audio(source).samples, sound.samples)
        assert not stream.closed


@pytest.mark.parametrize("seconds", [0.01, 1.0, 7.3])
def test_resampling_in_blocks_equals_soxr_in_one_piece(seconds: float) -> None:
    wave = noise(seconds, 44_100)
    ours = load_audio(encode(wave, 44_100, "WAV", "FLOAT")).samples
    np.testing.assert_allclose(ours, soxr.resample(wave, 44_100, 16_000, "HQ"), atol=1e-6)


def test_channels_are_averaged() -> None:
    wave = noise(1.0, 16_000).reshape(-1, 4)
    np.testing.assert_allclose(load_audio(encode(wave, subtype="FLOAT")).samples, wave.mean(axis=1), atol=1e-7)


def test_16_khz_mono_is_left_as_it_is() -> None:
    wave = noise(10.0, 16_000)
    np.testing.assert_array_equal(load_audio(encode(wave, subtype="FLOAT")).samples, wave)


REFUSED = {
    "empty": (b"", AudioEmpty),
    "text": (b"hello world\n" * 1000, AudioUndecodable),
    "random bytes": (np.random.default_rng(0).bytes(20_000), AudioUndecodable),
    "header only": (encode(tone(440))[:44], AudioUndecodable),
    "half a header": (encode(tone(440))[:20], AudioUndecodable),
    "no frames": (encode(tone(440)[:0]), AudioUndecodable),
    "NaN": (encode(np.array([0, np.nan, 0], np.float32), subtype="FLOAT"), AudioNotFinite),
    "Inf": (encode(np.array([0, -np.inf, 0], np.float32), subtype="FLOAT"), AudioNotFinite),
    "late Inf": (encode(np.append(tone(440, 20.0), np.float32(np.inf)), subtype="FLOAT"), AudioNotFinite),
    "2000 Hz": (encode(tone(440), 2_000), AudioUnsupported),
    "250000 Hz": (encode(tone(440), 250_000), AudioUnsupported),
    "9 channels": (encode(np.zeros((100, 9), np.float32)), AudioUnsupported),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sound_is_refused_by_its_kind(name: str, tmp_path: Path) -> None:
    content, kind = REFUSED[name]
    path = tmp_path / "sound"
    path.write_bytes(content)
    for source in (content, path, io.BytesIO(content)):
        with pytest.raises(EarshotError) as refusal:
            load_audio(source)
        assert type(refusal.value) is kind


def test_paths_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.wav"):
        with pytest.raises(WrongPath, match=str(path)):
            load_audio(path)


@pytest.mark.parametrize("rate_hz", [4_000, 192_000])
def test_edges_of_the_supported_range_are_supported(rate_hz: int) -> None:
    assert len(load_audio(encode(np.zeros((rate_hz // 2, 8), np.float32), rate_hz)).samples) == 8_000


@pytest.mark.parametrize("suffix", [".raw", ".mp3", ""])
def test_content_decides_and_not_the_name(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"sound{suffix}"
    path.write_bytes(encode(tone(440)))
    assert load_audio(path).duration_s == 1.0


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n", "ffconcat version 1.0\nfile {}\n"]
)
def test_playlist_does_not_open_local_files(text: str, tmp_path: Path) -> None:
    target, playlist = tmp_path / "private.wav", tmp_path / "list.m3u8"
    target.write_bytes(encode(tone(440)))
    for address in (str(target), f"file://{target}", target.name):
        playlist.write_text(text.format(address))
        for source in (playlist, playlist.read_bytes()):
            with pytest.raises(AudioUndecodable):
                load_audio(source)


@pytest.mark.parametrize("name", [*SOUNDFILE_SUBTYPES, *AV_CODECS])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.02])
def test_truncated_file_gives_an_answer_with_a_warning_or_is_refused(name: str, share: float) -> None:
    content = encode_any(name, noise(6.0))
    try:
        sound = load_audio(content[: int(len(content) * share)])
    except AudioUndecodable:
        assert not name.startswith(("WAV", "FLAC", "MP3", "adts", "webm")) or share == 0.02
        return
    assert 0 < sound.duration_s < 6.0
    assert sound.warnings[0].startswith("truncated: the file ends early")
    assert f"{sound.duration_s:.2f} s" in sound.warnings[0]


@pytest.mark.parametrize("name", ["FLAC", "OGG Vorbis", "OGG Opus", "MP3", "adts"])
def test_damage_in_the_middle_is_told_and_the_sound_before_it_heard(name: str) -> None:
    content = bytearray(encode_any(name, noise(3.0)))
    middle = len(content) // 2
    content[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    sound = load_audio(bytes(content))
    assert sound.duration_s > 0.5
    assert sound.warnings


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000])
def test_wav_written_to_a_pipe_is_whole(size: int) -> None:
    sound = load_audio(wav_claiming(size, tone(440, 3.0)))
    assert (sound.duration_s, sound.warnings) == (3.0, ())


def test_flac_written_to_a_pipe_is_whole() -> None:
    sound = load_audio(flac_claiming(0, tone(440, 3.0)), Limits(10))
    assert (sound.duration_s, sound.warnings) == (3.0, ())


def test_longer_than_the_limit_is_refused_from_the_header_alone() -> None:
    content = flac_claiming(16_000 * 3600, tone(440, 1.0))
    with pytest.raises(AudioTooLong, match="limit of 600 s"):
        load_audio(content, Limits(600))


@pytest.mark.parametrize(
    "content",
    [
        flac_claiming(0, tone(440, 12.0)),
        wav_claiming(0xFFFFFFFF, tone(440, 12.0)),
        encode_av(tone(440, 12.0, RATE_HZ), "webm", live="1"),  # as browsers record: without a duration
        encode_av(tone(440, 12.0, RATE_HZ), "adts"),
    ],
    ids=["flac", "wav", "webm", "adts"],
)
def test_header_that_lies_does_not_pass_the_limit(content: bytes) -> None:
    with pytest.raises(AudioTooLong, match="limit of 10 s"):
        load_audio(content, Limits(10))
    assert load_audio(content, Limits(13)).duration_s == pytest.approx(12.0, abs=0.1)


def test_work_is_capped_in_samples_of_all_channels() -> None:
    content = encode(np.zeros((200_000, 8), np.float32), 48_000, "FLAC")
    assert len(load_audio(content, Limits(max_samples=1_600_000)).samples) > 0
    reader = AudioReader(content, Limits(max_samples=500_000))
    with pytest.raises(AudioTooLong, match="500,000 samples"):
        list(reader.blocks())
    assert reader.duration_s < 200_000 / 48_000  # stopped while decoding, not after


@pytest.mark.parametrize("name", ["WAV 16", "FLAC", "OGG Vorbis", "OGG Opus", "MP3", "mp4"])
@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 1.5), (1.23, 2.5), (2.0, None), (3.5, 9.0)])
def test_a_part_is_the_same_sound_as_in_the_whole(name: str, start_s: float, end_s: float | None) -> None:
    content = encode_any(name, noise(4))
    whole = load_audio(content)
    reader = AudioReader(content, start_s=start_s, end_s=end_s)
    part = np.concatenate(list(reader.blocks()))
    wanted = whole.samples[round(start_s * 16_000) : None if end_s is None else round(end_s * 16_000)]
    assert len(part) == len(wanted)
    np.testing.assert_allclose(part, wanted, atol=1e-6)
    assert reader.duration_s == pytest.approx(min(end_s or 99, whole.duration_s) - start_s, abs=1e-6)


def test_a_part_beyond_the_end_is_refused() -> None:
    with pytest.raises(AudioTooShort, match="ends before 5 s"):
        list(AudioReader(encode(tone(440)), start_s=5).blocks())


def test_another_sample_rate_is_kept_or_made() -> None:
    content = encode(tone(440, 1, 44_100), 44_100)
    assert len(np.concatenate(list(AudioReader(content, sample_rate_hz=44_100).blocks()))) == 44_100
    assert len(np.concatenate(list(AudioReader(content, sample_rate_hz=22_050).blocks()))) == 22_050


@pytest.mark.parametrize("name", [*SOUNDFILE_SUBTYPES, "mp4", "webm"])
def test_a_probe_tells_length_rate_and_channels_without_decoding(name: str) -> None:
    told = probe(encode_any(name, noise(2)))
    assert told.duration_s == pytest.approx(2, abs=0.1)
    assert (told.sample_rate_hz, told.channels) == (RATE_HZ, 1)
    assert told.cuttable == (name not in ("MP3", "mp4", "webm"))


def test_a_probe_does_not_believe_a_header_that_knows_nothing() -> None:
    assert probe(flac_claiming(0, tone(440))).duration_s is None
    with pytest.raises(AudioUndecodable):
        probe(b"no sound at all")
