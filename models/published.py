"""The weights that others have published: their official addresses and hashes, and the bundles that are built of them.

Knows nothing of where files are looked for.
"""

from dataclasses import dataclass
from pathlib import Path

from models.bundle import CARD, Bundle, FrontEnd, Label, Precision, load_bundle, read_labels, save_bundle, sha256_of
from models.errors import BadOption, EarshotError, WeightsMissing
from models.frontend import PATCH_S, VGGISH_OFFSET
from models.layout import EMBEDDING_SIZE

YAMNET_TFLITE = "yamnet.tflite"
YAMNET_CLASSES = "yamnet_class_map.csv"
IMAGENET = "resnet18-imagenet"
GRAPH_REVISION = 1  # of the graphs built from the weights: raise it when models/yamnet_onnx.py builds them differently


@dataclass(frozen=True)
class WeightsFile:
    """One file: its name, its SHA-256 (or the first digits, where only those are published) and its official addresses."""

    name: str
    sha256: str
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """One set of weights."""

    name: str
    version: str
    files: tuple[WeightsFile, ...]
    licence: str
    knows: str
    accuracy: str | None = None


TABLE = {
    weights.name: weights
    for weights in (
        Weights(
            name="yamnet",
            version="tflite-1",
            files=(
                WeightsFile(
                    YAMNET_TFLITE,
                    "10c95ea3eb9a7bb4cb8bddf6feb023250381008177ac162ce169694d05c317de",
                    (
                        "https://storage.googleapis.com/mediapipe-assets/yamnet_audio_classifier_with_metadata.tflite",
                        "https://storage.googleapis.com/download.tensorflow.org/models/tflite/task_library/audio_classification/rpi/lite-model_yamnet_classification_tflite_1.tflite",
                    ),
                ),
                WeightsFile(
                    YAMNET_CLASSES,
                    "cdf24d193e196d9e95912a2667051ae203e92a2ba09449218ccb40ef787c6df2",
                    (
                        "https://raw.githubusercontent.com/tensorflow/models/master/research/audioset/yamnet/yamnet_class_map.csv",
                    ),
                ),
            ),
            licence="Apache-2.0",
            knows="521 AudioSet classes",
            accuracy="AudioSet mAP 0.306 (Google's figure); ESC-10 zero-shot 97.5 %",
        ),
        Weights(
            name="vggish",
            version="torchvggish-0.1",
            files=(
                WeightsFile(
                    "vggish.pth",
                    "10086976",  # the eight digits in the published file's own name
                    ("https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",),
                ),
            ),
            licence="Apache-2.0",
            knows="128-d audio embeddings, for training heads",
        ),
        Weights(
            name="vggish-pca",
            version="1",
            files=(
                WeightsFile(
                    "vggish_pca_params.npz",
                    "4d878af3e306defbfb37095365aa7e5a6cecb86bad13e859e626151c4e6a8b9d",
                    ("https://storage.googleapis.com/audioset/vggish_pca_params.npz",),
                ),
            ),
            licence="Apache-2.0",
            knows="the PCA that turns VGGish embeddings into AudioSet's 128 x uint8 features",
        ),
        Weights(
            name=IMAGENET,
            version="torchvision-IMAGENET1K_V1",
            files=(
                WeightsFile(
                    "resnet18-f37072fd.pth",
                    "f37072fd",  # the eight digits in the published file's own name
                    ("https://download.pytorch.org/models/resnet18-f37072fd.pth",),
                ),
            ),
            licence="BSD-3-Clause",
            knows="ImageNet's pictures, to start resnet18 from (--pretrained)",
        ),
    )
}


def known(name: str) -> Weights:
    """The table's entry. Raises BadOption naming the entries there are."""
    if name not in TABLE:
        raise BadOption(f"no weights named {name!r}; there are: {', '.join(TABLE)}")
    return TABLE[name]


def build_yamnet_bundle(folder: Path, cache: Path) -> Bundle:
    """Google's TFLite file and class map -> a bundle with both graphs, in the cache; the one there, if it is there."""
    weights = known("yamnet")
    sha256 = weights.files[0].sha256
    target = cache / "graphs" / f"yamnet-{sha256[:12]}-r{GRAPH_REVISION}"
    if (target / CARD).is_file():
        try:
            return load_bundle(target)
        except EarshotError:
            for file in target.iterdir():
                file.unlink()
    from models.tflite import load_yamnet_arrays  # rarely needed: the graphs are cached
    from models.yamnet_onnx import build_yamnet_float, build_yamnet_int8

    arrays = load_yamnet_arrays((folder / YAMNET_TFLITE).read_bytes())
    graphs: dict[Precision, bytes] = {
        "int8": build_yamnet_int8(arrays).SerializeToString(),
        "float": build_yamnet_float(arrays.float_state()).SerializeToString(),
    }
    return save_bundle(
        target,
        graphs,
        read_labels(folder / YAMNET_CLASSES),
        name=weights.name,
        version=weights.version,
        front_end=FrontEnd(),
        weights_sha256=sha256,
        licence=weights.licence,
        source=weights.files[0].urls[0],
        accuracy=weights.accuracy,
    )


def build_vggish_bundle(folder: Path, cache: Path) -> Bundle:
    """The published VGGish weights -> a bundle without classes, in the cache; the one there, if it is there. Needs torch, once."""
    weights = known("vggish")
    sha256 = sha256_of(folder / weights.files[0].name)
    target = cache / "graphs" / f"vggish-{sha256[:12]}-r{GRAPH_REVISION}"
    if (target / CARD).is_file():
        return load_bundle(target)
    try:
        from models.vggish import load_vggish
    except ImportError as error:
        raise WeightsMissing("reading VGGish's published weights needs torch: run `make setup` once") from error
    from models.vggish_onnx import build_vggish_graph

    arrays = {name: tensor.numpy() for name, tensor in load_vggish(folder / weights.files[0].name).state_dict().items()}
    graph = build_vggish_graph(arrays, multi_label=True, head=False)
    return save_bundle(
        target,
        {"float": graph.SerializeToString()},
        tuple(Label(f"embedding {number}", "") for number in range(EMBEDDING_SIZE)),
        name=weights.name,
        version=weights.version,
        front_end=FrontEnd(log_offset=VGGISH_OFFSET, hop_s=PATCH_S),
        weights_sha256=sha256,
        licence=weights.licence,
        source=weights.files[0].urls[0],
    )
