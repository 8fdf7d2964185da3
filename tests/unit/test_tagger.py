"""The Tagger: streaming equals the whole, second opinions, odd but valid sounds, bounded memory."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.answer import Options
from models.audio import Limits
from models.bundle import load_bundle
from models.errors import AudioNotFinite, AudioTooLong
from models.frontend import VGGISH_OFFSET, YAMNET_OFFSET, hop_frames, log_mel, split_patches
from models.runtime import load_runtime
from models.tagger import Scorer, Tagger, hear
from tests.conftest import CHECKOUT
from tests.sounds import encode, silence, tone


def load_scorer(folder: Path) -> Scorer:
    bundle = load_bundle(folder)
    return Scorer(bundle, load_runtime(bundle))


@pytest.fixture(scope="module")
def first(tone_tagger: Path) -> Scorer:
    return load_scorer(tone_tagger)


@pytest.fixture(scope="module")
def head(tone_head: Path) -> Scorer:
    return load_scorer(tone_head)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)


def random_blocks(frames: np.ndarray, most: int) -> list[np.ndarray]:
    cuts = np.cumsum(np.random.default_rng(0).integers(0, most, len(frames)))
    return np.split(frames, cuts[cuts < len(frames)])


@pytest.mark.parametrize("hop_s", [0.05, 0.48, 0.96, 0.99, 2.0, 10.0])
@pytest.mark.parametrize("seconds", [0.2, 0.975, 0.976, 15.84, 15.9, 31.0, 400.0])
def test_scores_of_a_stream_are_those_of_the_whole(first: Scorer, seconds: float, hop_s: float) -> None:
    frames = log_mel(noise(seconds))
    whole, _ = first.network(split_patches(frames, hop_frames(hop_s), YAMNET_OFFSET))
    for most in (40, 400):
        scored = first.score(iter(random_blocks(frames, most)), hop_s)
        assert scored.hop_s == hop_s
        np.testing.assert_allclose(scored.scores, whole, atol=1e-6)


def test_embeddings_of_a_stream_are_those_of_the_whole(first: Scorer) -> None:
    frames = log_mel(noise(40.0))
    _, whole = first.network(split_patches(frames, 48, YAMNET_OFFSET))
    np.testing.assert_allclose(first.embed(iter(random_blocks(frames, 400)), 0.48), whole, atol=1e-5)


def test_head_gets_frames_with_its_own_offset(head: Scorer) -> None:
    wave = noise(5.0)
    np.testing.assert_allclose(
        head.patches(log_mel(wave, YAMNET_OFFSET), 0.96),
        split_patches(log_mel(wave, VGGISH_OFFSET), 96, VGGISH_OFFSET),
        atol=1e-5,
    )


def test_sounds_get_their_labels_and_times(first: Scorer) -> None:
    wave = np.concatenate([tone(300, 2.0), silence(4.0), tone(5000, 2.0)])
    answer = Tagger(first).tag(encode(wave), Options(threshold=0.5))
    spans = {event.label: (event.start_s, event.end_s) for event in answer.events}
    assert spans["Low tone"] == pytest.approx((0.0, 2.0), abs=0.96)
    assert spans["Silence"] == pytest.approx((2.0, 6.0), abs=0.96)
    assert spans["High tone"] == pytest.approx((6.0, 8.0), abs=0.96)
    assert answer.duration_s == 8.0


def test_answer_is_the_same_from_bytes_path_and_stream(first: Scorer, head: Scorer, tmp_path: Path) -> None:
    content = encode(tone(300, 3.0), 44_100, "FLAC")
    path = tmp_path / "sound.flac"
    path.write_bytes(content)
    options = Options(second_opinion="always", timeline=True)
    answers = [Tagger(first, head).tag(source, options) for source in (content, path, io.BytesIO(content))]
    parts = [answer.model_dump(exclude={"request_id"}) for answer in answers]
    assert parts[0] == parts[1] == parts[2]
    assert len({answer.request_id for answer in answers}) == 3


@pytest.mark.parametrize(
    ("mode", "unsure_below", "share", "asked", "why"),
    [
        ("auto", 0.0, 0.0, False, "not_needed"),
        ("auto", 1.1, 0.0, True, "unsure"),
        ("auto", 0.0, 1.0, True, "sampled"),
        ("auto", 1.1, 1.0, True, "unsure"),
        ("always", 0.0, 0.0, True, "requested"),
        ("never", 1.1, 1.0, False, "declined"),
    ],
)
def test_second_opinion_is_asked_when_it_should(
    first: Scorer, head: Scorer, mode: str, unsure_below: float, share: float, asked: bool, why: str
) -> None:
    tagger = Tagger(first, head, share, unsure_below)
    opinion = tagger.tag(encode(tone(300, 2.0)), Options.model_validate({"second_opinion": mode})).second_opinion
    assert (opinion.asked, opinion.why) == (asked, why)
    assert (opinion.model, opinion.agrees) == (("tone-head", True) if asked else (None, None))
    assert [label.label for label in opinion.labels][:1] == (["Low tone"] if asked else [])


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_without_a_head_the_answer_says_so(first: Scorer, mode: str) -> None:
    tagger = Tagger(first, None, 1.0, 1.1)
    opinion = tagger.tag(encode(tone(300)), Options.model_validate({"second_opinion": mode})).second_opinion
    assert opinion.model_dump(include={"asked", "why"}) == {"asked": False, "why": "unavailable"}


SOUNDS = {
    "one sample": tone(440)[:1],
    "0.2 s": tone(440, 0.2),
    "silence": silence(2.0),
    "DC": np.ones(32_000, np.float32),
    "square wave": np.sign(tone(440, 2.0) + 1e-6),
    "a million times full scale": 1e6 * np.sign(tone(440, 2.0) + 1e-6),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_odd_sound_is_valid_and_its_scores_finite(first: Scorer, head: Scorer, name: str) -> None:
    content = encode(SOUNDS[name], subtype="FLOAT")
    answer = Tagger(first, head).tag(content, Options(second_opinion="always", timeline=True))
    assert answer.timeline is not None
    numbers = [x for label in (*answer.labels, *answer.second_opinion.labels) for x in (label.score, label.peak)]
    assert len(numbers) == 12
    assert np.isfinite(numbers + [score for row in answer.timeline.scores for score in row]).all()


def test_limits_and_refusals_pass_through(first: Scorer) -> None:
    with pytest.raises(AudioTooLong):
        Tagger(first, limits=Limits(1.0)).tag(encode(tone(440, 2.0)), Options())
    with pytest.raises(AudioNotFinite):
        hear(encode(np.full(16_000, np.nan, np.float32), subtype="FLOAT"))


PEAK = """
import atexit, re, sys
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr))
"""
READ = f"{PEAK}from models.audio import AudioReader\nassert sum(map(len, AudioReader(sys.argv[1]).blocks()))"
CLASSIFY = f"""{PEAK}import earshot
sys.argv[:] = ['earshot', 'classify', '--json', '--weights', sys.argv[2], sys.argv[1]]
earshot.main()"""


def peak_mib(program: str, *arguments: str) -> float:
    """The program's peak memory: VmHWM, which unlike ru_maxrss does not begin with that of its parent."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return int(done.stderr.split()[-1]) / 1024


@pytest.mark.parametrize("program", [READ, CLASSIFY], ids=["read", "classify"])
def test_memory_does_not_grow_with_the_length(program: str, tmp_path: Path, tone_tagger: Path) -> None:
    peaks = []
    for seconds in (10, 7200):
        path, size = tmp_path / f"{seconds}.wav", seconds * 8_000 * 2
        with path.open("wb") as stream:  # the samples are a hole in the file
            stream.write(struct.pack("<4sI8sIHHIIHH", b"RIFF", size + 36, b"WAVEfmt ", 16, 1, 1, 8000, 16000, 2, 16))
            stream.write(struct.pack("<4sI", b"data", size))
            stream.truncate(44 + size)
        peaks.append(peak_mib(program, str(path), str(tone_tagger)))
    assert peaks[1] - peaks[0] < 300
