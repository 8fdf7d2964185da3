"""How many replicas are wanted for how many queued seconds, without Ray; and what the stages report as queued."""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.settings import Settings
from models.answer import Options
from models.audio import Limits
from models.bundle import load_bundle
from models.errors import EarshotError
from serve.app import build
from serve.autoscaling import BACKLOG, QueuedSeconds, RecentHighest
from serve.backlog import Backlog, guess_length_s
from serve.run import service_args
from serve.schemas import PACES, ServiceArgs, StageScaling
from serve.stages import Listener, NetworkStage, OpinionPolicy, Spectrogram
from tests.sounds import encode, tone

FULL_S, SHRINK_AFTER_S = 100.0, 10.0


@dataclass
class Config:
    target_ongoing_requests: float = 4


@dataclass
class Context:
    """What of Ray's AutoscalingContext the policy reads."""

    current_time: float
    total_num_requests: float
    aggregated_metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    target_num_replicas: int = 1
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 8
    config: Config = field(default_factory=Config)


def policy() -> QueuedSeconds:
    return QueuedSeconds(FULL_S, SHRINK_AFTER_S)


def decide(one: QueuedSeconds, now_s: float, backlog_s: float, target: int = 1) -> int:
    """The decision at a moment when one replica reports so much."""
    context = Context(now_s, 100, {BACKLOG: {"replica": backlog_s}}, target)
    return one(context)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lengths_s", "wanted"),
    [
        ([], 1),
        ([5], 1),
        ([5] * 29, 1),  # a replica's fill, and nearly a half
        ([5] * 30, 2),
        ([600], 1),  # one sound is not divided
        ([600] * 4, 4),
        ([600, 5, 5], 1),  # the long one lets the short ones pass
        ([600, 600, 5], 2),
        ([600] * 99, 8),
    ],
)
def test_replicas_follow_the_seconds_and_a_long_sound_counts_as_one(lengths_s: list[float], wanted: int) -> None:
    backlog = Backlog()
    with contextlib.ExitStack() as held:
        for length_s in lengths_s:
            held.enter_context(backlog.holding(length_s))
        assert decide(policy(), 0.0, backlog.audio_s(FULL_S)) == wanted


def test_more_backlog_never_wants_fewer_replicas() -> None:
    numbers = [decide(policy(), 0.0, backlog_s) for backlog_s in range(0, 900, 7)]
    assert all(fewer <= more for fewer, more in pairwise(numbers))


def test_every_decision_is_within_the_bounds() -> None:
    dice, one, now_s = random.Random(1), policy(), 0.0
    for _ in range(1000):
        now_s += dice.random()
        assert 1 <= decide(one, now_s, 10 ** dice.uniform(-3, 6)) <= 8


def test_it_grows_at_once() -> None:
    one = policy()
    assert decide(one, 0.0, 0) == 1
    assert decide(one, 0.1, 500) == 5


def test_it_shrinks_only_after_the_delay_and_then_to_the_highest_of_that_time() -> None:
    one = policy()
    assert decide(one, 0.0, 500) == 5
    assert decide(one, 4.0, 300) == 5
    assert decide(one, 5.0, 0) == 5
    assert decide(one, 9.9, 0) == 5
    assert decide(one, 10.0, 0) == 3
    assert decide(one, 13.9, 0) == 3
    assert decide(one, 14.0, 0) == 1


def test_no_backlog_means_the_lower_bound() -> None:
    one = policy()
    assert decide(one, 0.0, 0) == 1
    assert decide(one, 100.0, 0) == 1


def test_replicas_that_tell_no_seconds_are_scaled_by_their_requests() -> None:
    for metrics in ({}, {"running_requests": {"replica": 9.0}}, {BACKLOG: {}}):
        assert policy()(Context(0.0, 9, metrics))[0] == 3  # type: ignore[arg-type]


def test_a_new_controller_does_not_shrink_what_the_old_one_had_grown() -> None:
    one = policy()
    assert decide(one, 1000.0, 0, target=6) == 6
    assert decide(one, 1010.0, 0, target=6) == 1


def test_the_highest_of_the_window_is_that_of_a_plain_search() -> None:
    dice, recent, told = random.Random(2), RecentHighest(3.0), list[tuple[float, int]]()
    now_s = 0.0
    for _ in range(500):
        now_s += dice.random()
        told.append((now_s, dice.randint(0, 9)))
        assert recent.add(*told[-1]) == max(number for time_s, number in told if now_s - time_s < 3.0)


@pytest.mark.parametrize("pace", PACES)
def test_ray_takes_the_policy_and_its_figures_from_our_settings(pace: str, tone_tagger: Path) -> None:
    scaling = StageScaling.model_validate({"pace": pace, "full_s": 200, "max_replicas": 7})
    config = build(ServiceArgs(weights=tone_tagger, placement="fused", api=scaling))._bound_deployment
    scales = config._deployment_config.autoscaling_config
    assert (scales.min_replicas, scales.max_replicas, scales.upscale_delay_s, scales.downscale_delay_s) == (1, 7, 0, 0)
    assert scales.look_back_period_s == PACES[scaling.pace].look_back_s
    assert scales.policy.policy_kwargs == {"full_s": 200, "shrink_after_s": PACES[scaling.pace].shrink_after_s}
    assert scales.policy.get_policy()(**scales.policy.policy_kwargs)(Context(0.0, 9, {BACKLOG: {"r": 1000.0}}))[0] == 5


def test_one_machine_has_a_fixed_number_unless_it_may_have_more(tone_tagger: Path) -> None:
    def scaling(**given: object) -> tuple[int | None, int, int]:
        api = service_args(Settings.model_validate(given), load_bundle(tone_tagger), None).api
        return api.replicas, api.min_replicas, api.max_replicas

    assert scaling(replicas=3)[0] == 3
    assert scaling(max_replicas=4) == (None, 1, 4)
    assert scaling(replicas=2, max_replicas=4) == (None, 2, 4)
    with pytest.raises(ValidationError, match="max_replicas 2 is less than replicas 3"):
        Settings(replicas=3, max_replicas=2)


def test_a_replica_that_goes_has_time_for_the_longest_request(tone_tagger: Path) -> None:
    args = ServiceArgs(weights=tone_tagger, placement="fused", deadline_s=30, body_timeout_s=20)
    assert build(args)._bound_deployment._deployment_config.graceful_shutdown_timeout_s >= 50


def test_held_seconds_are_given_back_whatever_ends_the_work() -> None:
    backlog = Backlog()
    with backlog.holding(5), backlog.holding(600):
        assert backlog.audio_s() == 605
    with pytest.raises(EarshotError), backlog.holding(5):
        raise EarshotError("no")
    assert backlog.audio_s() == 0


def test_a_sounds_length_is_known_before_it_is_decoded() -> None:
    long = encode(tone(440, seconds=60.0))
    assert guess_length_s(long) == pytest.approx(60)
    assert guess_length_s(long, max_s=30) == 30
    assert guess_length_s(b"x" * 400_000) == pytest.approx(25)
    assert guess_length_s(b"x" * 160_000) == pytest.approx(10)  # no sound: by its size
    assert 0 < guess_length_s(long[:60_000]) < 60


class Silent:
    """A meter that nobody reads."""

    def request(self, audio_s: float = 0.0) -> None: ...
    def error(self, kind: str) -> None: ...
    def times(self, queue_s: float, compute_s: float) -> None: ...


def test_a_sound_is_in_the_backlog_while_it_is_decoded_and_scored_and_not_after(tone_tagger: Path) -> None:
    yamnet = NetworkStage(tone_tagger, Silent(), "cpu")
    listener = Listener(Spectrogram(Limits(), Silent()), yamnet, load_bundle(tone_tagger), None, None, OpinionPolicy())
    sound, seen = encode(tone(440, seconds=60.0)), set[float]()

    async def watch() -> None:
        asked = asyncio.create_task(listener.classify(sound, Options(), "id"))
        while not asked.done():
            seen.add(round(listener.backlog_s(FULL_S)))
            await asyncio.sleep(0)

    asyncio.run(watch())
    assert seen <= {0, 60}
    assert 60 in seen
    assert listener.backlog_s(FULL_S) == 0
