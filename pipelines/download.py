"""One file over HTTP: resumed where it broke off, begun afresh when it has changed. Knows nothing of data sets.

What has arrived is FILE.part, and beside it, in FILE.part.tag, which version of the file that is (RFC 9110: ETag, or else
Last-Modified); `If-Range` asks for the rest of that version or all of a newer one.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import httpx

from models.errors import JobFailed, StoreFailed

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

MAX_REDIRECTS = 5
BUSY = (408, 425, 429, 500, 502, 503, 504)  # worth another try


@dataclass(frozen=True)
class Patience:
    """How often in a row a download may bring nothing new, and how long to wait before the second try; each wait doubles."""

    tries: int = 4
    pause_s: float = 1.0
    timeout_s: float = 30.0


class Broken(Exception):
    """The server's answer is of no use now; another try may bring a better one."""


def download(url: str, part: Path, progress: "Progress", patience: Patience, advice: str) -> None:
    """Fills `part` with the file at the address.

    Raises StoreFailed where the server cannot be reached or the disk is too small, JobFailed where it does not give the file; both
    end with `advice`, the way to get it by hand. What has arrived stays, except when the server says that it is of no use.
    """
    name = part.name.removesuffix(".part")
    task = progress.add_task(name, total=None)
    furthest, stuck = _size(part), 0
    with _client(url, patience, advice) as client:
        while True:
            try:
                _receive(client, url, part, progress, task, advice)
                return
            except (httpx.TransportError, Broken) as error:
                reached = _size(part)
                stuck = 0 if reached > furthest else stuck + 1
                furthest = max(furthest, reached)
                if stuck >= patience.tries:
                    raise StoreFailed(
                        f"{name}: {httpx.URL(url).host} cannot be reached, or breaks off ({_reason(error)}). Check the network and run "
                        f"the same command again, it goes on from here; {advice}"
                    ) from error
            except (httpx.TooManyRedirects, httpx.InvalidURL) as error:
                raise JobFailed(f"{name}: {url} leads nowhere ({_reason(error)}); {advice}") from error
            time.sleep(patience.pause_s * 2**stuck)


def _client(url: str, patience: Patience, advice: str) -> httpx.Client:
    """A client that follows few redirects, and none from https to http."""
    scheme = httpx.URL(url).scheme

    def stay_safe(request: httpx.Request) -> None:
        if scheme == "https" and request.url.scheme != "https":
            raise JobFailed(f"{url} leads to {request.url}, which is not encrypted, and was not followed; {advice}")

    return httpx.Client(
        follow_redirects=True,
        max_redirects=MAX_REDIRECTS,
        timeout=patience.timeout_s,
        headers={"Accept-Encoding": "identity"},  # a place in the file is a place in the stream
        event_hooks={"request": [stay_safe]},
    )


def _receive(client: httpx.Client, url: str, part: Path, progress: "Progress", task: "TaskID", advice: str) -> None:
    """One request: the rest of `part`, or all of it."""
    tag_file = part.with_name(f"{part.name}.tag")
    have, tag = _size(part), tag_file.read_text() if tag_file.is_file() else ""
    asked = {"Range": f"bytes={have}-", "If-Range": tag} if have and tag else {}
    with client.stream("GET", url, headers=asked) as reply:
        if reply.status_code == 416 and reply.headers.get("Content-Range") == f"bytes */{have}":
            return
        goes_on = reply.status_code == 206
        if reply.status_code == 416 or (goes_on and not _fits(reply, have, tag)):
            part.unlink(missing_ok=True)
            raise Broken("another part than the one that was asked for")
        if reply.status_code not in (200, 206):
            _refuse(reply, part, advice)
        have = have if goes_on else 0
        left = int(reply.headers.get("Content-Length", 0))
        _check_room(part, left)
        progress.update(task, completed=have, total=have + left if left else None)
        with part.open("ab" if goes_on else "wb") as stream:
            if not goes_on:
                tag_file.write_text(_tag(reply))
            for block in reply.iter_raw():
                stream.write(block)
                progress.advance(task, len(block))


def _fits(reply: httpx.Response, have: int, tag: str) -> bool:
    """Is this the rest of what is here?"""
    return reply.headers.get("Content-Range", "").startswith(f"bytes {have}-") and _tag(reply) in (tag, "")


def _tag(reply: httpx.Response) -> str:
    """What names the file's version; a weak ETag says nothing about single bytes."""
    etag = reply.headers.get("ETag", "W/")
    return str(reply.headers.get("Last-Modified", "") if etag.startswith("W/") else etag)


def _refuse(reply: httpx.Response, part: Path, advice: str) -> NoReturn:
    code = f"{reply.status_code} {reply.reason_phrase}".strip()
    if reply.status_code in BUSY:
        raise Broken(code)
    name = part.name.removesuffix(".part")
    raise JobFailed(f"{name}: {reply.url.host} does not give it ({code} at {reply.url}); {advice}")


def _check_room(part: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(part.parent).free
    if needed_bytes > free_bytes:
        raise StoreFailed(
            f"{part.parent}: no space left for {part.name.removesuffix('.part')}: it needs {_gigabytes(needed_bytes)} more, and "
            f"{_gigabytes(free_bytes)} are free. Free some, or name another folder, and run the same command again"
        )


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
