"""Fetching a data set from a real HTTP server that breaks off, changes its files and tells lies."""

import datetime
import hashlib
import io
import ipaddress
import json
import os
import re
import ssl
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from rich.progress import Progress

from models.errors import BadOption, EarshotError, JobFailed, StoreFailed
from pipelines import cli_fetch
from pipelines.download import Patience
from pipelines.fetch import Manner, fetch
from pipelines.sources import FETCHABLE, SOURCES, File, Item, Source
from tests.conftest import free_port

NAME = "tones"
SOUND = os.urandom(300_000)
TABLE = b"filename,fold\na.wav,1\n"
AT_ONCE = Patience(tries=3, pause_s=0, timeout_s=10)


@dataclass
class Server:
    """What the server holds, and how it behaves; `asked` is (path, its Range header) of every request, `sent` the bytes of bodies."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"v1"'})
    breaks: list[int] = field(default_factory=list)  # of the next answers: bytes after which the connection ends
    failures: list[int] = field(default_factory=list)  # of the next answers: their status
    moved: dict[str, str] = field(default_factory=dict)
    ranges: bool = True
    shift: int = 0  # of the part that is sent, from the one that was asked for
    careless: bool = False  # sends parts of whatever version it has
    claimed_bytes: int | None = None
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0

    def hold(self, name: str, content: bytes, **more: object) -> File:
        """Puts a file there; gives the table's entry for it."""
        self.files[f"/{name}"] = content
        return File(name, f"{self.url}/{name}", **{"hash": md5(content)} | more)


def build_handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.asked.append((self.path, asked))
            content = server.files.get(self.path)
            if server.failures or self.path in server.moved or content is None:
                status = server.failures.pop(0) if server.failures else 302 if self.path in server.moved else 404
                self.answer(status, b"", {"Location": server.moved.get(self.path, "")} if status == 302 else {})
                return
            version = server.headers.get("ETag") or server.headers.get("Last-Modified")
            start = int(re.findall(r"\d+", asked)[0]) + server.shift if asked and server.ranges else None
            if start is None or (self.headers.get("If-Range") != version and not server.careless):
                self.answer(200, content, {})
            elif start >= len(content):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            else:
                self.answer(206, content[start:], {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            claimed = server.claimed_bytes if server.claimed_bytes and body else len(body)
            for name, value in (server.headers | headers | {"Content-Length": str(claimed)}).items():
                self.send_header(name, value)
            self.end_headers()
            body = body[: server.breaks.pop(0)] if server.breaks and body else body
            self.wfile.write(body)
            server.sent += len(body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server on a port of its own, until the block ends."""
    server = Server()
    listener = ThreadingHTTPServer(("127.0.0.1", 0), build_handler(server))
    if context:
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
    server.url = f"{'https' if context else 'http'}://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "tones"


@dataclass
class Run:
    """What one `fetch` gave and said."""

    fetched: int
    said: str


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def list_source(monkeypatch: pytest.MonkeyPatch, *items: Item, by_hand: str = "") -> None:
    """Makes the table's 'tones' these items."""
    source = Source("Tones", "https://example.org/tones", "CC0", "https://example.org/cc0", "A. Tone", items, by_hand)
    monkeypatch.setitem(SOURCES, NAME, source)


def list_plain(monkeypatch: pytest.MonkeyPatch, *files: File) -> None:
    """Makes the table's 'tones' these files, none of them packed."""
    list_source(monkeypatch, *(Item((file,), gives=(file.name,)) for file in files))


def run(root: Path, name: str = NAME, *, keep: bool = False) -> Run:
    said: list[str] = []
    fetched = fetch(name, root, Manner(Progress(disable=True), said.append, keep, AT_ONCE))
    return Run(fetched, "\n".join(said))


def refuse(root: Path, kind: type[EarshotError], *, match: str) -> None:
    with pytest.raises(kind, match=match):
        run(root)


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def names_in(root: Path) -> set[str]:
    """Every file below the folder, hidden ones too."""
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir()}


def test_data_set_arrives_as_its_reader_wants_it(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_source(
        monkeypatch,
        Item((server.hold("t.zip", zipped({"tones-main/meta/t.csv": TABLE})),), ("meta/t.csv",), strip=True),
        Item((server.hold("a.tar.gz", tarred({"a-0/a.wav": SOUND})),), ("audio",), into="audio", strip=True),
        Item((server.hold("notes.txt", b"notes"),), ("notes.txt",)),
    )
    assert run(root).fetched == 3
    assert names_in(root) == {"LICENCE.txt", "SOURCE.json", "meta/t.csv", "audio/a.wav", "notes.txt"}
    assert (root / "meta/t.csv").read_bytes() == TABLE
    assert (root / "audio/a.wav").read_bytes() == SOUND
    assert (root / "notes.txt").read_bytes() == b"notes"
    assert not (root / "downloads").exists()


def test_licence_is_said_first_and_stored_with_the_source(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = server.hold("sound.wav", SOUND)
    list_plain(monkeypatch, file)
    said = run(root).said
    for word in ("Tones", "https://example.org/tones", "CC0", "https://example.org/cc0", "A. Tone"):
        assert word in said
        assert word in (root / "LICENCE.txt").read_text()
    record = json.loads((root / "SOURCE.json").read_text())
    assert (record["name"], record["licence"], record["cite"]) == (NAME, "CC0", "A. Tone")
    entry = record["files"]["sound.wav"]
    assert (entry["url"], entry["hash"], entry["size_bytes"]) == (file.url, md5(SOUND), len(SOUND))
    assert datetime.datetime.fromisoformat(entry["fetched"]).tzinfo is datetime.UTC


def test_licence_is_said_even_when_nothing_can_be_reached(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    list_plain(monkeypatch, File("sound.wav", f"http://127.0.0.1:{free_port()}/sound.wav"))
    said: list[str] = []
    with pytest.raises(StoreFailed):
        fetch(NAME, root, Manner(Progress(disable=True), said.append, patience=AT_ONCE))
    assert "CC0" in said[0]


def test_second_run_asks_for_nothing_and_changes_nothing(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = Item((server.hold("t.zip", zipped({"t.csv": TABLE})),), ("t.csv",))
    list_source(monkeypatch, packed, Item((server.hold("sound.wav", SOUND),), ("sound.wav",)))
    run(root)
    before = {name: (root / name).stat().st_mtime_ns for name in names_in(root)}
    server.asked.clear()
    assert run(root).fetched == 0
    assert server.asked == []
    assert {name: (root / name).stat().st_mtime_ns for name in names_in(root)} == before


def test_what_was_deleted_is_brought_again_and_only_that(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_source(
        monkeypatch,
        Item((server.hold("t.zip", zipped({"t.csv": TABLE})),), ("t.csv",)),
        Item((server.hold("s.zip", zipped({"audio/s.wav": SOUND})),), ("audio",)),
    )
    run(root)
    (root / "t.csv").unlink()
    server.asked.clear()
    assert run(root).fetched == 1
    assert server.asked == [("/t.zip", None)]
    assert (root / "t.csv").read_bytes() == TABLE


def test_new_version_in_the_table_is_fetched(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("t.csv", TABLE))
    run(root)
    list_plain(monkeypatch, server.hold("t.csv", TABLE + b"b.wav,2\n"))
    assert run(root).fetched == 1
    assert (root / "t.csv").read_bytes() == TABLE + b"b.wav,2\n"


def test_broken_connection_transfers_only_the_rest(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    server.breaks = [100_000, 50_000]
    run(root)
    assert (root / "sound.wav").read_bytes() == SOUND
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-", "bytes=150000-"]
    assert server.sent == len(SOUND)


def test_every_step_forward_earns_new_patience(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    server.breaks = [10_000] * 20
    run(root)
    assert (root / "sound.wav").read_bytes() == SOUND
    assert server.sent == len(SOUND)


def test_run_that_gave_up_is_resumed_by_the_next(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    server.breaks = [100_000, 0, 0, 0]
    refuse(root, StoreFailed, match=r"sound\.wav: 127\.0\.0\.1 cannot be reached, or breaks off .*goes on from here")
    assert "sound.wav" not in names_in(root)
    server.asked.clear()
    assert run(root).fetched == 1
    assert server.asked == [("/sound.wav", "bytes=100000-")]
    assert server.sent == len(SOUND)
    assert names_in(root) == {"LICENCE.txt", "SOURCE.json", "sound.wav"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"ETag": '"v1"'}, {"ETag": '"v2"'}),
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}),
    ],
    ids=["ETag", "Last-Modified"],
)
@pytest.mark.parametrize("careless", [False, True])
def test_file_that_changed_meanwhile_is_fetched_afresh(
    root: Path,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, str],
    after: dict[str, str],
    careless: bool,
) -> None:
    newer = os.urandom(200_000)
    list_plain(monkeypatch, server.hold("sound.wav", SOUND, hash=md5(newer)))
    server.headers, server.breaks = before, [100_000, 0, 0, 0]
    refuse(root, StoreFailed, match="breaks off")
    server.files["/sound.wav"], server.headers, server.careless = newer, after, careless
    assert run(root).fetched == 1
    assert server.asked[4:] == [("/sound.wav", "bytes=100000-"), ("/sound.wav", None)][: 1 + careless]
    assert (root / "sound.wav").read_bytes() == newer


@pytest.mark.parametrize(
    ("headers", "asked"),
    [
        ({}, [None, None]),
        ({"ETag": 'W/"v1"'}, [None, None]),
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, [None, "bytes=100000-"]),
    ],
    ids=["no version", "weak ETag", "Last-Modified"],
)
def test_only_a_file_with_a_sure_version_is_resumed(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], asked: list[str | None]
) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    server.headers, server.breaks = headers, [100_000]
    run(root)
    assert [range_ for _, range_ in server.asked] == asked
    assert (root / "sound.wav").read_bytes() == SOUND


def test_server_that_cannot_resume_sends_all_again(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    server.ranges, server.breaks = False, [100_000]
    run(root)
    assert (root / "sound.wav").read_bytes() == SOUND
    assert server.sent == 100_000 + len(SOUND)


def test_another_part_than_asked_for_is_not_taken(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    server.shift, server.breaks = -1, [100_000]
    run(root)
    assert (root / "sound.wav").read_bytes() == SOUND
    assert [asked for _, asked in server.asked] == [None, "bytes=100000-", None]


def test_download_that_was_whole_already_is_only_checked(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    (root / "downloads").mkdir(parents=True)
    (root / "downloads/sound.wav.part").write_bytes(SOUND)
    (root / "downloads/sound.wav.part.tag").write_text('"v1"')
    run(root)
    assert (root / "sound.wav").read_bytes() == SOUND
    assert server.asked == [("/sound.wav", f"bytes={len(SOUND)}-")]
    assert server.sent == 0


def test_wrong_hash_is_refused_and_nothing_looks_whole(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", b"<html>sign in</html>", hash=md5(SOUND)))
    refuse(root, JobFailed, match=rf"sound\.wav.*expected {md5(SOUND)}.*run the same command again.*example\.org/tones")
    assert names_in(root) == {"LICENCE.txt", "SOURCE.json"}
    server.files["/sound.wav"] = SOUND
    assert run(root).fetched == 1
    assert (root / "sound.wav").read_bytes() == SOUND


def test_unpublished_hash_is_said_and_recorded_and_held_to(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_plain(monkeypatch, server.hold("t.csv", TABLE, hash=None))
    assert f"t.csv: nobody publishes its hash; it has {sha256(TABLE)}" in run(root).said
    entry = json.loads((root / "SOURCE.json").read_text())["files"]["t.csv"]
    assert (entry["hash"], entry["hash_published"]) == (sha256(TABLE), False)
    assert "nobody publishes" not in run(root).said

    (root / "t.csv").unlink()
    server.files["/t.csv"] = b"something else"
    refuse(root, JobFailed, match=f"expected {sha256(TABLE)}")
    assert "t.csv" not in names_in(root)


def test_table_that_was_changed_since_is_noticed(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("t.csv", TABLE))
    run(root)
    (root / "t.csv").write_bytes(b"mine")
    refuse(root, JobFailed, match=r"t\.csv: not the expected file .*Delete it and run the same command again")
    assert (root / "t.csv").read_bytes() == b"mine"


def test_file_put_there_by_hand_is_taken(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped({"t.csv": TABLE})
    list_source(monkeypatch, Item((server.hold("t.zip", content),), ("t.csv",)))
    (root / "downloads").mkdir(parents=True)
    (root / "downloads/t.zip").write_bytes(content)
    assert run(root).fetched == 0
    assert server.asked == []
    assert (root / "t.csv").read_bytes() == TABLE


def test_wrong_file_put_there_by_hand_is_refused_and_left(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_plain(monkeypatch, server.hold("t.csv", TABLE))
    (root / "downloads").mkdir(parents=True)
    (root / "downloads/t.csv").write_bytes(b"other")
    refuse(root, JobFailed, match="Delete it and run the same command again")
    assert (root / "downloads/t.csv").read_bytes() == b"other"
    assert "t.csv" not in names_in(root)


def test_archives_stay_when_asked(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped({"t.csv": TABLE})
    list_source(monkeypatch, Item((server.hold("t.zip", content),), ("t.csv",)))
    run(root, keep=True)
    assert (root / "downloads/t.zip").read_bytes() == content


def test_archive_that_leads_out_is_refused_and_not_done(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_source(monkeypatch, Item((server.hold("t.zip", zipped({"../../evil": b"evil"})),), ("t.csv",)))
    for _ in range(2):
        refuse(root, JobFailed, match="outside of")
    assert not list(root.parent.rglob("evil"))


def test_archive_without_what_it_should_hold_is_told(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_source(monkeypatch, Item((server.hold("t.zip", zipped({"readme": b"moved"})),), ("meta/t.csv",)))
    refuse(root, JobFailed, match=r"t\.zip: holds no meta/t\.csv\. Get the data set from https://example\.org/tones")


@pytest.mark.parametrize("status", [404, 403, 410])
def test_refusal_says_where_to_put_the_file_by_hand(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    file = server.hold("sound.wav", SOUND)
    list_plain(monkeypatch, file)
    server.failures = [status]
    said = rf"sound\.wav: 127\.0\.0\.1 does not give it \({status} .*put sound\.wav from {file.url} into .*downloads by hand"
    refuse(root, JobFailed, match=said)
    assert len(server.asked) == 1


def test_server_in_trouble_is_asked_again(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    server.failures = [503, 429]
    assert run(root).fetched == 1
    server.files["/sound.wav"] = b""
    server.failures = [500] * 9
    (root / "sound.wav").unlink()
    refuse(root, StoreFailed, match=r"breaks off \(500 .*run the same command again")
    assert len(server.failures) == 9 - AT_ONCE.tries


def test_no_network_is_one_clear_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    list_plain(monkeypatch, File("sound.wav", f"http://127.0.0.1:{free_port()}/sound.wav"))
    refuse(root, StoreFailed, match=r"cannot be reached.*Check the network and run the same command again.*by hand")


def test_few_redirects_are_followed(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    file = server.hold("sound.wav", SOUND)
    server.moved = {f"/{hop}": f"/{hop + 1}" for hop in range(3)} | {"/3": "/sound.wav", "/round": "/round"}
    list_plain(monkeypatch, File("sound.wav", f"{server.url}/0", file.hash))
    assert run(root).fetched == 1
    server.asked.clear()
    list_plain(monkeypatch, File("sound.wav", f"{server.url}/round", "md5:other"))
    refuse(root, JobFailed, match="leads nowhere")
    assert len(server.asked) <= 6


def test_way_from_https_to_http_is_not_taken(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate = write_certificate(tmp_path / "own.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    file = server.hold("sound.wav", SOUND)
    with serving(context) as safe:
        list_plain(monkeypatch, safe.hold("sound.wav", SOUND))
        assert run(root).fetched == 1
        safe.moved = {"/moved": file.url}
        list_plain(monkeypatch, File("sound.wav", f"{safe.url}/moved", md5(b"newer")))
        refuse(root, JobFailed, match=r"which is not encrypted.*by hand")
    assert server.asked == []


def write_certificate(path: Path) -> Path:
    """A key and its own certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
        now + datetime.timedelta(days=1)
    )
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, pkcs8, plain) + certificate.public_bytes(pem))
    return path


def test_file_larger_than_the_disk_is_refused_at_once(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    server.claimed_bytes = 10**18
    refuse(root, StoreFailed, match=r"no space left for sound\.wav: it needs 1000000000\.0 GB more")


def test_disk_that_fills_up_is_one_clear_error(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    (root / "downloads").mkdir(parents=True)
    (root / "downloads/sound.wav.part").symlink_to("/dev/full")
    refuse(root, StoreFailed, match="no space left. Free some, and run the same command again")
    assert "sound.wav" not in names_in(root)


def test_unknown_name_tells_the_known(root: Path) -> None:
    with pytest.raises(BadOption, match=r"no data set named 'ecs50' .*there are: esc50, esc10, urbansound8k"):
        run(root, "ecs50")


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - FETCHABLE))
def test_set_that_needs_an_account_says_what_to_do(root: Path, name: str) -> None:
    with pytest.raises(BadOption) as error:
        run(root, name)
    assert SOURCES[name].by_hand in str(error.value)
    assert not root.exists()


def test_folder_with_other_things_is_left_alone(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    root.mkdir()
    (root / "thesis.txt").write_text("mine")
    refuse(root, BadOption, match=r"--root .*tones: holds other files")
    assert names_in(root) == {"thesis.txt"}
    (root / "thesis.txt").unlink()
    run(root)
    monkeypatch.setitem(SOURCES, "noises", SOURCES[NAME])
    with pytest.raises(BadOption, match=r"holds tones\. Name another folder for noises"):
        run(root, "noises")


def test_damaged_record_is_one_clear_error(root: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    run(root)
    for text in ("{", "[]", "{}"):
        (root / "SOURCE.json").write_text(text)
        refuse(root, JobFailed, match=r"SOURCE\.json: damaged")


def test_table_is_sound() -> None:
    for name, source in SOURCES.items():
        files = [file for item in source.items for file in item.files]
        assert len({file.name for file in files}) == len(files), name
        assert source.licence
        assert source.cite
        assert source.items or source.by_hand, name
        assert all(url.startswith("https://") for url in (source.homepage, source.licence_url))
        for file in files:
            assert file.url.startswith("https://")
            assert file.hash is None or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", file.hash), file.name
    hashes_ = [file.hash for source in SOURCES.values() for item in source.items for file in item.files if file.hash]
    assert len(set(hashes_)) == len(hashes_), "a hash was copied to the wrong file"


def test_verb_says_the_next_command(
    root: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    list_plain(monkeypatch, server.hold("sound.wav", SOUND))
    for expected in ("1 file downloaded", f"nothing to do: all of {NAME} is in {root} already"):
        cli_fetch.fetch(NAME, str(root))
        said = capsys.readouterr().err
        assert expected in said
        assert said.rstrip().endswith(f"next:  earshot data describe {NAME} --root {root}")


@pytest.mark.parametrize(("name", "place"), [("nothing", "here"), (NAME, "s3://bucket/tones"), ("birdclef", "here")])
def test_verb_ends_with_2_for_wrong_usage(
    tmp_path: Path, name: str, place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(typer.Exit) as end:
        cli_fetch.fetch(name, place)
    assert end.value.exit_code == 2
    assert capsys.readouterr().err.startswith("earshot: ")
