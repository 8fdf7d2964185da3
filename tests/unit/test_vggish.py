"""VGGish: layer sizes, TensorFlow's flatten order, the loader, the ONNX graph and AudioSet's 8-bit features."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from models.errors import WeightsCorrupt, WeightsMissing
from models.heads import VggishHead, build_arrays
from models.layout import vggish_shapes
from models.vggish import VGGish, load_vggish
from models.vggish_onnx import build_vggish_graph
from models.vggish_pca import VggishPca, dequantize, load_pca


def patches(count: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(count).normal(-2, 1, (count, 96, 64)).astype(np.float32))


def slim_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return VGGish(slim=True).state_dict()


def session(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def full() -> VGGish:
    """The full-size network, 72 million random weights, built once."""
    torch.manual_seed(1)
    return VGGish().eval()


def test_layer_sizes(full: VGGish) -> None:
    assert sum(parameter.numel() for parameter in full.parameters()) == 72_141_184
    assert {name: tuple(tensor.shape) for name, tensor in full.state_dict().items()} == vggish_shapes(slim=False)
    convolutions = [f"features.{n}.{part}" for n in (0, 3, 6, 8, 11, 13) for part in ("weight", "bias")]
    dense = [f"embeddings.{n}.{part}" for n in (0, 2, 4) for part in ("weight", "bias")]
    assert list(full.state_dict()) == convolutions + dense
    with torch.inference_mode():
        assert full(patches(2)).shape == (2, 128)


def test_slim_has_the_same_convolutions_and_averages() -> None:
    model = VGGish(slim=True).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_565_376
    with torch.inference_mode():
        maps = model.features(patches(2)[:, None])
        assert maps.shape == (2, 512, 6, 4)
        expected = maps.mean((2, 3)) @ model.embeddings[0].weight.T + model.embeddings[0].bias
        torch.testing.assert_close(model(patches(2)), expected)


def test_flattens_as_height_width_channel(full: VGGish) -> None:
    with torch.inference_mode():
        maps = full.features(patches(1)[:, None])
        # the same first layer for torch's own order (channel, height, width): permute the columns, then flatten plainly
        weight = full.embeddings[0].weight.reshape(4096, 6, 4, 512).permute(0, 3, 1, 2).reshape(4096, -1)
        first = torch.relu(maps.flatten(1) @ weight.T + full.embeddings[0].bias)
        torch.testing.assert_close(full.embeddings[2:](first), full(patches(1)), rtol=1e-4, atol=1e-4)
        unpermuted = full.embeddings(maps.flatten(1))
    assert (unpermuted - full(patches(1))).abs().max() > 0.01


def test_embedding_is_before_its_activation_unless_asked() -> None:
    state = slim_state()
    plain, ported = load_vggish(state, slim=True), load_vggish(state, slim=True, last_relu=True)
    with torch.inference_mode():
        embeddings = plain(patches(4))
        assert embeddings.min() < 0
        torch.testing.assert_close(ported(patches(4)), embeddings.clamp(min=0))


def test_loads_the_full_size_torch_file(full: VGGish, tmp_path: Path) -> None:
    path = tmp_path / "vggish.pth"
    torch.save(full.state_dict(), path, _use_new_zipfile_serialization=False)  # the published file's age
    assert path.stat().st_size == pytest.approx(288_567_937, rel=1e-3)
    loaded = load_vggish(path)
    path.unlink()
    assert not loaded.training
    with torch.inference_mode():
        torch.testing.assert_close(loaded(patches(2)), full(patches(2)))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_loads_either_format_and_leaves_the_head(suffix: str, tmp_path: Path) -> None:
    path, state = tmp_path / f"slim{suffix}", slim_state()
    save = safetensors.torch.save_file if suffix == ".safetensors" else torch.save
    save({**state, "head.output.bias": torch.zeros(3)}, path)
    loaded = load_vggish(path, slim=True).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_half_precision_file_becomes_float32() -> None:
    state = {name: tensor.half() for name, tensor in slim_state().items()}
    assert all(parameter.dtype == torch.float32 for parameter in load_vggish(state, slim=True).parameters())


def test_training_a_loaded_network_leaves_the_source_alone() -> None:
    state = slim_state()
    before = state["features.0.bias"].clone()
    model = load_vggish(state, slim=True)
    with torch.no_grad():
        model.features[0].bias.add_(1.0)
    assert torch.equal(state["features.0.bias"], before)


def test_refuses_wrong_keys_and_shapes_by_name() -> None:
    state = slim_state()
    wrong = {**state, "features.3.weight": torch.zeros(128, 64, 5, 5), "features.8.bias": torch.zeros(1)}
    with pytest.raises(WeightsCorrupt, match=r"features.3.weight has shape \[128, 64, 5, 5\].* \[128, 64, 3, 3\]"):
        load_vggish(wrong, slim=True)
    missing = {name: tensor for name, tensor in state.items() if name != "features.11.bias"}
    with pytest.raises(WeightsCorrupt, match=r"features.11.bias is missing, expected shape \[512\]"):
        load_vggish(missing, slim=True)
    with pytest.raises(WeightsCorrupt, match=r"fc.weight \[2, 2\] is no known key"):
        load_vggish({**state, "fc.weight": torch.zeros(2, 2)}, slim=True)
    with pytest.raises(WeightsCorrupt, match=r"embeddings.0.weight has shape \[128, 512\], expected \[4096, 12288\]"):
        load_vggish(state)
    with pytest.raises(WeightsCorrupt, match="epoch is a int, expected a tensor"):
        load_vggish({**state, "epoch": 3}, slim=True)  # type: ignore[dict-item]


def test_refuses_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"none\.pth"):
        load_vggish(tmp_path / "none.pth")
    whole = tmp_path / "whole.pth"
    torch.save(slim_state(), whole)
    cut = whole.read_bytes()[:100_000]
    for name, content in {"empty.pth": b"", "text.pth": b"hello", "cut.pth": cut, "cut.safetensors": cut}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsCorrupt, match=name):
            load_vggish(tmp_path / name, slim=True)


class Intruder:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_refuses_a_pickle_that_holds_more_than_tensors(tmp_path: Path) -> None:
    torch.save({"features.0.weight": Intruder(tmp_path / "ran")}, tmp_path / "code.pth")
    with pytest.raises(WeightsCorrupt, match=r"code\.pth: neither tensors alone"):
        load_vggish(tmp_path / "code.pth")
    assert not (tmp_path / "ran").exists()
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsCorrupt, match="holds a list, expected a dictionary"):
        load_vggish(tmp_path / "list.pth")


@pytest.mark.parametrize("multi_label", [True, False])
@pytest.mark.parametrize("last_relu", [True, False])
def test_slim_graph_agrees_with_torch(multi_label: bool, last_relu: bool) -> None:
    torch.manual_seed(2)
    vggish, head = VGGish(slim=True, last_relu=last_relu), VggishHead(5, multi_label=multi_label, hidden=64)
    graph = build_vggish_graph(build_arrays(vggish, head), multi_label=multi_label, slim=True, last_relu=last_relu)
    run = session(graph)
    for count in (1, 3):
        scores, embeddings = run.run(["scores", "embeddings"], {"patches": patches(count).numpy()})
        with torch.inference_mode():
            expected = vggish.eval()(patches(count))
            expected_scores = head.eval()(expected)
        np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(scores, expected_scores.numpy(), atol=1e-4, rtol=0)
        assert (embeddings.min() >= 0) == last_relu
        assert np.ptp(scores) > 0.01


def test_full_size_graph_agrees_with_torch(full: VGGish) -> None:
    head = VggishHead(3, multi_label=True, hidden=32).eval()
    graph = build_vggish_graph(build_arrays(full, head), multi_label=True)
    assert graph.opset_import[0].version == 17
    assert [value.name for value in graph.graph.output] == ["scores", "embeddings"]
    scores, embeddings = session(graph).run(["scores", "embeddings"], {"patches": patches(2).numpy()})
    with torch.inference_mode():
        expected = full(patches(2))
        np.testing.assert_allclose(embeddings, expected.numpy(), atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(scores, head(expected).numpy(), atol=1e-4, rtol=0)


def test_graph_comes_from_a_safetensors_file_alone(tmp_path: Path) -> None:
    arrays = build_arrays(VGGish(slim=True), VggishHead(5, multi_label=True, hidden=16))
    safetensors.numpy.save_file(arrays, tmp_path / "tagger.safetensors")
    loaded = safetensors.numpy.load_file(tmp_path / "tagger.safetensors")
    one = build_vggish_graph(arrays, multi_label=True, slim=True)
    other = build_vggish_graph({name: loaded[name] for name in arrays}, multi_label=True, slim=True)
    assert one == other


def test_graph_refuses_wrong_arrays() -> None:
    arrays = build_arrays(VGGish(slim=True), VggishHead(5, multi_label=True, hidden=16))
    with pytest.raises(WeightsCorrupt, match=r"head.hidden1.weight is missing"):
        build_vggish_graph({n: a for n, a in arrays.items() if not n.startswith("head.")}, multi_label=True, slim=True)
    arrays["head.hidden1.weight"] = np.zeros((16, 64), np.float32)
    with pytest.raises(WeightsCorrupt, match=r"head.hidden1.weight has shape \[16, 64\], expected \[16, 128\]"):
        build_vggish_graph(arrays, multi_label=True, slim=True)


def identity_pca() -> VggishPca:
    return VggishPca(np.eye(128), np.zeros(128))


def test_pca_clips_and_cuts_to_whole_levels() -> None:
    embeddings = np.zeros((1, 128), np.float32)
    embeddings[0, :6] = [-3, -2, 0, 1.99, 2, 9]
    # (x + 2) * 255 / 4: 0 -> 127.5 and 1.99 -> 254.36, both cut
    assert identity_pca().postprocess(embeddings)[0, :6].tolist() == [0, 0, 127, 254, 255, 255]


def test_pca_subtracts_means_and_projects_onto_rows() -> None:
    vectors, means = np.zeros((128, 128)), np.full(128, 0.5)
    vectors[2, 7] = 1.0  # component 2 is input 7
    embeddings = np.zeros((1, 128))
    embeddings[0, 7] = 1.5
    features = VggishPca(vectors, means).postprocess(embeddings)
    assert features[0, 2] == int(3 * 255 / 4)
    assert set(np.delete(features[0], 2)) == {127}


def test_dequantized_features_quantize_to_themselves() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(2, 128)
    values = dequantize(levels)
    assert values.dtype == np.float32
    assert (identity_pca().postprocess(values) == levels).all()
    assert values[0, 0] == pytest.approx(-2 + 4 / 512)


@pytest.mark.parametrize("embeddings", [np.zeros((2, 127)), np.zeros(128), np.full((1, 128), np.nan)])
def test_pca_refuses_what_has_no_features(embeddings: np.ndarray) -> None:
    with pytest.raises(ValueError, match="embeddings"):
        identity_pca().postprocess(embeddings)


def test_published_pca(shared: Path) -> None:
    pca = load_pca(shared / "weights" / "vggish_pca_params.npz")
    features = pca.postprocess(np.stack([pca.means, pca.means + pca.eigen_vectors[0] * 0.1]).astype(np.float32))
    assert features.dtype == np.uint8
    assert np.abs(features[0].astype(int) - 127).max() <= 1  # the mean is the origin
    assert features[1, 0] > 127  # along the first component, towards more of it


def test_pca_file_is_checked(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing):
        load_pca(tmp_path / "none.npz")
    np.savez(tmp_path / "small.npz", pca_eigen_vectors=np.eye(64), pca_means=np.zeros(128))
    with pytest.raises(WeightsCorrupt, match=r"pca_eigen_vectors has shape \[64, 64\], expected \[128, 128\]"):
        load_pca(tmp_path / "small.npz")
    np.savez(tmp_path / "pickle.npz", pca_eigen_vectors=np.array([{}]), pca_means=np.zeros(128))
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "array.npy", np.eye(128))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name in ("pickle.npz", "text.npz", "array.npz"):
        with pytest.raises(WeightsCorrupt, match=name):
            load_pca(tmp_path / name)
