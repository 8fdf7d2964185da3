"""How many replicas a deployment needs: a policy for Ray Serve's autoscaler that looks at queued seconds of audio.

    replicas = sum of min(length_s, full_s) / full_s, rounded to the nearest number, within the deployment's bounds

`length_s` is the length of each sound that the deployment's replicas hold, queued or at work (serve/backlog.py); the sum is the mean over
Ray's look-back period. `full_s` is what one replica may hold: what it works off in the time that a request may take longer for it. A sound
counts as one replica at most, for it is not divided; and the nearest number will do, for a long sound lets short ones pass. Ray's own
policy counts requests: to it a clip of 10 minutes is as much work as one of 5 seconds.

It grows at once, and shrinks to the highest number that was wanted within the last `shrink_after_s`. Ray runs it in Serve's controller,
pickled by value: it imports nothing of ours.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

BACKLOG = "backlog_s"  # the metric's name, as the deployments report it


class RecentHighest:
    """The highest number of the last `window_s` seconds."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._falling: list[tuple[float, int]] = []  # (time, number): a number under a later one never counts again

    def add(self, now_s: float, number: int) -> int:
        """Notes the number of this moment and gives the highest of the window."""
        recent = [(time_s, one) for time_s, one in self._falling if one > number and now_s - time_s < self._window_s]
        self._falling = [*recent, (now_s, number)]
        return self._falling[0][1]


class QueuedSeconds:
    """The policy of one deployment, as Ray Serve calls it."""

    def __init__(self, full_s: float, shrink_after_s: float) -> None:
        self._full_s = full_s
        self._recent = RecentHighest(shrink_after_s)
        self._watching = False

    def __call__(self, context: "AutoscalingContext") -> tuple[int, dict[str, Any]]:
        """(replicas, nothing to remember for Ray)."""
        now_s = context.current_time
        if not self._watching:  # a new controller must not shrink what the old one had grown
            self._recent.add(now_s, context.target_num_replicas)
            self._watching = True
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return min(max(self._recent.add(now_s, self._wanted(context)), low), high), {}

    def _wanted(self, context: "AutoscalingContext") -> int:
        reported = (context.aggregated_metrics or {}).get(BACKLOG)
        if not reported:  # no replica tells its seconds: by requests, as Ray's own policy
            wanted: int = math.ceil(context.total_num_requests / context.config.target_ongoing_requests)
            return wanted
        held_s: float = sum(reported.values())
        return math.floor(held_s / self._full_s + 0.5)
