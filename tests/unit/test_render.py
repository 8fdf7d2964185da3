import base64
import json
import re

from cluster.client import InputRefused
from models.answer import Answer, Event, LabelScore, ModelName, SecondOpinion, Timeline
from models.errors import BadInput
from ui.render import MAX_EVENT_ROWS, drowned_labels, render_answer, render_error, render_models, render_notice


def glass_in_silence(**changes: object) -> Answer:
    """Five quiet seconds with a glass in them, asked for the single best label."""
    answer = Answer(
        request_id="r1",
        duration_s=1.92,
        model=ModelName(name="yamnet", version="1", weights_sha256="0" * 64),
        labels=[LabelScore(label="Silence", mid="/m/1", score=0.6, peak=0.9)],
        events=[
            Event(label="Silence", mid="/m/1", start_s=0.0, end_s=0.96, score=0.9),
            Event(label="Glass", mid="/m/2", start_s=0.48, end_s=1.44, score=0.8),
        ],
        second_opinion=SecondOpinion(asked=False, why="unavailable"),
        timeline=Timeline(
            labels=["Silence", "Glass"],
            start_s=[0, 0.48, 0.96],
            length_s=0.96,
            scores=[[0.9, 0.0], [0.6, 0.8], [0.3, 0.1]],
        ),
    )
    return answer.model_copy(update=changes)


def headline(html: str) -> str:
    found = re.search(r'class="es-headline">(.*?)</div>', html)
    assert found
    return found.group(1)


def test_a_short_sound_does_not_drown() -> None:
    answer = glass_in_silence()
    (glass,) = drowned_labels(answer)
    assert (glass.label, round(glass.score, 6), glass.peak) == ("Glass", 0.3, 0.8)
    html = render_answer(answer, b"png")
    assert "<li>Glass</li>" in headline(html)
    assert "Silence" not in headline(html)
    assert "Also heard" in html


def test_silence_alone_is_said() -> None:
    events = glass_in_silence().events[:1]
    assert "<li>Silence</li>" in headline(render_answer(glass_in_silence(events=events), b"png"))


def test_without_events_the_closest_label_is_said() -> None:
    html = render_answer(glass_in_silence(events=[], timeline=None), None)
    assert "nothing above the threshold" in headline(html)
    assert "No label reaches the threshold" in html
    assert "did not draw this picture" in html


def test_the_second_opinion_stands_beside_the_first() -> None:
    labels = [LabelScore(label="Wind chime", mid="", score=0.5, peak=0.7)]
    opinion = SecondOpinion(asked=True, why="unsure", model="vggish-head", labels=labels, agrees=False)
    html = render_answer(glass_in_silence(second_opinion=opinion), b"png")
    assert "es-pair" in html
    assert "Wind chime" in html
    assert "differs" in html
    assert "es-pair" not in render_answer(glass_in_silence(), b"png")


def test_the_download_is_the_whole_answer() -> None:
    answer = glass_in_silence()
    encoded = re.search(r"data:application/json;base64,([^\"]+)", render_answer(answer, b"png"))
    assert encoded
    assert json.loads(base64.b64decode(encoded.group(1))) == answer.model_dump()


def test_many_events_are_cut_in_the_page() -> None:
    event = glass_in_silence().events[0]
    html = render_answer(glass_in_silence(events=[event] * (MAX_EVENT_ROWS + 7)), b"png")
    assert html.count("<tr>") == MAX_EVENT_ROWS + 1
    assert "And 7 more" in html


def test_words_from_outside_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    labels = [LabelScore(label=evil, mid="", score=0.5, peak=0.5)]
    events = [Event(label=evil, mid="", start_s=0, end_s=1, score=0.5)]
    opinion = SecondOpinion(asked=True, why="sampled", model=evil, labels=labels, agrees=True)
    model = ModelName(name=evil, version=evil, weights_sha256="")
    changes = {"labels": labels, "events": events, "second_opinion": opinion, "model": model, "warnings": [evil]}
    pages = [
        render_answer(glass_in_silence(**changes, request_id=evil), b"png"),
        render_error(InputRefused(evil, status=422, request_id=evil)),
        render_models([{"name": evil, "version": evil, "labels": [], "licence": evil, "weights_sha256": evil}]),
    ]
    assert all("<script" not in page for page in pages)


def test_starter_weights_are_told_of_where_they_are_the_first_network() -> None:
    starter = {"role": "tagger", "labels": ["Dog", "Rain"], "starter": True}
    real, head = starter | {"starter": False}, starter | {"role": "second-opinion"}
    assert "Starter weights: knows 2 sounds" in render_notice([starter, head])
    assert render_notice([real, head]) == ""


def test_an_error_is_a_sentence() -> None:
    assert "<p>No sound yet.</p>" in render_error(BadInput("no sound yet"))
    assert "Request r7" in render_error(InputRefused("not a sound", status=422, request_id="r7"))
