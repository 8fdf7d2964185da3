"""Where weights and models are looked for, and how what is missing is fetched.

Order of look-up: the path the user gave, the weights folder or shared store (EARSHOT_WEIGHTS), the user's cache, a download from the
official address, and where the user named no place of their own, the starter weights in the repository. A file with another hash is
refused. Knows nothing of Ray, HTTP or the environment.
"""

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from models.bundle import CARD, Bundle, check_sha256, load_bundle
from models.errors import BadOption, WeightsMissing
from models.frontend import PATCH_FRAMES, PATCH_S
from models.published import Weights, build_vggish_bundle, build_yamnet_bundle, known

HEAD = "vggish-head"
EMBEDDERS = {"yamnet": "YAMNet", "vggish": "VGGish"}
STARTER = Path(__file__).resolve().parent / "starter"
STARTER_TAGGER, STARTER_HEAD = "yamnet", "vggish-slim"  # its folders
BRIEF_S = 15.0  # for a download that nothing may wait long for, because starter weights can stand in

logger = logging.getLogger("earshot")


def default_cache() -> Path:
    """The user's cache folder for weights and the graphs built from them."""
    return platformdirs.user_cache_path("earshot")


@dataclass(frozen=True)
class Places:
    """Where weights are looked for, in this order: `explicit`, `folder`, `cache`, a download into `cache`, `starter`.

    `folder` may be the address of a store (s3://bucket/weights): what it holds is copied into `cache`.
    """

    explicit: Path | None = None
    folder: Path | str | None = None
    cache: Path = field(default_factory=default_cache)
    download: bool = True
    starter: Path | None = STARTER

    @property
    def store(self) -> str | None:
        """The address of the shared store, where `folder` is one."""
        return str(self.folder) if self.folder and "://" in str(self.folder) else None

    def search(self, name: str) -> Iterator[Path]:
        """As `folders`, and before them the copy of what the shared store holds. Raises StoreFailed, WeightsCorrupt."""
        if self.store and not self.explicit:
            from models.weights_store import copy_weights  # brings pyarrow along

            copied = copy_weights(self.store, name, self.cache, at_root=name != HEAD)
            if copied:
                yield copied
        yield from self.folders(name)

    def folders(self, name: str) -> Iterator[Path]:
        """The folders of this machine that may hold the named weights, in the order of look-up."""
        if self.explicit:
            yield self.explicit.parent if self.explicit.is_file() else self.explicit
            return
        if self.folder and not self.store:
            yield Path(self.folder)
            yield Path(self.folder) / name
        yield self.cache / name


def find_weights(name: str, places: Places, *, briefly: bool = False) -> Path:
    """The folder that holds all of the named weights' files, hashes checked; downloads them when they are nowhere.

    Raises WeightsMissing (saying what to do), WeightsCorrupt.
    """
    weights = known(name)
    for folder in places.search(name):
        if all((folder / file.name).is_file() for file in weights.files):
            verify_weights(weights, folder)
            return folder
    if places.explicit:
        names = " and ".join(file.name for file in weights.files)
        raise WeightsMissing(f"{places.explicit} holds neither {CARD} nor {names}")
    if not places.download:
        raise WeightsMissing(_how_to_get(name, places, "downloads are off"))
    return fetch_weights(name, places, briefly=briefly)


def verify_weights(weights: Weights, folder: Path) -> None:
    """Raises WeightsCorrupt, with both hashes, when a file in the folder is not the pinned one."""
    for file in weights.files:
        check_sha256(folder / file.name, file.sha256)


def fetch_weights(name: str, places: Places, *, briefly: bool = False) -> Path:
    """Downloads the named weights into the cache, hash checked. Gives the folder.

    `briefly` gives up within seconds where the network does not answer, and after BRIEF_S where it is slow. Raises WeightsMissing.
    """
    from models.download import download, is_reachable  # slow to import, and a download is rare

    weights = known(name)
    folder = places.cache / name
    missing = [file for file in weights.files if not (folder / file.name).is_file()]
    until_s = time.monotonic() + BRIEF_S if briefly else math.inf
    try:
        if briefly and not all(is_reachable(file.urls[0]) for file in missing):
            raise WeightsMissing("the network does not answer")
        for file in missing:
            download(file.name, file.sha256, file.urls, folder, until_s)
    except WeightsMissing as error:
        raise WeightsMissing(_how_to_get(name, places, str(error))) from error
    verify_weights(weights, folder)
    return folder


def _how_to_get(name: str, places: Places, reason: str) -> str:
    files = "\n".join(f"    {file.name}  from  {file.urls[0]}" for file in known(name).files)
    folders = " or ".join([*filter(None, [places.store]), *(str(folder) for folder in places.folders(name))])
    return (
        f"the weights {name!r} are not here, and cannot be downloaded: {reason}.\n"
        f"On a machine with internet run:  earshot weights fetch {name}\n"
        f"or put these files into {folders}:\n{files}\n"
        f"or name a folder that holds them:  --weights FOLDER  (or EARSHOT_WEIGHTS=FOLDER)"
    )


def find_tagger(places: Places) -> Bundle:
    """The bundle to serve: the explicit folder's own, the one built (once, then cached) from YAMNet's official weights, the starter's.

    Raises WeightsMissing, WeightsCorrupt, and BadOption for a model that cannot be served.
    """
    for folder in places.search("yamnet"):
        if (folder / CARD).is_file():
            return load_servable(folder)
    starter = _stand_in(STARTER_TAGGER, places)
    try:
        folder = find_weights("yamnet", places, briefly=starter is not None)
    except WeightsMissing:
        if starter is None:
            raise
        return starter
    return build_yamnet_bundle(folder, places.cache)


def find_head(places: Places, tagger: Bundle | None = None) -> Bundle | None:
    """The second opinion's bundle: the explicit folder's, the one in a folder named vggish-head, the starter's; None where there is none.

    The starter's speaks only beside a tagger that knows all its labels: any other it could do nothing but contradict.
    """
    if places.explicit:
        return load_servable(places.explicit)
    for folder in places.search(HEAD):
        if folder.name == HEAD and (folder / CARD).is_file():
            return load_servable(folder)
    starter = find_starter(STARTER_HEAD, places) if tagger else None
    return starter if starter and tagger and starter.names <= tagger.names else None


def load_servable(folder: Path) -> Bundle:
    """A bundle that hears sound. Raises as load_bundle, and BadOption for one whose graph takes the features of a data set."""
    bundle = load_bundle(folder)
    if bundle.card.takes == "features":
        raise BadOption(
            f"{folder}: {bundle.card.architecture or bundle.card.name} takes the features that `earshot featurize` made, and cannot be "
            "served: serve a model trained on logmel features, or on embeddings of a network whose weights are here"
        )
    return bundle


def find_starter(name: str, places: Places) -> Bundle | None:
    """A bundle of the starter weights; None where they are not there."""
    folder = places.starter / name if places.starter else None
    return load_bundle(folder) if folder and (folder / CARD).is_file() else None


def list_starters(places: Places) -> list[Bundle]:
    """Every bundle of the starter weights that is there."""
    return [starter for name in (STARTER_TAGGER, STARTER_HEAD) if (starter := find_starter(name, places))]


def _stand_in(name: str, places: Places) -> Bundle | None:
    """Starter weights, unless the user named a place: what is missing there is an error."""
    return None if places.explicit or places.folder else find_starter(name, places)


def starter_notice(sounds: int, instead_of: str = "YAMNet") -> str:
    """What a person must know of starter weights."""
    fetch = f"earshot weights fetch {instead_of.lower()}"
    return f"Starter weights: knows {sounds} sounds, for trying out. Real {instead_of}: {fetch}"


def warn_of_starter(bundle: Bundle, instead_of: str = "YAMNet") -> Bundle:
    """Says in the log where a bundle's weights are only starter weights; gives the bundle."""
    if bundle.card.starter:
        logger.warning(starter_notice(len(bundle.labels), instead_of))
    return bundle


def find_embedder(network: str, places: Places, head_places: Places) -> Bundle:
    """The bundle whose embeddings are wanted: YAMNet's, or VGGish's (a head's own, or the one built from the published weights).

    Where those cannot be had the starter's; features and models say by its SHA-256 which it was. Raises BadOption, WeightsMissing,
    WeightsCorrupt.
    """
    if network not in EMBEDDERS:
        raise BadOption(f"no network named {network!r}; there are: {', '.join(EMBEDDERS)}")
    full_name = EMBEDDERS[network]
    bundle = find_tagger(places) if network == "yamnet" else find_head(head_places) or _find_vggish(places)
    if bundle.card.front_end.frames != PATCH_FRAMES:
        raise BadOption(
            f"{bundle.path}: it hears windows of {bundle.card.front_end.patch_s:g} s, and embeddings are made of patches of {PATCH_S:g} s: "
            f"name a folder with {full_name}'s own weights"
        )
    return warn_of_starter(bundle, full_name)


def _find_vggish(places: Places) -> Bundle:
    try:
        folder = find_weights("vggish", places)
    except WeightsMissing:
        if starter := _stand_in(STARTER_HEAD, places):
            return starter
        raise
    return build_vggish_bundle(folder, places.cache)
