"""The client of the fault runs: distinct sounds with known answers at a fixed rate, and what became of each request id.

It never sends a request again: what it counts is what a caller without retries would see.
"""

import asyncio
import io
import itertools
import json
import time
import uuid
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

from benchmarks.bare_loop import load_tagger
from models.answer import Options

RATE_HZ = 16_000
LENGTHS_S = (0.6, 1.0, 1.7, 2.4, 3.1, 4.3, 5.0, 60.0)  # a long one now and then, so that a fault finds work under way
TONES_HZ = (250, 300, 350, 2500, 3000, 3500)
SLACK_S = 5.0  # beyond the service's deadline, after which a request counts as lost
LEAVES_AFTER_S = 0.5  # a client who has sent a part of its sound
SAME = 1e-5  # between two scores
QUESTION = "/v1/classify?second_opinion=always&top_k=3"

RIGHT, WRONG, FULL, CLOSED, REFUSED, LOST = "200", "wrong", "503", "closed", "refused", "lost"
OUTCOMES = (RIGHT, FULL, CLOSED, REFUSED, WRONG, LOST)


Labels = list[dict[str, Any]]


@dataclass(frozen=True)
class Sound:
    """A sound's bytes and what the service must say of it."""

    body: bytes
    labels: Labels
    duration_s: float


@dataclass(frozen=True)
class Outcome:
    """What became of one request: FULL is a 503 that says when to come back, CLOSED an ended connection, REFUSED one never made.

    A status that is none of these stands as itself, such as "500" or "503 without Retry-After".
    """

    request_id: str
    due_s: float
    took_s: float
    what: str


def make_sounds(bundle: Path) -> list[Sound]:
    """Tones that differ in pitch and length, and the tagger's own answer to each."""
    tagger, sounds = load_tagger(bundle), []
    for length_s, tone_hz in itertools.product(LENGTHS_S, TONES_HZ):
        times_s = np.arange(int(length_s * RATE_HZ)) / RATE_HZ
        stream = io.BytesIO()
        soundfile.write(stream, 0.5 * np.sin(2 * np.pi * tone_hz * times_s), RATE_HZ, format="FLAC")
        answer = tagger.tag(stream.getvalue(), Options(top_k=3))
        labels = answer.model_dump(mode="json")["labels"]
        sounds.append(Sound(stream.getvalue(), labels, answer.duration_s))
    return sounds


class Load:
    """An open-loop load: so many requests a second from `start` to `stop`, whatever becomes of them."""

    def __init__(self, url: str, sounds: Sequence[Sound], rate: float, deadline_s: float) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=16)
        self._http = httpx.AsyncClient(
            base_url=url, timeout=deadline_s + SLACK_S, limits=limits, trust_env=False, follow_redirects=False
        )
        self._sounds, self._rate, self._patience_s = sounds, rate, deadline_s + SLACK_S
        self.outcomes: list[Outcome] = []
        self.sent = 0
        self._running: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._pacer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Load":
        self._pacer = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops sending and waits for every outcome."""
        self._stop.set()
        if self._pacer:
            await self._pacer
        await asyncio.gather(*self._running)
        await self._http.aclose()

    def since(self, due_s: float) -> list[Outcome]:
        """The outcomes of the requests that were due from that time on, as far as they are known."""
        return [outcome for outcome in self.outcomes if outcome.due_s >= due_s]

    def burst(self, count: int) -> None:
        """So many requests more, at once."""
        for number in range(count):
            self._send(number, time.monotonic())

    def hang_up(self, count: int) -> None:
        """So many clients at once who send a part of a sound, or all of it, and go: they want no answer, and have no outcome."""
        for number in range(count):
            self._start(self._leave(self._sounds[number * 7 % len(self._sounds)], whole=number % 2 == 0))

    async def _pace(self) -> None:
        began_s = time.monotonic()
        for number in itertools.count():
            due_s = began_s + number / self._rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if self._stop.is_set():
                return
            self._send(number, due_s)

    def _send(self, number: int, due_s: float) -> None:
        self.sent += 1
        self._start(self._ask(self._sounds[number * 7 % len(self._sounds)], due_s))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _leave(self, sound: Sound, *, whole: bool) -> None:
        body = sound.body if whole else sound.body[: len(sound.body) // 2]
        url = self._http.base_url
        _, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST {QUESTION} HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: audio/flac\r\nContent-Length: {len(sound.body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        await asyncio.sleep(LEAVES_AFTER_S if not whole else 0)
        writer.close()

    async def _ask(self, sound: Sound, due_s: float) -> None:
        request_id = f"chaos-{uuid.uuid4().hex}"
        try:
            async with asyncio.timeout(self._patience_s):
                headers = {"X-Request-ID": request_id, "Content-Type": "audio/flac"}
                what = judge(await self._http.post(QUESTION, content=sound.body, headers=headers), sound, request_id)
        except (TimeoutError, httpx.TimeoutException):
            what = LOST
        except httpx.ConnectError:
            what = REFUSED
        except httpx.TransportError:
            what = CLOSED
        self.outcomes.append(Outcome(request_id, due_s, time.monotonic() - due_s, what))


def judge(answer: httpx.Response, sound: Sound, request_id: str) -> str:
    """What an answer is worth."""
    if answer.status_code == 503:
        return FULL if answer.headers.get("retry-after") else "503 without Retry-After"
    if answer.status_code != 200:
        return str(answer.status_code)
    told = answer.json()
    right = (told["request_id"], told["duration_s"]) == (request_id, sound.duration_s) and _same(
        told["labels"], sound.labels
    )
    return RIGHT if right else WRONG


def _same(told: Labels, expected: Labels) -> bool:
    """The same labels in the same order; a float graph's last digit depends on what a patch was batched with."""
    if [label["mid"] for label in told] != [label["mid"] for label in expected]:
        return False
    pairs = itertools.product(zip(told, expected, strict=True), ("score", "peak"))
    return all(abs(float(one[name]) - float(other[name])) < SAME for (one, other), name in pairs)


def count_doubled(access_log: Path) -> int:
    """Request ids that the service says it answered with 200 more than once."""
    lines = (json.loads(line) for line in access_log.read_text().splitlines())
    answered = Counter(line["request_id"] for line in lines if line["status"] == 200)
    return sum(times > 1 for name, times in answered.items() if name.startswith("chaos-"))
