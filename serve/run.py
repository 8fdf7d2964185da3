"""Runs the service on this machine until it is told to stop, and leaves nothing behind."""

import functools
import importlib
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from starlette.types import ASGIApp

from cluster.processes import listen_for_signals, record_service, stop_children
from cluster.session import hushed, open_session, prepare_environment
from cluster.settings import Settings
from cluster.terminal import err, out
from models.bundle import Bundle
from models.errors import BadOption, EarshotError
from models.weights import find_head, find_tagger, starter_notice
from serve.schemas import ServiceArgs, StageScaling

READY_TIMEOUT_S = 120
REFUSALS = 64  # requests that a replica takes beyond its limit, to refuse them in its own words
QUIET = {"enable_access_log": False, "log_level": "WARNING"}


def service_args(settings: Settings, tagger: Bundle, head: Bundle | None) -> ServiceArgs:
    """The settings of one machine, and the models that were found -> the builder's arguments."""
    fixed = settings.replica_count if settings.placement == "fused" else settings.replicas or 1
    stage = StageScaling(
        replicas=None if settings.max_replicas else fixed,
        min_replicas=settings.replicas or 1,
        max_replicas=settings.max_replicas or fixed,
        pace=settings.pace,
        num_cpus=0,  # one machine: the operating system shares the cores out
        max_ongoing_requests=settings.max_in_flight + REFUSALS,
        max_queued_requests=settings.max_in_flight + REFUSALS,
    )
    return ServiceArgs(
        weights=tagger.path.resolve(),  # found once: a replica that starts later serves the same
        head=head.path.resolve() if head else None,
        cache=settings.cache.resolve(),
        download=False,
        second_opinion_rate=settings.second_opinion_rate,
        unsure_below=settings.unsure_below,
        placement=settings.placement,
        api=stage,
        spectrogram=stage,
        yamnet=stage,
        vggish_head=stage,
        api_keys=[key.get_secret_value() for key in settings.api_keys],
        cors_origins=list(settings.cors_origins),
        access_log=settings.access_log.resolve(),
        max_body_bytes=settings.max_body_bytes,
        max_duration_s=settings.max_duration_s,
        max_in_flight=settings.max_in_flight,
        home="/ui/" if settings.ui else "/docs",
        deadline_s=settings.deadline_s,
        body_timeout_s=settings.body_timeout_s,
    )


def run_service(settings: Settings, make_page: Callable[[Settings], ASGIApp]) -> None:
    """Starts everything, says where it is, and blocks until SIGINT or SIGTERM. Raises EarshotError's kinds before Ray starts."""
    check_port(settings.host, settings.port)
    tagger = find_tagger(settings.places())
    head = find_head(settings.head_places(), tagger)
    prepare_environment(settings)
    stop = threading.Event()
    listen_for_signals(stop)
    try:
        with ThreadPoolExecutor(1) as aside, _progress() as progress:
            step = progress.add_task("starting Ray", total=None)
            aside.submit(importlib.import_module, "serve.app")  # while Ray starts
            with open_session(settings), record_service(settings):
                listen_for_signals(stop)  # again: Ray has set its own handlers
                progress.update(step, description="starting the service")
                _deploy_api(settings, service_args(settings, tagger, head))
                _wait_until_answered(f"{settings.url}/readyz", stop)
                _announce(settings, tagger, head)
                if settings.ui and not stop.is_set():
                    progress.update(step, description="starting the page")
                    _deploy_page(settings, make_page)
                    _wait_until_answered(f"{settings.url}/ui/", stop)
                    out.print(f"  page      {settings.url}/ui/", highlight=False)
                progress.stop()
                stop.wait()
                err.print("earshot: stopping ...")
                _shut_down()
    except SystemExit as end:
        if end.code != signal.SIGTERM:  # which is how Ray takes a SIGTERM while it starts
            raise
    finally:
        stop_children()


def check_port(host: str, port: int) -> None:
    """Raises BadOption when the port is taken or the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadOption(
                f"cannot listen on {host}:{port} ({error.strerror}): stop what runs there, or choose another with --port"
            ) from error


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=err, transient=True)


def _deploy_api(settings: Settings, args: ServiceArgs) -> None:
    """Starts Ray Serve's proxies and, while they come up, the API."""
    from ray import serve
    from ray.serve.config import HTTPOptions

    from serve.app import APP_NAME, compose

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options = HTTPOptions(host=settings.host, port=settings.port, request_timeout_s=None)
    with ThreadPoolExecutor(1) as aside:
        proxies = aside.submit(serve.start, http_options=options, logging_config=QUIET)
        _wait_for_controller(proxies)
        serve.run(compose(args), name=APP_NAME, route_prefix="/", logging_config=QUIET)
        proxies.result()


def _deploy_page(settings: Settings, make_page: Callable[[Settings], ASGIApp]) -> None:
    from ray import serve

    from serve.app import build_page

    page = build_page(functools.partial(make_page, settings))
    serve.run(page, name="page", route_prefix="/ui", logging_config=QUIET)


def _wait_for_controller(starting: Future[None]) -> None:
    """Returns when Serve's controller is there (or its start has failed, which is raised)."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    while True:
        try:
            ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
            return
        except ValueError:
            if starting.done():
                starting.result()
            time.sleep(0.02)


def _wait_until_answered(url: str, stop: threading.Event) -> None:
    """Returns when the address answers 200, or the user has had enough."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while not stop.is_set():
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if time.monotonic() > deadline_s:
            raise EarshotError(f"{url} did not answer within {READY_TIMEOUT_S} s: see `earshot doctor`")
        stop.wait(0.1)


def _announce(settings: Settings, tagger: Bundle, head: Bundle | None) -> None:
    card = tagger.card
    opinion = f"{head.card.name} is asked when {card.name} is unsure" if head else "none: no head (--head)"
    out.print(f"Earshot listens on [bold]{settings.url}[/]   (Ctrl-C stops it)", highlight=False)
    out.print(f"  API       {settings.url}/docs", highlight=False)
    out.print(f"  try       curl -F file=@SOUND {settings.url}/v1/classify", highlight=False)
    out.print(f"  model     {card.name} {card.version}, {len(tagger.labels)} labels", highlight=False, markup=False)
    if card.starter:
        out.print(f"  [yellow]note      {starter_notice(len(tagger.labels))}[/]", highlight=False, soft_wrap=True)
    out.print(f"  opinion   {opinion}", highlight=False, markup=False)
    out.print(f"  log       {settings.access_log}", highlight=False, soft_wrap=True)


def _shut_down() -> None:
    from ray import serve

    with hushed():
        serve.shutdown()
