"""Where the public data sets come from: official addresses, published hashes, licences, how to cite. Knows nothing of downloading.

The MD5 sums of Zenodo's files are those of their records' pages. Google publishes none for AudioSet, so those files are pinned when
they are first fetched.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """One file to download. `hash` is "md5:..." or "sha256:...", None where none is published; `size_bytes` likewise."""

    name: str
    url: str
    hash: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class Item:
    """What arrives together: one file, or the parts of a split zip, the .zip last. Archives unpack below `into`.

    `gives` are paths that are there once it has arrived; a file that is no archive goes to the first. `strip` drops the archive's own
    top folder.
    """

    files: tuple[File, ...]
    gives: tuple[str, ...]
    into: str = "."
    strip: bool = False


@dataclass(frozen=True)
class Source:
    """One data set. `by_hand` says what no program may do for the user, or cannot; a set without items is by hand altogether."""

    title: str
    homepage: str
    licence: str
    licence_url: str
    cite: str
    items: tuple[Item, ...] = ()
    by_hand: str = ""

    @property
    def size_bytes(self) -> int | None:
        """The download's size, None where any file's is not published."""
        sizes = [file.size_bytes for item in self.items for file in item.files]
        return sum(size for size in sizes if size) if sizes and all(sizes) else None


def _zenodo(record: int, name: str, md5: str, size_bytes: int | None = None) -> File:
    return File(name, f"https://zenodo.org/records/{record}/files/{name}?download=1", f"md5:{md5}", size_bytes)


def _audioset(path: str) -> File:
    return File(
        path.rpartition("/")[2], f"https://storage.googleapis.com/us_audioset/youtube_corpus/v1/{path}"
    )  # no hash is published


def _plain(file: File) -> Item:
    return Item((file,), gives=(file.name,))


PART_BYTES = 3 << 30  # each full part of FSD50K's split zips
FSD50K_DEV = tuple(
    _zenodo(4060432, f"FSD50K.dev_audio.{suffix}", md5, size_bytes)
    for suffix, md5, size_bytes in (
        ("z01", "faa7cf4cc076fc34a44a479a5ed862a3", PART_BYTES),
        ("z02", "8f9b66153e68571164fb1315d00bc7bc", PART_BYTES),
        ("z03", "1196ef47d267a993d30fa98af54b7159", PART_BYTES),
        ("z04", "d088ac4e11ba53daf9f7574c11cccac9", PART_BYTES),
        ("z05", "81356521aa159accd3c35de22da28c7f", PART_BYTES),
        ("zip", "c480d119b8f7a7e32fdb58f3ea4d6c5a", 2_306_663_327),
    )
)
FSD50K_EVAL = (
    _zenodo(4060432, "FSD50K.eval_audio.z01", "3090670eaeecc013ca1ff84fe4442aeb", PART_BYTES),
    _zenodo(4060432, "FSD50K.eval_audio.zip", "6fa47636c3a3ad5c7dfeba99f2637982", 3_037_675_767),
)
SINGAPURA_AUDIO = tuple(
    _zenodo(5645825, f"labelled.{suffix}", md5)
    for suffix, md5 in (
        ("z01", "98477daca861c6950cc8b620cecc286d"),
        ("z02", "873b26cfe25bb3084e39e5af0dfebcad"),
        ("z03", "71322a5c3ba33badfdd8e25c9ebf559a"),
        ("z04", "a6d087babea1f797af99b81cb7c7ea4a"),
        ("zip", "bdd46cc5e9187e97c37989b3b73e786e"),
    )
)
SONYC_AUDIO_MD5 = (  # audio-0.tar.gz, audio-1.tar.gz, ...
    "bbb4dbae7d2e58e18d24878b9ee1eb51",
    "7c369ff37ac6a1fdd8493fdffe62e0a1",
    "412241c063d7f196953d3dd1c44aeb5e",
    "d2a872392d95993a2c238d305b940812",
    "b15b0e0cb3f8584259ef0d24293a9be3",
    "de745f887067433757a2f2c8f99f99bb",
    "b0286c67468369d66336f6f5ddede31f",
    "ff300183ab7a9d3f2f74c3b730ffeb52",
    "7be76b821fa6dbe20f6b50ca440e1024",
    "959f7edfbb26eadad9865069f38aa9dd",
    "84e94de273666c537a3e6b709ee88d9b",
    "44fe1f43121a7d1178aa0cdf7477793b",
    "a7eb21011f460b5ac289f8e285e875ab",
    "27945a8b1008eec787f97213164951e6",
    "fb8c7d81c3bde3a0c86c1e55e6a85a24",
    "f6af9b65d876ef96d199b9e5f0473cb9",
    "e8337c61a90c30989d500f950fbe443a",
    "3e47e85eb4564a30fe7f442ee97ec7b9",
    "c6b2ef4d0d5b7269d465c469cdbbdc4b",
)
ESC50_COMMIT = "33c8ce9eb2cf0b1c2f8bcf322eb349b6be34dbb6"
AUDIOSET_CITE = (
    "J. F. Gemmeke et al. Audio Set: An ontology and human-labeled dataset for audio events. Proc. IEEE ICASSP 2017."
)
CC_BY = "https://creativecommons.org/licenses/by/4.0/"

SOURCES = {
    "esc50": Source(
        title="ESC-50: 2,000 environmental sounds in 50 classes",
        homepage="https://github.com/karolpiczak/ESC-50",
        licence="CC BY-NC 3.0; the clips of ESC-10 alone CC BY 3.0",
        licence_url="https://creativecommons.org/licenses/by-nc/3.0/",
        cite="K. J. Piczak. ESC: Dataset for Environmental Sound Classification. ACM Multimedia 2015, "
        "doi:10.1145/2733373.2806390.",
        items=(
            Item(
                (
                    File(  # GitHub packs the commit; this sum is of that archive, as users of the set pin it
                        "ESC-50.zip",
                        f"https://github.com/karolpiczak/ESC-50/archive/{ESC50_COMMIT}.zip",
                        "md5:071b44018315e034b2c6e8064543d19c",
                    ),
                ),
                gives=("meta/esc50.csv", "audio"),
                strip=True,
            ),
        ),
    ),
    "esc10": Source(
        title="ESC-10: 400 environmental sounds in 10 classes",
        homepage="https://github.com/karolpiczak/ESC-50",
        licence="CC BY 3.0",
        licence_url="https://creativecommons.org/licenses/by/3.0/",
        cite="K. J. Piczak. ESC: Dataset for Environmental Sound Classification. ACM Multimedia 2015, "
        "doi:10.1145/2733373.2806390.",
        by_hand='ESC-10 is a part of ESC-50: fetch esc50, and add --where "esc10 == True" to the commands that read it',
    ),
    "urbansound8k": Source(
        title="UrbanSound8K: 8,732 urban sounds in 10 classes",
        homepage="https://zenodo.org/records/1203745",
        licence="CC BY-NC 4.0, as its record says; its readme says CC BY-NC 3.0",
        licence_url="https://creativecommons.org/licenses/by-nc/4.0/",
        cite="J. Salamon, C. Jacoby and J. P. Bello. A Dataset and Taxonomy for Urban Sound Research. ACM Multimedia 2014.",
        items=(
            Item(
                (_zenodo(1203745, "UrbanSound8K.tar.gz", "9aa69802bbf37fb986f71ec1483a196e", 6_023_741_708),),
                gives=("metadata/UrbanSound8K.csv", "audio"),
                strip=True,
            ),
        ),
    ),
    "singapura": Source(
        title="SINGA:PURA v1.0a, the labelled part: 6,547 recordings of Singapore with strong labels",
        homepage="https://zenodo.org/records/5645825",
        licence="CC BY-SA 4.0",
        licence_url="https://creativecommons.org/licenses/by-sa/4.0/",
        cite="K. Ooi et al. A Strongly-Labelled Polyphonic Dataset of Urban Sounds with Spatiotemporal Context. APSIPA ASC 2021.",
        items=(
            _plain(_zenodo(5645825, "labelled_metadata_public.csv", "c5beb6374e55abfe7cd50f4f498c8376")),
            Item(
                (_zenodo(5645825, "labels_public.zip", "535242cf1094d95d086fc574874e9ddf"),), gives=("labels_public",)
            ),
            Item(SINGAPURA_AUDIO, gives=("labelled",)),
        ),
    ),
    "audioset": Source(
        title="AudioSet: labels of 2.1 million 10-second segments of YouTube videos, without their sound",
        homepage="https://research.google.com/audioset/download.html",
        licence="CC BY 4.0",
        licence_url=CC_BY,
        cite=AUDIOSET_CITE,
        items=tuple(
            _plain(_audioset(f"csv/{name}"))
            for name in (
                "class_labels_indices.csv",
                "eval_segments.csv",
                "balanced_train_segments.csv",
                "unbalanced_train_segments.csv",
            )
        ),
        by_hand="AudioSet ships no sound: put the clips that you have into the same folder, named by their YouTube id",
    ),
    "audioset-features": Source(
        title="AudioSet features: 128 VGGish numbers a second of 2.1 million segments",
        homepage="https://research.google.com/audioset/download.html",
        licence="CC BY 4.0",
        licence_url=CC_BY,
        cite=AUDIOSET_CITE,
        items=(
            _plain(_audioset("csv/class_labels_indices.csv")),
            Item((_audioset("features/features.tar.gz"),), gives=("bal_train", "unbal_train", "eval"), strip=True),
        ),
    ),
    "fsd50k": Source(
        title="FSD50K: 51,197 Freesound clips in 200 classes of AudioSet",
        homepage="https://zenodo.org/records/4060432",
        licence="CC BY 4.0 as a whole; each clip CC0, CC BY, CC BY-NC or CC Sampling+, see FSD50K.metadata/",
        licence_url=CC_BY,
        cite="E. Fonseca et al. FSD50K: an open dataset of human-labeled sound events. IEEE/ACM TASLP 30, 2022.",
        items=(
            *(
                Item((_zenodo(4060432, f"{name}.zip", md5, size_bytes),), gives=(name,))
                for name, md5, size_bytes in (
                    ("FSD50K.ground_truth", "ca27382c195e37d2269c4c866dd73485", 334_701),
                    ("FSD50K.metadata", "b9ea0c829a411c1d42adb9da539ed237", 6_700_838),
                    ("FSD50K.doc", "3516162b82dc2945d3e7feba0904e800", 6_984),
                )
            ),
            Item(FSD50K_DEV, gives=("FSD50K.dev_audio",)),
            Item(FSD50K_EVAL, gives=("FSD50K.eval_audio",)),
        ),
    ),
    "birdclef": Source(
        title="BirdCLEF: bird calls of a Kaggle competition",
        homepage="https://www.kaggle.com/competitions?searchQuery=birdclef",
        licence="the competition's rules; each recording has its own, in the column license",
        licence_url="https://www.kaggle.com/competitions/birdclef-2022/rules",
        cite="The competition's page says how.",
        by_hand="Kaggle gives it to people with an account: accept the rules at "
        "https://www.kaggle.com/competitions/birdclef-2022/rules, run `kaggle competitions download -c birdclef-2022`, "
        "and unzip it so that the folder holds train_metadata.csv and train_audio/",
    ),
    "xeno-canto": Source(
        title="Xeno-canto: recordings of birds and other animals from all over the world",
        homepage="https://xeno-canto.org",
        licence="each recording has its own Creative Commons licence, in the field lic",
        licence_url="https://xeno-canto.org/about/terms",
        cite="Xeno-canto Foundation, https://xeno-canto.org, and the recordists.",
        by_hand="Xeno-canto gives it to people with an API key: register at https://xeno-canto.org, save what "
        "https://xeno-canto.org/api/3/recordings?query=...&key=... answers as recordings.json, and put the MP3s, named by "
        "its file-name, beside it",
    ),
    "sonyc-ust": Source(
        title="SONYC-UST v2.3: 18,510 recordings of New York with urban sound tags",
        homepage="https://zenodo.org/records/3966543",
        licence="CC BY 4.0",
        licence_url=CC_BY,
        cite="M. Cartwright et al. SONYC-UST-V2: An Urban Sound Tagging Dataset with Spatiotemporal Context. DCASE 2020.",
        items=(
            _plain(_zenodo(3966543, "annotations.csv", "70b507b15bb4cfcce4870925302f276b", 14_488_305)),
            _plain(_zenodo(3966543, "dcase-ust-taxonomy.yaml", "6c1cca1c4c383a6ebb0cb71cb74fe3a9", 1_081)),
            *(
                Item((_zenodo(3966543, f"audio-{number}.tar.gz", md5),), gives=("audio",), into="audio", strip=True)
                for number, md5 in enumerate(SONYC_AUDIO_MD5)
            ),
        ),
    ),
}
FETCHABLE = frozenset(name for name, source in SOURCES.items() if source.items)
