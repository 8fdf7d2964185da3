"""A graph with the front end inside hears what models/frontend.py hears."""

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from models.errors import BadOption
from models.frontend import MEL_BANDS, PATCH_FRAMES, VGGISH_OFFSET, YAMNET_OFFSET, log_mel, split_patches
from models.graphs import GraphBuilder
from models.opset import set_opset
from models.tensorrt_operators import unsupported
from models.waveform_graph import samples_heard, with_waveform
from tests.sounds import silence, tone
from tests.tiny_models import build_tone_graph

PATCH_SAMPLES = 15_600
# A pure tone leaves most bands empty: their magnitude is what rounding leaves, 1e-5 beside the offset of 0.001.
TOLERANCE, TONE_TOLERANCE = 1e-5, 0.015


def build_echo() -> onnx.ModelProto:
    """Gives the patches back, flat: "scores" [P, 96 * 64]."""
    graph = GraphBuilder()
    graph.node("Flatten", ["patches"], "scores")
    return graph.model({"scores": PATCH_FRAMES * MEL_BANDS}, "echo")


def run(model: onnx.ModelProto, name: str, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["scores"], {name: inputs})[0]


def noise(samples: int, level: float, seed: int = 0) -> NDArray[np.float32]:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def test_patch_hears_975_ms() -> None:
    assert samples_heard(PATCH_FRAMES) == PATCH_SAMPLES


@pytest.mark.parametrize("offset", [YAMNET_OFFSET, VGGISH_OFFSET])
@pytest.mark.parametrize("samples", [PATCH_SAMPLES, PATCH_SAMPLES - 1, 15_360, 9_999, 400, 1])
def test_front_end_inside_gives_the_same_log_mel(samples: int, offset: float) -> None:
    waveforms = np.stack([noise(samples, 0.3), noise(samples, 1e-3, seed=1), silence(1.0)[:samples]])
    wanted = np.stack([split_patches(log_mel(waveform, offset), PATCH_FRAMES, offset, 1)[0] for waveform in waveforms])
    heard = run(with_waveform(build_echo(), samples, offset), "waveform", waveforms)
    np.testing.assert_allclose(heard.reshape(wanted.shape), wanted, atol=TOLERANCE)


def test_pure_tone_differs_only_in_empty_bands() -> None:
    waveform = tone(440, seconds=1.0, level=0.9)[:PATCH_SAMPLES]
    wanted = log_mel(waveform)[:PATCH_FRAMES]
    heard = run(with_waveform(build_echo(), PATCH_SAMPLES), "waveform", waveform[np.newaxis]).reshape(wanted.shape)
    np.testing.assert_allclose(heard, wanted, atol=TONE_TOLERANCE)
    np.testing.assert_allclose(heard[wanted > -2], wanted[wanted > -2], atol=1e-4)


def test_model_says_of_a_waveform_what_it_says_of_its_patches() -> None:
    waveforms = np.stack([tone(frequency_hz)[:PATCH_SAMPLES] for frequency_hz in (300, 1000, 3000)])
    patches = np.stack([log_mel(waveform)[:PATCH_FRAMES] for waveform in waveforms])
    model = with_waveform(build_tone_graph(), PATCH_SAMPLES)
    np.testing.assert_allclose(
        run(model, "waveform", waveforms), run(build_tone_graph(), "patches", patches), atol=1e-4
    )
    assert [output.name for output in model.graph.output] == ["scores", "embeddings"]


def test_old_tensorrt_reads_every_operator() -> None:
    assert unsupported(set_opset(with_waveform(build_tone_graph(), PATCH_SAMPLES), 13)) == []


@pytest.mark.parametrize("samples", [0, PATCH_SAMPLES + 1])
def test_waveform_that_does_not_fit_is_refused(samples: int) -> None:
    with pytest.raises(BadOption, match=r"1 to 15600 at a time"):
        with_waveform(build_tone_graph(), samples)
