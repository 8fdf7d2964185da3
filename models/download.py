"""Downloads a file from the first of its addresses that answers: with a bar, its hash checked, moved into place when whole."""

import contextlib
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pooch
import requests
from tqdm import tqdm  # type: ignore[import-untyped]

from models.bundle import check_sha256
from models.errors import WeightsCorrupt, WeightsMissing

REACH_S = 3.0  # within which a server must answer, where time is short
TIMEOUT_S = 20.0  # without a byte, where it is not


class Bar(tqdm):  # type: ignore[misc]
    """A progress bar in bytes that ends a download when its time is up."""

    def __init__(self, until_s: float) -> None:
        super().__init__(unit="B", unit_scale=True, ncols=79)
        self._until_s = until_s

    def __bool__(self) -> bool:
        return True  # also where no length is known: pooch asks before it calls `update`

    def update(self, n: float = 1) -> None:
        """As tqdm's. Raises TimeoutError."""
        if time.monotonic() > self._until_s:
            raise TimeoutError
        super().update(n)


def is_reachable(url: str) -> bool:
    """Does the server answer within REACH_S? A name's resolution has no time limit: the thread that hangs there is left behind."""
    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(OSError):
            requests.head(url, timeout=REACH_S)
            answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(REACH_S)
    return answered.is_set()


def download(name: str, sha256: str, urls: Sequence[str], folder: Path, until_s: float = math.inf) -> None:
    """One file into a folder. `sha256` may be its first digits. A broken download leaves nothing behind, and starts afresh.

    Raises WeightsMissing with the reason, also when the monotonic clock reaches `until_s` before it is done.
    """
    pooch.get_logger().setLevel("WARNING")
    pinned = f"sha256:{sha256}" if len(sha256) == 64 else None
    reason = "it took too long"
    for url in urls:
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            break
        try:
            with Bar(until_s) as bar:
                fetcher = pooch.HTTPDownloader(progressbar=bar, timeout=min(TIMEOUT_S, left_s))
                pooch.retrieve(url, pinned, fname=name, path=folder, downloader=fetcher)
            check_sha256(folder / name, sha256)
            return
        except WeightsCorrupt as error:  # only the first digits are published, and these are others
            (folder / name).unlink()
            reason = str(error)
        except OSError as error:  # requests' errors are OSErrors
            reason = f"{url.split('/')[2]} cannot be reached ({type(error).__name__})"
        except ValueError as error:  # pooch's word for a wrong hash; it holds both
            reason = str(error)
    raise WeightsMissing(reason)
