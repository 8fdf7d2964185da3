"""An answer, or an error, as HTML for people. Pure functions; every word from outside is escaped."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from cluster.client import ServiceError
from models.answer import Answer, Event, LabelScore, SecondOpinion, Timeline
from models.errors import EarshotError
from models.pictures import draw_timeline
from models.weights import starter_notice

SILENCE = "Silence"
MAX_EVENT_ROWS = 200
HEADLINE_LABELS = 3
MAX_DROWNED = 8

WHY_ASKED = {
    "sampled": "Asked at random, as a check.",
    "unsure": "Asked because the first network was unsure.",
    "requested": "Asked because you chose “always”.",
}
WHY_NOT = {
    "not_needed": "Not asked: the first network was sure enough. Choose “always” in the options to ask each time.",
    "declined": "Not asked: you chose “never” in the options.",
    "unavailable": "Not available: this service runs without a second network.",
}
NOTHING_YET = """<div class="es-empty"><p>Nothing heard yet</p>
<p>Pick a sample, upload a sound or record one. Then press <b>Classify</b>.</p></div>"""


def render_answer(answer: Answer, log_mel_png: bytes | None) -> str:
    """The full answer to one sound, with the picture of its log-mel where there is one."""
    parts = [
        _headline(answer),
        *(f'<p class="es-warning" role="note">{escape(_sentence(warning))}</p>' for warning in answer.warnings),
        f'<div class="{"es-pair" if answer.second_opinion.asked else "es-stack"}">',
        _card("Labels", _labels(answer), _LEGEND),
        _card("Second opinion", _opinion(answer.second_opinion), _verdict(answer.second_opinion)),
        "</div>",
        _picture("Log-mel spectrogram", log_mel_png, "Loudness over time, by frequency"),
        _picture("Timeline", _draw(answer.timeline, answer.duration_s), "Score of each label over time, from 0 to 1"),
        _card("Events", _events(answer.events, answer.duration_s), f"{len(answer.events)} found"),
        _download(answer),
    ]
    return f'<div class="es-answer">{"".join(parts)}</div>'


def render_error(error: EarshotError) -> str:
    """What went wrong, in words."""
    request_id = error.request_id if isinstance(error, ServiceError) else ""
    request = f"<p>Request {escape(request_id)}</p>" if request_id else ""
    words = escape(_sentence(str(error)))
    return f'<div class="es-error" role="alert"><h3>That did not work</h3><p>{words}</p>{request}</div>'


def render_models(models: Sequence[dict[str, Any]]) -> str:
    """What is served, for the page's foot."""
    return "".join(
        f"<span><b>{escape(str(model['name']))}</b> {escape(str(model['version']))} · {len(model['labels'])} labels · "
        f"{escape(str(model['licence']))} · weights <code>{escape(str(model['weights_sha256'])[:12])}</code></span>"
        for model in models
    )


def render_notice(models: Sequence[dict[str, Any]]) -> str:
    """Says plainly where the first network's weights are only starter weights."""
    notices = (
        starter_notice(len(model["labels"])) for model in models if model["role"] == "tagger" and model["starter"]
    )
    return "".join(f'<p class="es-warning" role="note">{escape(notice)}</p>' for notice in notices)


def drowned_labels(answer: Answer) -> list[LabelScore]:
    """Labels of events that are too short to be among the answer's labels, loudest first, scored from the timeline."""
    named = {label.label for label in answer.labels}
    drowned = {event.label: event.mid for event in answer.events if event.label not in named}
    if answer.timeline is None:
        return []
    columns = dict(zip(answer.timeline.labels, zip(*answer.timeline.scores, strict=True), strict=True))
    labels = [
        LabelScore(label=label, mid=mid, score=sum(columns[label]) / len(columns[label]), peak=max(columns[label]))
        for label, mid in drowned.items()
        if label in columns
    ]
    return sorted(labels, key=lambda label: -label.peak)


_LEGEND = '<span class="es-key es-key-mean"></span>mean <span class="es-key es-key-peak"></span>peak'


def _card(title: str, body: str, note: str = "") -> str:
    return f'<section class="es-card"><header><h3>{title}</h3><span>{note}</span></header>{body}</section>'


def _headline(answer: Answer) -> str:
    """What a person would say was heard: events, the surest first, silence only where there is nothing else."""
    mean = {label.label: label.score for label in answer.labels}
    surest = sorted(answer.events, key=lambda event: (event.score, mean.get(event.label, 0.0)), reverse=True)
    heard = [event.label for event in surest]
    names = list(dict.fromkeys(label for label in heard if label != SILENCE)) or heard[:1]
    if not names:
        closest = escape(answer.labels[0].label) if answer.labels else "nothing"
        said, words = "nothing above the threshold. Closest:", f'<li class="es-faint">{closest}</li>'
    else:
        said, words = "", "".join(f"<li>{escape(name)}</li>" for name in names[:HEADLINE_LABELS])
    rest = len(names) - HEADLINE_LABELS
    more = f" <small>and {rest} more</small>" if rest > 0 else ""
    return f'<div class="es-headline"><p>Heard in {answer.duration_s:.1f} s {said}</p><ul>{words}{more}</ul></div>'


def _labels(answer: Answer) -> str:
    drowned = drowned_labels(answer)[:MAX_DROWNED]
    also = f'<p class="es-also">Also heard, for a shorter time</p>{_bars(drowned)}' if drowned else ""
    return _bars(answer.labels) + also


def _bars(labels: Sequence[LabelScore]) -> str:
    rows = "".join(
        f'<li><span class="es-name">{escape(label.label)}</span>'
        f'<span class="es-number" title="mean and peak">{label.score:.2f}<small> {label.peak:.2f}</small></span>'
        f'<span class="es-track"><i class="es-peak" style="width:{100 * label.peak:.1f}%"></i>'
        f'<i class="es-mean" style="width:{100 * label.score:.1f}%"></i></span></li>'
        for label in labels
    )
    return f'<ul class="es-bars">{rows}</ul>'


def _opinion(opinion: SecondOpinion) -> str:
    if not opinion.asked:
        return f'<p class="es-plain">{WHY_NOT.get(opinion.why, "Not asked.")}</p>'
    who = f"<b>{escape(opinion.model)}</b>. " if opinion.model else ""
    return f'<p class="es-plain">{who}{WHY_ASKED.get(opinion.why, "")}</p>{_bars(opinion.labels)}'


def _verdict(opinion: SecondOpinion) -> str:
    if opinion.agrees is None:
        return ""
    return '<b class="es-agrees">agrees</b>' if opinion.agrees else '<b class="es-differs">differs</b>'


def _draw(timeline: Timeline | None, duration_s: float) -> bytes | None:
    if timeline is None or not timeline.labels:
        return None
    return draw_timeline(timeline.labels, timeline.start_s, timeline.length_s, timeline.scores, duration_s)


def _picture(title: str, png: bytes | None, alternative: str) -> str:
    if png is None:
        return _card(title, '<p class="es-plain">The service did not draw this picture. Try again a little later.</p>')
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    return _card(title, f'<img src="{source}" alt="{alternative}">', alternative)


def _events(events: Sequence[Event], duration_s: float) -> str:
    if not events:
        return '<p class="es-plain">No label reaches the threshold. Lower it in the options to see fainter ones.</p>'
    rows = "".join(
        f"<tr><td>{escape(event.label)}</td><td>{event.start_s:.2f}</td><td>{event.end_s:.2f}</td>"
        f'<td class="es-when">{_span(event, duration_s)}</td><td>{event.score:.2f}</td></tr>'
        for event in events[:MAX_EVENT_ROWS]
    )
    rest = len(events) - MAX_EVENT_ROWS
    more = f'<p class="es-plain">And {rest} more: all are in the JSON.</p>' if rest > 0 else ""
    heads = '<th>Label</th><th>Start, s</th><th>End, s</th><th class="es-when"></th><th>Score</th>'
    return f'<div class="es-scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>{more}'


def _span(event: Event, duration_s: float) -> str:
    left, width = (100 * part / max(duration_s, 1e-9) for part in (event.start_s, event.end_s - event.start_s))
    return f'<span class="es-track"><i class="es-mean" style="left:{left:.1f}%;width:{width:.1f}%"></i></span>'


def _download(answer: Answer) -> str:
    document = base64.b64encode(answer.model_dump_json(indent=1).encode()).decode()
    return (
        f'<p class="es-download"><a download="earshot-{escape(answer.request_id)}.json" '
        f'href="data:application/json;base64,{document}">Download the full answer as JSON</a>'
        f"<span>{escape(answer.model.name)} {escape(answer.model.version)} · "
        f"request {escape(answer.request_id)}</span></p>"
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
