"""Where weights are looked for, how they are fetched, what stands in for them, and what is refused."""

import contextlib
import hashlib
import itertools
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models import download
from models.bundle import FrontEnd, Label, load_bundle, save_bundle
from models.errors import BadOption, WeightsCorrupt, WeightsMissing
from models.published import TABLE, Weights, WeightsFile
from models.weights import (
    Places,
    fetch_weights,
    find_embedder,
    find_head,
    find_tagger,
    find_weights,
    list_starters,
    starter_notice,
)
from tests.conftest import free_port
from tests.tiny_models import LABELS, build_tone_graph

GOOD = b"weights " * 1000
SHA256 = hashlib.sha256(GOOD).hexdigest()


@dataclass
class Mirror:
    """A real HTTP server: path -> what it answers. /cut promises more bytes than it sends."""

    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.asked.append(self.path)
            body = {"/good": GOOD, "/wrong": b"<html>sign in</html>", "/cut": GOOD[:100]}.get(self.path)
            if self.path == "/endless":
                self.dribble()
                return
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(GOOD) if self.path == "/cut" else len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def dribble(self) -> None:
            """Bytes without end, until the other side hangs up."""
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in itertools.repeat(None):
                    self.wfile.write(GOOD)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mirror = Mirror(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield mirror
    server.shutdown()
    thread.join()
    server.server_close()


def list_weights(monkeypatch: pytest.MonkeyPatch, *urls: str, sha256: str = SHA256, name: str = "vggish-pca") -> None:
    """Makes an entry of the table one file, at these addresses."""
    file = WeightsFile("f.bin", sha256, urls or ("https://example.org/f.bin",))
    monkeypatch.setitem(TABLE, name, Weights(name, "1", (file,), "Apache-2.0", "nothing"))


def put(folder: Path, content: bytes = GOOD) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "f.bin").write_bytes(content)
    return folder


def test_explicit_path_then_folder_then_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list_weights(monkeypatch)
    cache = put(tmp_path / "cache" / "vggish-pca")
    places = Places(folder=tmp_path / "folder", cache=tmp_path / "cache", download=False)
    assert find_weights("vggish-pca", places) == cache
    below = put(tmp_path / "folder" / "vggish-pca")
    assert find_weights("vggish-pca", places) == below
    folder = put(tmp_path / "folder")
    assert find_weights("vggish-pca", places) == folder
    explicit = put(tmp_path / "explicit")
    assert find_weights("vggish-pca", Places(explicit, folder, tmp_path / "cache", False)) == explicit
    assert find_weights("vggish-pca", Places(explicit / "f.bin", folder, tmp_path / "cache", False)) == explicit


def test_explicit_path_without_weights_is_not_replaced_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_weights(monkeypatch)
    folder = put(tmp_path / "folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsMissing, match=r"empty holds neither card\.json nor f\.bin"):
        find_weights("vggish-pca", Places(tmp_path / "empty", folder))


def test_explicit_path_that_does_not_exist_is_not_replaced_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_weights(monkeypatch)
    put(tmp_path)
    with pytest.raises(WeightsMissing, match="typo"):
        find_weights("vggish-pca", Places(tmp_path / "typo"))


def test_missing_weights_say_what_to_do_and_from_where(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing) as error:
        find_weights("yamnet", Places(folder=tmp_path / "here", cache=tmp_path / "cache", download=False))
    for said in ("earshot weights fetch yamnet", "downloads are off", str(tmp_path / "here"), "EARSHOT_WEIGHTS=FOLDER"):
        assert said in str(error.value)
    for file in TABLE["yamnet"].files:
        assert f"{file.name}  from  {file.urls[0]}" in str(error.value)


def test_unknown_name_tells_the_known(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="there are: yamnet, vggish, vggish-pca"):
        find_weights("yamnett", Places(cache=tmp_path))


def test_wrong_hash_is_refused_with_both_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list_weights(monkeypatch)
    put(tmp_path, b"other")
    with pytest.raises(WeightsCorrupt, match=f"{hashlib.sha256(b'other').hexdigest()}, expected {SHA256}"):
        find_weights("vggish-pca", Places(folder=tmp_path, download=False))


def test_download_comes_whole_into_the_cache_and_once(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_weights(monkeypatch, f"{mirror.url}/good")
    for _ in range(2):
        folder = find_weights("vggish-pca", Places(cache=tmp_path))
        assert [file.name for file in folder.iterdir()] == ["f.bin"]
        assert (folder / "f.bin").read_bytes() == GOOD
    assert mirror.asked == ["/good"]


@pytest.mark.parametrize("first", ["unreachable", "/missing", "/wrong", "/cut"])
def test_next_mirror_is_asked_when_the_first_fails(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    bad = f"http://127.0.0.1:{free_port()}/x" if first == "unreachable" else mirror.url + first
    list_weights(monkeypatch, bad, f"{mirror.url}/good")
    assert (fetch_weights("vggish-pca", Places(cache=tmp_path)) / "f.bin").read_bytes() == GOOD
    assert mirror.asked[-1] == "/good"


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8]], ids=["whole hash", "first digits"])
@pytest.mark.parametrize(
    ("path", "said"), [("/missing", "cannot be reached"), ("/wrong", SHA256[:8]), ("/cut", "cannot be reached")]
)
def test_failed_download_leaves_nothing_and_can_be_repeated(
    tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch, path: str, said: str, sha256: str
) -> None:
    list_weights(monkeypatch, mirror.url + path, sha256=sha256)
    with pytest.raises((WeightsMissing, WeightsCorrupt), match=said):
        fetch_weights("vggish-pca", Places(cache=tmp_path))
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    list_weights(monkeypatch, f"{mirror.url}/good", sha256=sha256)
    assert (fetch_weights("vggish-pca", Places(cache=tmp_path)) / "f.bin").read_bytes() == GOOD


def test_head_is_found_by_its_folder_name_only(tmp_path: Path, tone_head: Path) -> None:
    assert find_head(Places(cache=tmp_path)) is None
    assert find_head(Places(folder=tone_head.parent, cache=tmp_path)) is None
    (tmp_path / "vggish-head").symlink_to(tone_head)
    for places in (Places(cache=tmp_path), Places(folder=tmp_path, cache=tmp_path / "no"), Places(explicit=tone_head)):
        bundle = find_head(places)
        assert bundle is not None
        assert bundle.card.name == "tone-head"


def test_explicit_model_folder_is_the_tagger(tone_tagger: Path, tmp_path: Path) -> None:
    assert find_tagger(Places(explicit=tone_tagger, cache=tmp_path)).card.name == "tones"


def test_damaged_cached_graph_is_built_anew(shared: Path, tmp_path: Path) -> None:
    places = Places(folder=shared / "weights", cache=tmp_path, download=False)
    built = find_tagger(places)
    graph = built.graph("int8").read_bytes()
    built.graph("int8").write_bytes(graph[:-1])
    assert find_tagger(places) == built
    assert load_bundle(built.path).graph("int8").read_bytes() == graph
    stamp = built.graph("int8").stat().st_mtime_ns
    assert find_tagger(places).graph("int8").stat().st_mtime_ns == stamp  # built once


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    """A folder of starter weights: a tagger and a second opinion."""
    folder = tmp_path / "starter"
    save_tones(folder / "yamnet", "starter-tones", starter=True)
    save_tones(folder / "vggish-slim", "starter-head", starter=True)
    return folder


def save_tones(folder: Path, name: str, labels: tuple[Label, ...] = LABELS, **about: object) -> Path:
    graph = build_tone_graph().SerializeToString()
    return save_bundle(folder, {"int8": graph}, labels, name=name, version="1", **about).path


def offline(tmp_path: Path, starter: Path, **places: object) -> Places:
    return Places(**{"cache": tmp_path / "cache", "download": False, "starter": starter} | places)  # type: ignore[arg-type]


def test_starter_stands_in_where_nothing_is_found_and_says_so(tmp_path: Path, starter: Path) -> None:
    tagger = find_tagger(offline(tmp_path, starter))
    assert (tagger.card.name, tagger.card.starter) == ("starter-tones", True)
    assert [bundle.card.name for bundle in list_starters(offline(tmp_path, starter))] == [
        "starter-tones",
        "starter-head",
    ]
    notice = "Starter weights: knows 3 sounds, for trying out. Real YAMNet: earshot weights fetch yamnet"
    assert starter_notice(len(tagger.labels)) == notice


def test_real_weights_go_before_the_starter(shared: Path, tmp_path: Path, starter: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "yamnet").symlink_to(shared / "weights")
    assert find_tagger(offline(tmp_path, starter)).card.name == "yamnet"


def test_starter_does_not_stand_in_for_what_the_user_named(tmp_path: Path, starter: Path) -> None:
    (tmp_path / "empty").mkdir()
    for named in ({"explicit": tmp_path / "empty"}, {"folder": tmp_path / "empty"}, {"folder": tmp_path / "typo"}):
        with pytest.raises(WeightsMissing):
            find_tagger(offline(tmp_path, starter, **named))
    (tmp_path / "cache" / "yamnet").mkdir(parents=True)
    for file in TABLE["yamnet"].files:
        (tmp_path / "cache" / "yamnet" / file.name).write_bytes(b"damaged")
    with pytest.raises(WeightsCorrupt):
        find_tagger(offline(tmp_path, starter))


def test_starter_opinion_is_heard_beside_a_tagger_that_knows_its_labels(tmp_path: Path, starter: Path) -> None:
    places = offline(tmp_path, starter)
    head = find_head(places, find_tagger(places))
    assert head is not None
    assert (head.card.name, head.card.starter) == ("starter-head", True)
    other = load_bundle(save_tones(tmp_path / "mine", "mine", tuple(Label(name, "") for name in ("A", "B", "C"))))
    assert find_head(places, other) is None
    assert find_head(places) is None


def test_own_head_goes_before_the_starters(tmp_path: Path, starter: Path, tone_head: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "vggish-head").symlink_to(tone_head)
    places = offline(tmp_path, starter)
    head = find_head(places, find_tagger(places))
    assert head is not None
    assert head.card.name == "tone-head"


def test_starter_embeds_where_the_real_network_cannot_be_had_and_the_log_says_so(
    tmp_path: Path, starter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = offline(tmp_path, starter)
    with caplog.at_level(logging.WARNING):
        assert find_embedder("yamnet", places, places).card.name == "starter-tones"
        assert find_embedder("vggish", places, places).card.name == "starter-head"
    assert caplog.messages == [starter_notice(3), starter_notice(3, "VGGish")]
    assert caplog.messages[1].endswith("Real VGGish: earshot weights fetch vggish")


def test_download_is_tried_before_the_starter_stands_in(
    tmp_path: Path, starter: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_weights(monkeypatch, f"{mirror.url}/wrong", name="yamnet")
    assert find_tagger(offline(tmp_path, starter, download=True)).card.starter
    assert mirror.asked == ["/wrong"]


@pytest.mark.parametrize("network", ["refuses", "swallows"])
def test_network_that_does_not_answer_holds_nothing_up(
    tmp_path: Path, starter: Path, monkeypatch: pytest.MonkeyPatch, network: str
) -> None:
    monkeypatch.setattr(download, "REACH_S", 0.2)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        if network == "swallows":
            hole.listen()  # connects, and never answers
        list_weights(monkeypatch, f"http://127.0.0.1:{hole.getsockname()[1]}/x", name="yamnet")
        assert find_tagger(offline(tmp_path, starter, download=True)).card.starter
        with pytest.raises(WeightsMissing, match="the network does not answer"):
            fetch_weights("yamnet", offline(tmp_path, starter), briefly=True)


def test_slow_download_is_given_up_and_leaves_nothing(
    tmp_path: Path, starter: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.weights.BRIEF_S", 0.3)
    list_weights(monkeypatch, f"{mirror.url}/endless", f"{mirror.url}/good", name="yamnet")
    assert find_tagger(offline(tmp_path, starter, download=True)).card.starter
    assert mirror.asked == ["/endless"]
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_model_that_takes_features_is_not_served(tmp_path: Path) -> None:
    places = Places(explicit=save_tones(tmp_path / "m", "m", takes="features", architecture="stft-cnn"))
    for find in (find_tagger, find_head):
        with pytest.raises(BadOption, match=r"stft-cnn takes the features .* serve a model trained on logmel features"):
            find(places)


def test_model_with_longer_windows_gives_no_embeddings(tmp_path: Path) -> None:
    places = Places(explicit=save_tones(tmp_path / "m", "m", front_end=FrontEnd(frames=500)))
    with pytest.raises(BadOption, match=r"windows of 5 s, and embeddings are made of patches of 0\.96 s"):
        find_embedder("yamnet", places, Places())
