"""Where weights are looked for, how they are fetched, and what is refused."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from models import weights as module
from models.bundle import load_bundle
from models.errors import BadOption, WeightsCorrupt, WeightsMissing
from models.weights import Places, Weights, WeightsFile, fetch_weights, find_head, find_tagger, find_weights
from tests.conftest import free_port

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
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(GOOD) if self.path == "/cut" else len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

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


def list_weights(monkeypatch: pytest.MonkeyPatch, *urls: str, sha256: str = SHA256) -> None:
    """Makes the table's 'vggish-pca' one file, at these addresses."""
    file = WeightsFile("f.bin", sha256, urls or ("https://example.org/f.bin",))
    monkeypatch.setitem(module.TABLE, "vggish-pca", Weights("vggish-pca", "1", (file,), "Apache-2.0", "nothing"))


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
    for file in module.TABLE["yamnet"].files:
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
