"""The page: a sound goes in, what Earshot hears comes out. Speaks HTTP to the service; knows no Ray, no torch."""

import functools
import hmac
from pathlib import Path
from urllib.parse import quote

import gradio as gr
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from cluster.client import EarshotClient, ServiceError
from models.answer import TOP_K, Answer
from models.errors import BadInput
from ui.render import NOTHING_YET, render_answer, render_error, render_models, render_notice
from ui.uploads import GuardedBlocks, read_stored

SAMPLES = Path(__file__).resolve().parent / "samples"
STYLE = Path(__file__).resolve().parent / "style.css"
UPLOADS_KEPT_S = 3600
SOUNDS_AT_ONCE = 8
SOUNDS_WAITING = 64

ACCENT = gr.themes.Color(
    *("#fdf2f6", "#fbe3ec", "#f6c5d8", "#ec97b6", "#dd6390", "#c43d70", "#a82a5d", "#8c1f4c", "#72193f", "#591433"),
    "#360a1d",
)
MARK = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48" aria-hidden="true">
<g stroke-width="5" stroke-linecap="round">
<path d="M6 20v8" stroke="#8a3a8e"/><path d="M15 12v24" stroke="#b03060"/><path d="M24 5v38" stroke="#e8603c"/>
<path d="M33 14v20" stroke="#f9a03f"/><path d="M42 20v8" stroke="#f3c969"/></g></svg>"""
# On a narrow page the answer comes below the button that asked for it, out of sight.
SHOW_RESULT = """() => { if (window.innerWidth < 900)
    document.getElementById("es-result").scrollIntoView({behavior: "smooth", block: "start"}) }"""
HEADER = f"""<div class="es-header">{MARK}
<div><h1>Earshot</h1><p>Says what is in a sound, when, and how sure it is.</p></div></div>"""


def build_asgi(base_url: str, api_key: str | None, max_upload_bytes: int, path: str = "/ui") -> FastAPI:
    """The page as an application, below `path`. With an API key, visitors log in with the key as their password."""

    def knows_key(user: str, password: str) -> bool:  # noqa: ARG001
        return hmac.compare_digest(password.encode(), (api_key or "").encode())

    host = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, middleware=[Middleware(WholePath)])
    return gr.mount_gradio_app(  # type: ignore[no-any-return]
        host,
        build_page(EarshotClient(base_url, api_key), max_upload_bytes),
        path=path,
        auth=knows_key if api_key else None,
        auth_message="Any user name; the password is the service's API key.",
        allowed_paths=[str(SAMPLES)],
        max_file_size=max_upload_bytes,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        theme=_theme(),
        css_paths=[STYLE],
        head=f'<link rel="icon" href="data:image/svg+xml,{quote(MARK)}">',
    )


class WholePath:
    """Routes by the whole path, also where the server calls a part of it the root, as Ray Serve does with a prefix."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        await self._app({**scope, "root_path": ""}, receive, send)


def build_page(client: EarshotClient, max_upload_bytes: int) -> gr.Blocks:
    """The page's components and what they do, for the service that the client speaks to."""
    samples = sorted(SAMPLES.glob("*.ogg"))
    page = GuardedBlocks(title="Earshot", analytics_enabled=False, delete_cache=(UPLOADS_KEPT_S, UPLOADS_KEPT_S))
    with page:
        gr.HTML(HEADER)
        notice = gr.HTML(elem_id="es-notice")
        with gr.Row(elem_id="es-columns"):
            with gr.Column(scale=2, min_width=320, elem_id="es-input"):
                chips = gr.Dataset(
                    label="Samples",
                    components=[gr.Audio(visible=False)],
                    samples=[[str(path)] for path in samples],
                    sample_labels=[path.stem.replace("-", " ").capitalize() for path in samples],
                    samples_per_page=len(samples),
                    type="index",
                    layout="gallery",
                    elem_id="es-samples",
                )
                sound = gr.Audio(
                    label=f"Your sound, up to {max_upload_bytes / (1 << 20):g} MiB",
                    sources=["upload", "microphone"],
                    type="filepath",
                    editable=False,
                    buttons=[],
                    elem_id="es-sound",
                )
                classify = gr.Button("Classify", variant="primary", size="lg", elem_id="es-classify")
                options = _add_options()
            with gr.Column(scale=3, min_width=320):
                result = gr.HTML(NOTHING_YET, elem_id="es-result")
        foot = gr.HTML(elem_id="es-foot")

    with page:
        chips.click(lambda index: str(samples[index]), chips, sound, api_visibility="private", show_progress="hidden")
        classify.click(
            functools.partial(hear, client),
            [sound, *options],
            result,
            api_visibility="private",
            concurrency_limit=SOUNDS_AT_ONCE,
        ).then(None, js=SHOW_RESULT, api_visibility="private")
        page.load(functools.partial(describe_service, client), None, [notice, foot], api_visibility="private")
    return page.queue(max_size=SOUNDS_WAITING, api_open=False)


def _add_options() -> list[gr.components.Component]:
    """The options of classify, in the order of hear's parameters."""
    with gr.Accordion("Options", open=False, elem_id="es-options"):
        return [
            gr.Slider(1, 20, TOP_K, step=1, label="How many labels"),
            gr.Radio(
                ["mean", "peak"], value="mean", label="Order labels by", info="peak brings short sounds to the top"
            ),
            gr.Slider(0, 0.95, 0, step=0.05, label="Threshold of events", info="at 0 the model's own"),
            gr.Radio(["auto", "always", "never"], value="auto", label="Ask the second network"),
        ]


def hear(client: EarshotClient, sound: str | None, top_k: int, rank: str, threshold: float, second_opinion: str) -> str:
    """A sound that Gradio stored, and the options -> what the page shows of it: the answer, or the error in words."""
    try:
        audio = read_stored(sound)
        document = client.classify(
            audio, top_k=top_k, rank=rank, threshold=threshold or None, second_opinion=second_opinion, timeline=True
        )
    except (ServiceError, BadInput) as error:
        return render_error(error)
    try:
        picture = client.spectrogram(audio)
    except ServiceError:
        picture = None  # the answer is worth showing without it, and says so in its place
    return render_answer(Answer.model_validate(document), picture)


def describe_service(client: EarshotClient) -> tuple[str, str]:
    """What a visitor must know of the models, and what is served; or why that cannot be told."""
    try:
        models = client.models()
    except ServiceError as error:
        return "", render_error(error)
    return render_notice(models), render_models(models)


def _theme() -> gr.themes.Base:
    """Fonts of the visitor's own system: nothing is fetched from elsewhere."""
    return gr.themes.Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue="slate",
        radius_size="md",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "monospace"],
    ).set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        body_background_fill="*neutral_50",
        block_border_width="1px",
        block_shadow="none",
        block_radius="14px",
        checkbox_label_background_fill="*neutral_100",
        checkbox_label_background_fill_dark="*neutral_700",
        button_large_radius="12px",
        body_text_color_subdued="*neutral_500",
    )
