"""Scores -> the answer: labels, events in seconds, timeline."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from models.answer import Options, Scored, agrees, compose_answer, list_events, list_labels
from models.bundle import Bundle, Card, FrontEnd, Label
from models.frontend import PATCH_S

LABELS = (Label("Silence", "/s"), Label("Glass", "/g"), Label("Dog", "/d"))
BUNDLE = Bundle(Path(), Card(name="m", version="1", graphs={}, weights_sha256="ab", files_sha256={}), LABELS)
HOP_S = 0.48


def short_glass(patches: int = 10) -> np.ndarray:
    """5 s of silence with one breaking glass in patches 4 and 5."""
    scores = np.zeros((patches, 3), np.float32)
    scores[:, 0] = 0.9
    scores[4:6] = [0.1, 0.8, 0.02]
    return scores


def with_card(**changes: object) -> Bundle:
    return Bundle(Path(), BUNDLE.card.model_copy(update=changes), LABELS)


def compose(scores: np.ndarray, duration_s: float = 5.0, **options: object):
    return compose_answer("id", duration_s, BUNDLE, Scored(scores, HOP_S), Options.model_validate(options), ["odd"])


def test_score_is_the_mean_and_peak_the_maximum_over_patches() -> None:
    scores = np.array([[0.2, 0.0, 0.0], [0.6, 0.0, 0.0]], np.float32)
    best = list_labels(scores, LABELS, Options())[0]
    assert (best.label, best.mid, best.score, best.peak) == ("Silence", "/s", 0.4, 0.6)


def test_short_sound_in_silence_is_an_event_though_silence_leads() -> None:
    answer = compose(short_glass(), threshold=0.5)
    assert answer.labels[0].label == "Silence"
    glass = [event for event in answer.events if event.label == "Glass"]
    assert [(event.start_s, event.end_s, event.score) for event in glass] == [(1.92, 3.36, 0.8)]


def test_scores_are_not_made_to_sum_to_one() -> None:
    answer = compose(np.full((3, 3), 0.75, np.float32))
    assert [label.score for label in answer.labels] == [0.75, 0.75, 0.75]


def test_rank_changes_the_order_and_not_the_numbers() -> None:
    scores = short_glass()
    scores[4] = [0.1, 0.95, 0.02]
    by_mean, by_peak = compose(scores).labels, compose(scores, rank="peak").labels
    assert [label.label for label in by_mean] == ["Silence", "Glass", "Dog"]
    assert [label.label for label in by_peak] == ["Glass", "Silence", "Dog"]
    assert sorted(by_mean, key=lambda x: x.label) == sorted(by_peak, key=lambda x: x.label)


def test_top_k_limits_the_labels_and_may_exceed_the_classes() -> None:
    assert len(compose(short_glass(), top_k=1).labels) == 1
    assert len(compose(short_glass(), top_k=1000).labels) == 3


def test_event_lasts_from_its_first_patch_to_its_last_patch_end() -> None:
    scored = Scored(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]], np.float32), HOP_S)
    event = list_events(scored, BUNDLE, 0.5, 10.0)[0]
    assert (event.start_s, event.end_s) == (HOP_S, round(2 * HOP_S + PATCH_S, 3))
    long = list_events(scored, with_card(front_end=FrontEnd(frames=500)), 0.5, 10.0)[0]
    assert (long.start_s, long.end_s) == (HOP_S, round(2 * HOP_S + 5, 3))


@pytest.mark.parametrize("duration_s", [0.2, 0.96, 1.0, 4.9])
def test_events_end_with_the_sound(duration_s: float) -> None:
    patches = 1 + int(np.ceil(max(duration_s - PATCH_S, 0) / HOP_S))
    events = compose(np.ones((patches, 3), np.float32), duration_s).events
    assert [(event.start_s, event.end_s) for event in events] == [(0.0, duration_s)] * 3


def test_threshold_one_finds_only_full_certainty() -> None:
    assert compose(short_glass(), threshold=1).events == []
    assert len(compose(np.ones((2, 3), np.float32), threshold=1).events) == 3


def test_each_label_has_its_own_threshold_unless_the_caller_names_one() -> None:
    scored = Scored(np.array([[0.9, 0.2, 0.4]], np.float32), HOP_S)

    def heard(bundle: Bundle, threshold: float | None) -> list[str]:
        return [event.label for event in list_events(scored, bundle, threshold, 1.0)]

    own = with_card(thresholds=[0.95, 0.2, 0.3])
    assert heard(own, None) == ["Dog", "Glass"]
    assert heard(own, 0.3) == heard(BUNDLE, None) == ["Silence", "Dog"]
    assert heard(own, 0) == ["Silence", "Dog", "Glass"]


def test_timeline_has_a_row_a_patch_and_a_column_a_named_label() -> None:
    timeline = compose(short_glass(), timeline=True, top_k=1).timeline
    assert timeline is not None
    assert timeline.labels == ["Silence", "Glass"]  # the label, and the event beyond it; the highest peak first
    assert timeline.length_s == PATCH_S
    assert timeline.start_s == [round(patch * HOP_S, 3) for patch in range(10)]
    np.testing.assert_allclose(timeline.scores, short_glass()[:, :2], atol=1e-6)
    assert compose(short_glass()).timeline is None


def test_answer_says_what_was_odd_and_which_model_spoke() -> None:
    answer = compose(short_glass())
    assert (answer.request_id, answer.duration_s, answer.warnings) == ("id", 5.0, ["odd"])
    assert answer.model.model_dump() == {"name": "m", "version": "1", "weights_sha256": "ab"}


def test_second_opinion_agrees_when_its_best_label_is_named() -> None:
    answer = compose(short_glass(), top_k=1)

    def opinion(best: int) -> list:
        return list_labels(np.eye(3, dtype=np.float32)[[best]], LABELS, Options())

    assert agrees(opinion(0), answer)
    assert agrees(opinion(1), answer)  # an event's label counts
    assert not agrees(opinion(2), answer)
    assert not agrees([], answer)


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 0},
        {"threshold": 1.01},
        {"threshold": -0.1},
        {"rank": "sum"},
        {"hop_s": 0},
        {"second_opinion": "x"},
        {"k": 1},
    ],
)
def test_unknown_options_and_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(wrong)


def test_threshold_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        Options(threshold=float("nan"))
    with pytest.raises(ValidationError):
        Options(hop_s=float("nan"))
