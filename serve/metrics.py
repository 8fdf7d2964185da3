"""Prometheus metrics of one stage, through Ray: each node's agent serves those of all its replicas on one page."""

import ray
from ray.util.metrics import Counter, Histogram

PREFIX = "ray_earshot_"  # Ray puts its own name before ours
BOUNDARIES_S = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]


class StageMeter:
    """Counts what one stage does. Names are earshot_*, the tag `stage` says whose."""

    def __init__(self, stage: str) -> None:
        tags = {"stage": stage}
        self._requests = Counter("earshot_requests", "requests taken", ("stage",))
        self._errors = Counter("earshot_errors", "requests that failed, by the error's type", ("stage", "type"))
        self._audio_s = Counter("earshot_audio_seconds", "seconds of audio", ("stage",))
        self._queue_s = Histogram("earshot_queue_seconds", "time before work began", BOUNDARIES_S, ("stage",))
        self._compute_s = Histogram("earshot_compute_seconds", "time at work", BOUNDARIES_S, ("stage",))
        for metric in (self._requests, self._errors, self._audio_s, self._queue_s, self._compute_s):
            metric.set_default_tags(tags)

    def request(self, audio_s: float = 0.0) -> None:
        """One request, over so many seconds of audio."""
        self._requests.inc()
        if audio_s > 0:
            self._audio_s.inc(audio_s)

    def error(self, kind: str) -> None:
        """One request that failed, and the error's type."""
        self._errors.inc(tags={"type": kind})

    def times(self, queue_s: float, compute_s: float) -> None:
        """How long one piece of work waited and took."""
        self._queue_s.observe(max(queue_s, 1e-9))
        self._compute_s.observe(max(compute_s, 1e-9))


async def read_metrics() -> str:
    """Earshot's metrics of every node, in Prometheus' text format. Raises httpx.HTTPError when a node does not answer."""
    import httpx  # an eighth of a second of CPU, which a new replica under load does not have

    lines: list[str] = []
    async with httpx.AsyncClient(timeout=5) as client:
        for node in ray.nodes():
            if node["Alive"]:
                url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                lines += (await client.get(url)).raise_for_status().text.splitlines()
    return "\n".join(line for line in lines if PREFIX in line) + "\n"
