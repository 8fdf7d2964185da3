"""The weights that Earshot knows: where they come from, what their hashes are, where they are looked for.

Order of look-up: the path the user gave, the weights folder (EARSHOT_WEIGHTS), the user's cache, a download from the official address,
the weights bundled with the program (none yet). A file with another hash is refused. Knows nothing of Ray, HTTP or the environment.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from models.bundle import (
    CARD,
    Bundle,
    FrontEnd,
    Label,
    Precision,
    check_sha256,
    load_bundle,
    read_labels,
    save_bundle,
    sha256_of,
)
from models.errors import BadOption, EarshotError, WeightsCorrupt, WeightsMissing
from models.frontend import PATCH_S, VGGISH_OFFSET
from models.layout import EMBEDDING_SIZE

YAMNET_TFLITE = "yamnet.tflite"
YAMNET_CLASSES = "yamnet_class_map.csv"
HEAD = "vggish-head"
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
    )
}


def default_cache() -> Path:
    """The user's cache folder for weights and the graphs built from them."""
    return platformdirs.user_cache_path("earshot")


@dataclass(frozen=True)
class Places:
    """Where weights are looked for, in this order: `explicit`, `folder`, `cache`, then a download into `cache`."""

    explicit: Path | None = None
    folder: Path | None = None
    cache: Path = field(default_factory=default_cache)
    download: bool = True

    def folders(self, name: str) -> Iterator[Path]:
        """The folders that may hold the named weights, in the order of look-up."""
        if self.explicit:
            yield self.explicit.parent if self.explicit.is_file() else self.explicit
            return
        if self.folder:
            yield self.folder
            yield self.folder / name
        yield self.cache / name


def find_weights(name: str, places: Places) -> Path:
    """The folder that holds all of the named weights' files, hashes checked; downloads them when they are nowhere.

    Raises WeightsMissing (saying what to do), WeightsCorrupt.
    """
    weights = known(name)
    for folder in places.folders(name):
        if all((folder / file.name).is_file() for file in weights.files):
            verify_weights(weights, folder)
            return folder
    if places.explicit:
        names = " and ".join(file.name for file in weights.files)
        raise WeightsMissing(f"{places.explicit} holds neither {CARD} nor {names}")
    if not places.download:
        raise WeightsMissing(_how_to_get(name, places, "downloads are off"))
    return fetch_weights(name, places)


def known(name: str) -> Weights:
    """The table's entry. Raises BadOption naming the entries there are."""
    if name not in TABLE:
        raise BadOption(f"no weights named {name!r}; there are: {', '.join(TABLE)}")
    return TABLE[name]


def verify_weights(weights: Weights, folder: Path) -> None:
    """Raises WeightsCorrupt, with both hashes, when a file in the folder is not the pinned one."""
    for file in weights.files:
        check_sha256(folder / file.name, file.sha256)


def fetch_weights(name: str, places: Places) -> Path:
    """Downloads the named weights into the cache: progress bar, hash checked, moved into place when whole. Gives the folder."""
    weights = known(name)
    folder = places.cache / name
    for file in weights.files:
        if not (folder / file.name).is_file():
            _download(file, folder, lambda reason: _how_to_get(name, places, reason))
        check_sha256(folder / file.name, file.sha256)
    return folder


def _download(file: WeightsFile, folder: Path, advice: Callable[[str], str]) -> None:
    """One file from the first of its addresses that answers; a broken download leaves nothing behind and starts afresh."""
    import pooch  # its import is slow, and a download rare

    pooch.get_logger().setLevel("WARNING")
    pinned = f"sha256:{file.sha256}" if len(file.sha256) == 64 else None
    for url in file.urls:
        try:
            fetcher = pooch.HTTPDownloader(progressbar=True, timeout=20)
            pooch.retrieve(url, pinned, fname=file.name, path=folder, downloader=fetcher)
            check_sha256(folder / file.name, file.sha256)
            return
        except WeightsCorrupt as error:  # only the first digits are published, and these are others
            (folder / file.name).unlink()
            reason = str(error)
        except OSError as error:  # requests' errors are OSErrors
            reason = f"{url.split('/')[2]} cannot be reached ({type(error).__name__})"
        except ValueError as error:  # pooch's word for a wrong hash; it holds both
            reason = str(error)
    raise WeightsMissing(advice(reason))


def _how_to_get(name: str, places: Places, reason: str) -> str:
    files = "\n".join(f"    {file.name}  from  {file.urls[0]}" for file in known(name).files)
    folders = " or ".join(str(folder) for folder in places.folders(name))
    return (
        f"the weights {name!r} are not here, and cannot be downloaded: {reason}.\n"
        f"On a machine with internet run:  earshot weights fetch {name}\n"
        f"or put these files into {folders}:\n{files}\n"
        f"or name a folder that holds them:  --weights FOLDER  (or EARSHOT_WEIGHTS=FOLDER)"
    )


def find_tagger(places: Places) -> Bundle:
    """The bundle to serve: the explicit folder's own, or the one built (once, then cached) from YAMNet's official weights."""
    for folder in places.folders("yamnet"):
        if (folder / CARD).is_file():
            return load_bundle(folder)
    return build_yamnet_bundle(find_weights("yamnet", places), places.cache)


def find_head(places: Places) -> Bundle | None:
    """The second opinion's bundle: the explicit folder's, or the one in a folder named vggish-head; None where there is none."""
    if places.explicit:
        return load_bundle(places.explicit)
    folders = [folder for folder in places.folders(HEAD) if folder.name == HEAD and (folder / CARD).is_file()]
    return load_bundle(folders[0]) if folders else None


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


def find_embedder(network: str, places: Places, head_places: Places) -> Bundle:
    """The bundle whose embeddings are wanted: YAMNet's, or VGGish's (a head's own, or the one built from the published weights).

    Raises BadOption, WeightsMissing, WeightsCorrupt.
    """
    if network == "yamnet":
        return find_tagger(places)
    if network != "vggish":
        raise BadOption(f"no network named {network!r}; there are: yamnet, vggish")
    head = find_head(head_places)
    return head or build_vggish_bundle(find_weights("vggish", places), places.cache)


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
