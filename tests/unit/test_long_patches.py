"""A model with windows longer than a patch of 96 frames, all the way: stream, answer, service, bulk parts."""

import asyncio
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.settings import Settings
from models.answer import Options
from models.audio import Limits
from models.bundle import Bundle, FrontEnd, load_bundle, save_bundle
from models.frontend import VGGISH_OFFSET, log_mel, split_patches
from models.runtime import load_runtime
from models.storage import open_store
from models.tagger import Scorer, Tagger
from pipelines.answers import build_work
from pipelines.driver import Workers
from pipelines.jobs import classify_to
from serve.stages import Listener, NetworkStage, OpinionPolicy, Spectrogram
from tests.sounds import encode, silence, tone
from tests.tiny_models import LABELS, build_tone_graph
from tests.unit.test_plan import rows
from tests.unit.test_stages import Silent

FRAMES, HOP_S = 200, 2.0


@pytest.fixture(scope="module")
def long_tagger(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny tagger of tones on windows of 2 s, with VGGish's offset and thresholds of its own."""
    graph = build_tone_graph()
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = FRAMES
    front_end = FrontEnd(log_offset=VGGISH_OFFSET, hop_s=HOP_S, frames=FRAMES)
    return save_bundle(
        tmp_path_factory.mktemp("models") / "long",
        {"float": graph.SerializeToString()},
        LABELS,
        name="long-tones",
        version="1",
        front_end=front_end,
        thresholds=[0.6, 0.6, 1.0],
    )


@pytest.fixture(scope="module")
def scorer(long_tagger: Bundle) -> Scorer:
    return Scorer(long_tagger, load_runtime(long_tagger))


def sound() -> bytes:
    """Two seconds low, four silent, two high."""
    return encode(np.concatenate([tone(300, 2.0), silence(4.0), tone(5000, 2.0)]))


@pytest.mark.parametrize("hop_s", [0.1, 1.5, 2.0, 5.0])
@pytest.mark.parametrize("seconds", [0.3, 2.0, 2.1, 70.0, 200.0])
def test_scores_of_a_stream_are_those_of_the_whole(scorer: Scorer, seconds: float, hop_s: float) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)
    frames = log_mel(wave, VGGISH_OFFSET)
    whole, _ = scorer.network(split_patches(frames, round(hop_s * 100), VGGISH_OFFSET, length=FRAMES))
    streamed = scorer.score(np.array_split(log_mel(wave), 1 + int(seconds)), hop_s)
    np.testing.assert_allclose(streamed.scores, whole, atol=1e-5)


def test_events_and_timeline_are_as_long_as_the_windows(scorer: Scorer) -> None:
    answer = Tagger(scorer).tag(sound(), Options(timeline=True))
    events = [(event.label, event.start_s, event.end_s) for event in answer.events]
    assert events == [("Low tone", 0.0, 2.0), ("High tone", 6.0, 8.0)]
    assert answer.timeline is not None
    assert (answer.timeline.start_s, answer.timeline.length_s) == ([0.0, 2.0, 4.0, 6.0], 2.0)


def test_it_is_served_and_asked_for_a_second_opinion(long_tagger: Bundle, tone_tagger: Path) -> None:
    stages = [NetworkStage(folder, Silent(), "cpu") for folder in (long_tagger.path, tone_tagger)]
    bundles = [long_tagger, load_bundle(tone_tagger)]
    for first, second in ((0, 1), (1, 0)):
        listener = Listener(
            Spectrogram(Limits(), Silent()),
            stages[first],
            bundles[first],
            stages[second],
            bundles[second],
            OpinionPolicy(),
        )
        assert asyncio.run(listener.check_ready())
        answer = asyncio.run(listener.classify(sound(), Options(second_opinion="always"), "r1"))
        assert answer.model.name == bundles[first].card.name
        assert answer.second_opinion.model == bundles[second].card.name
        assert {event.label for event in answer.events} >= {"Low tone", "High tone"}
        embedded, _, _ = asyncio.run(listener.embed(sound(), Options()))
        assert embedded.patch_s == (2.0, 0.96)[first]


@pytest.mark.parametrize("hop_s", [0.5, HOP_S, 3.0])
def test_parts_of_a_long_recording_give_the_answer_of_the_whole(
    long_tagger: Bundle, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hop_s: float
) -> None:
    monkeypatch.setattr("pipelines.plan.LONG_BYTES", 1000)
    monkeypatch.setattr("pipelines.answers.PART_PATCHES", 128)
    recording = encode(np.concatenate([tone(300, 140 * hop_s), silence(70 * hop_s), tone(3000, 85.3 * hop_s)]))
    (tmp_path / "long.wav").write_bytes(recording)
    work = build_work(Options(timeline=True, hop_s=hop_s), Settings(weights_path=long_tagger.path))
    out = open_store(tmp_path / "out")
    classify_to(open_store(tmp_path), rows("long.wav"), work, out, Workers(Settings()), overwrite=False)
    (row,) = pq.read_table(out.root).to_pylist()
    whole = Tagger(scorer).tag(recording, work.options).model_dump()
    assert len(whole["timeline"]["start_s"]) > 2 * 128
    assert whole["events"]
    for name in work.schema.names:
        assert row[name] == whole[name]
