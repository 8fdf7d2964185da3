"""Makes the sample sounds: one function a sound, waveform [T] at 16 kHz. The same bytes of sound on every run.

    python ui/samples/generate.py           writes all of them beside this file
    python ui/samples/generate.py siren     writes one

Only `speech` needs a program: espeak-ng (apt-get install espeak-ng).
"""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
from numpy.typing import NDArray

Waveform = NDArray[np.float64]

FOLDER = Path(__file__).resolve().parent
SAMPLE_RATE_HZ = 16_000
PEAK = 0.6
VORBIS_COMPRESSION = 0.6  # 0 is the best quality, 1 the smallest file
SENTENCE = "Hello. This is Earshot. I listen, and I tell you what I hear, and when."


def time_axis(length_s: float) -> Waveform:
    """Seconds of each sample [T]."""
    return np.arange(round(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ


def tone(frequency_hz: Waveform | float, length_s: float) -> Waveform:
    """A sine [T] whose frequency is a number or changes from sample to sample."""
    steps = np.broadcast_to(frequency_hz, round(length_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return np.sin(2 * np.pi * np.cumsum(steps))


def fade(waveform: Waveform, edge_s: float = 0.005) -> Waveform:
    """The same sound, without clicks where it begins and ends."""
    edge = np.linspace(0, 1, round(edge_s * SAMPLE_RATE_HZ))
    faded = waveform.copy()
    faded[: len(edge)] *= edge
    faded[-len(edge) :] *= edge[::-1]
    return faded


def place(into: Waveform, piece: Waveform, start_s: float) -> None:
    """Adds a piece to a longer sound; what is past its end is cut."""
    start = round(start_s * SAMPLE_RATE_HZ)
    room = len(into) - start
    into[start : start + len(piece)] += piece[:room]


def band(noise: Waveform, low_hz: float, high_hz: float) -> Waveform:
    """What a sound has between two frequencies."""
    sections = scipy.signal.butter(2, [low_hz, high_hz], "bandpass", fs=SAMPLE_RATE_HZ, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, noise))


def siren() -> Waveform:
    """A wailing horn: its pitch rises and falls between 550 and 1400 Hz."""
    glide = 0.5 - 0.5 * np.cos(2 * np.pi * time_axis(5.0) / 2.5)
    pitch_hz = 550 * (1400 / 550) ** glide
    wail = sum(tone(pitch_hz * k, 5.0) / k**1.3 for k in range(1, 6))
    return fade(np.tanh(1.5 * np.asarray(wail)), 0.05)


def smoke_alarm() -> Waveform:
    """Three loud beeps at 3.2 kHz, a pause, and again."""
    waveform = np.zeros(round(5.0 * SAMPLE_RATE_HZ))
    beep = fade(np.tanh(8 * tone(3200.0, 0.5)))
    for start_s in (0.2, 1.2, 2.2, 4.2):
        place(waveform, beep, start_s)
    return waveform


def beeps() -> Waveform:
    """An alarm clock: four short beeps a second."""
    waveform = np.zeros(round(4.0 * SAMPLE_RATE_HZ))
    beep = fade(np.tanh(2 * tone(3000.0, 0.1)), 0.003)
    for second in range(4):
        for k in range(4):
            place(waveform, beep, second + 0.1 + k * 0.2)
    return waveform


def rain() -> Waveform:
    """A steady hiss with thousands of drops in it."""
    rng = np.random.default_rng(7)
    waveform = 0.15 * band(rng.standard_normal(round(4.0 * SAMPLE_RATE_HZ)), 400, 7000)
    for start_s in rng.uniform(0, 3.95, 1500):
        length_s = rng.uniform(0.003, 0.02)
        decay = np.exp(-5 * time_axis(length_s) / length_s)
        drop = decay * rng.standard_normal(len(decay)) * rng.exponential(0.08)
        place(waveform, drop, start_s)
    return fade(waveform, 0.2)


def tone_sweep() -> Waveform:
    """A pure tone that climbs from 100 to 7000 Hz."""
    return fade(tone(100 * 70 ** (time_axis(5.0) / 5.0), 5.0), 0.03)


def clock_ticks() -> Waveform:
    """Tick and tock, twice a second."""
    rng = np.random.default_rng(6)
    waveform = np.zeros(round(5.0 * SAMPLE_RATE_HZ))
    for k in range(10):
        t = time_axis(0.06)
        ring = np.exp(-t / 0.002) * np.sin(2 * np.pi * (4100 if k % 2 else 4700) * t)
        case = 0.3 * np.exp(-t / 0.004) * np.sin(2 * np.pi * (1820 if k % 2 else 2190) * t)
        knock = np.exp(-t / 0.0007) * rng.standard_normal(len(t))
        place(waveform, ring + case + knock, 0.2 + k * 0.5)
    return waveform


def glass_break() -> Waveform:
    """Five quiet seconds with one breaking glass after two: a crash, then shards that ring."""
    rng = np.random.default_rng(7)
    waveform = np.zeros(round(5.0 * SAMPLE_RATE_HZ))
    t = time_axis(0.25)
    place(waveform, 1.6 * np.exp(-t / 0.035) * rng.standard_normal(len(t)), 2.0)
    for start_s in 2.0 + rng.exponential(0.16, 70):
        t = time_axis(0.4)
        partials_hz = rng.uniform(2200, 7600, 5)
        decay_s = rng.uniform(0.01, 0.07, 5)
        shard = sum(np.exp(-t / d) * np.sin(2 * np.pi * f * t) for f, d in zip(partials_hz, decay_s, strict=True))
        place(waveform, np.asarray(shard) * rng.exponential(0.18), start_s)
    return waveform


def bird_song() -> Waveform:
    """Short whistles that glide between 3 and 6 kHz, in phrases."""
    rng = np.random.default_rng(8)
    waveform = np.zeros(round(5.0 * SAMPLE_RATE_HZ))
    for phrase_s in (0.2, 1.5, 2.6, 3.8):
        low_hz, high_hz = rng.uniform(2800, 3600), rng.uniform(4600, 6200)
        for k in range(rng.integers(4, 8)):
            length_s = rng.uniform(0.07, 0.12)
            glide = np.linspace(1, 0, len(time_axis(length_s))) ** 1.5
            chirp = np.hanning(len(glide)) * tone(low_hz + (high_hz - low_hz) * glide, length_s)
            place(waveform, chirp, phrase_s + k * 0.14)
    return waveform


def heart_beat() -> Waveform:
    """Two low thumps a beat, 66 beats a minute."""
    waveform = np.zeros(round(5.0 * SAMPLE_RATE_HZ))
    for beat_s in np.arange(0.2, 4.6, 60 / 66):
        for start_s, pitch_hz, loudness in ((beat_s, 45.0, 1.0), (beat_s + 0.31, 58.5, 0.7)):
            t = time_axis(0.18)
            thump = np.sqrt(t / 0.18) * np.exp(-t / 0.03) * np.sin(2 * np.pi * pitch_hz * t)
            place(waveform, loudness * thump, start_s)
    return waveform


def chip_tune() -> Waveform:
    """Four chords of square waves, as an old games console plays them."""
    waveform = np.zeros(round(4.0 * SAMPLE_RATE_HZ))
    chords = ((57, 60, 64, 69), (53, 57, 60, 65), (48, 55, 60, 64), (55, 59, 62, 67))  # MIDI notes: Am F C G
    for bar, notes in enumerate(chords):
        for k in range(8):
            pitch_hz = 440 * 2 ** ((notes[(0, 1, 2, 3, 2, 1, 2, 3)[k]] - 69) / 12)
            place(waveform, fade(np.sign(tone(2 * pitch_hz, 0.12))) * 0.5, bar + k * 0.125)
        bass_hz = 440 * 2 ** ((notes[0] - 81) / 12)
        place(waveform, fade(np.sign(tone(bass_hz, 0.98))) * 0.6, bar)
    return band(waveform, 60, 5000)


def phone_dialling() -> Waveform:
    """A push-button telephone: seven digits, two tones each."""
    rows_hz, columns_hz = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0)
    waveform = np.zeros(round(3.5 * SAMPLE_RATE_HZ))
    for k, digit in enumerate("5550173"):
        row, column = (3, 1) if digit == "0" else divmod(int(digit) - 1, 3)
        place(waveform, fade(tone(rows_hz[row], 0.22) + tone(columns_hz[column], 0.22)), 0.2 + k * 0.42)
    return waveform


def silence() -> Waveform:
    """Nothing at all."""
    return np.zeros(round(3.0 * SAMPLE_RATE_HZ))


def speech() -> Waveform:
    """A sentence, spoken by espeak-ng."""
    command = ["espeak-ng", "-v", "en-gb", "-s", "150", "--stdout", SENTENCE]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603
    waveform, sample_rate_hz = soundfile.read(io.BytesIO(spoken))
    resampled = scipy.signal.resample_poly(waveform, SAMPLE_RATE_HZ, sample_rate_hz)
    return np.asarray(resampled)


SOUNDS: dict[str, Callable[[], Waveform]] = {
    "siren": siren,
    "smoke-alarm": smoke_alarm,
    "glass-break": glass_break,
    "bird-song": bird_song,
    "speech": speech,
    "rain": rain,
    "clock-ticks": clock_ticks,
    "beeps": beeps,
    "phone-dialling": phone_dialling,
    "chip-tune": chip_tune,
    "heart-beat": heart_beat,
    "tone-sweep": tone_sweep,
    "silence": silence,
}


def make_sound(name: str) -> Waveform:
    """One sound by name, [T] at 16 kHz, its loudest sample at 0.6 of full scale."""
    waveform = SOUNDS[name]()
    loudest = np.abs(waveform).max()
    return waveform * (PEAK / loudest) if loudest else waveform


def encode(waveform: Waveform) -> bytes:
    """A waveform [T] at 16 kHz -> OGG Vorbis."""
    stream = io.BytesIO()
    soundfile.write(
        stream, waveform, SAMPLE_RATE_HZ, format="OGG", subtype="VORBIS", compression_level=VORBIS_COMPRESSION
    )
    return stream.getvalue()


def main(names: list[str]) -> None:
    """Writes the named sounds, or all."""
    for name in names or SOUNDS:
        path = FOLDER / f"{name}.ogg"
        path.write_bytes(encode(make_sound(name)))
        print(f"{path.name:20} {path.stat().st_size / 1024:5.1f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
