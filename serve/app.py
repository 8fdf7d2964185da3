"""The Ray Serve application: deployments around the plain stages, and the typed builder that composes them.

Fused: one deployment, Api, whose replicas hold every stage. Separate: Api -> Spectrogram -> Yamnet and VggishHead, each a deployment that
scales on its own; the frames go straight from the Spectrogram to the networks, and only the answer comes back through the Api.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.audio import Limits
from models.bundle import Bundle
from models.errors import WeightsMissing
from models.runtime import Device, load_runtime, warm_up
from models.weights import Places, default_cache, find_head, find_tagger
from serve.api import Listens, build_api
from serve.autoscaling import BACKLOG, QueuedSeconds
from serve.gate import GateRules
from serve.metrics import StageMeter, read_metrics
from serve.problems import RETRY_AFTER_S
from serve.remote import RemoteStage
from serve.schemas import PACES, ModelsAnswer, ServedModel, ServiceArgs, StageScaling
from serve.stages import Listener, Network, NetworkStage, OpinionPolicy, Spectrogram

APP_NAME = "earshot"

MAX_SAMPLES_PER_S = 96_000 * 2  # of the longest sound: two channels at 96 kHz
HEALTH_CHECK_PERIOD_S = 1
HEALTH_CHECK_TIMEOUT_S = 3  # three in a row take a replica out; a check waits for the event loop, not for the work
GRACEFUL_SHUTDOWN_S = 10
MAX_SURGE_PERCENT = 50  # of a deployment's replicas start, and pass their check, before an old one is stopped
PATIENCE_NETWORK, PATIENCE_LISTENER = 1 / 6, 1 / 3  # of the deadline, before another replica is asked, too


def _bundles(args: ServiceArgs) -> tuple[Bundle, Bundle | None]:
    """The tagger and, where there is one, the second opinion. Raises as find_tagger and find_head.

    Starter weights are served only by their path: of two nodes that look for themselves one might find others.
    """
    cache = args.cache or default_cache()
    places = Places(args.weights, args.weights_folder, cache, args.download, starter=None)
    head_places = Places(args.head, args.weights_folder, cache, download=False, starter=None)
    return find_tagger(places), find_head(head_places)


def _policy(args: ServiceArgs) -> OpinionPolicy:
    return OpinionPolicy(args.second_opinion_rate, args.unsure_below)


def _spectrogram(args: ServiceArgs) -> Spectrogram:
    max_samples = int(args.max_duration_s * MAX_SAMPLES_PER_S)
    return Spectrogram(Limits(args.max_duration_s, max_samples), StageMeter("spectrogram"))


def _stage(folder: Path, name: str, args: ServiceArgs) -> NetworkStage:
    return NetworkStage(folder, StageMeter(name), args.device)


def describe_models(tagger: Bundle, head: Bundle | None) -> ModelsAnswer:
    """What /v1/models says."""

    def describe(bundle: Bundle, role: Literal["tagger", "second-opinion"]) -> ServedModel:
        told = bundle.card.model_dump(include=set(ServedModel.model_fields))
        return ServedModel(role=role, labels=[label.name for label in bundle.labels], **told)

    return ModelsAnswer(models=[describe(tagger, "tagger")] + ([describe(head, "second-opinion")] if head else []))


class NetworkDeployment(NetworkStage):
    """A network in replicas of its own."""

    def __init__(self, bundle: Bundle, name: str, full_s: float, device: Device) -> None:
        super().__init__(bundle.path, StageMeter(name), device)
        self._full_s = full_s

    async def check_health(self) -> None:
        """Ray Serve's health check."""
        self.check_alive()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Ray Serve's autoscaler hears of this replica."""
        return {BACKLOG: self.backlog.audio_s(self._full_s)}


class YamnetDeployment(NetworkDeployment):
    """YAMNet."""

    def __init__(self, args: ServiceArgs) -> None:
        super().__init__(_bundles(args)[0], "yamnet", args.yamnet.full_s, args.device)


class HeadDeployment(NetworkDeployment):
    """The second opinion."""

    def __init__(self, args: ServiceArgs) -> None:
        bundle = _bundles(args)[1]
        if bundle is None:
            raise WeightsMissing("no second opinion here: name its folder with --head")
        super().__init__(bundle, "vggish-head", args.vggish_head.full_s, args.device)


class SpectrogramDeployment(Listener):
    """The spectrogram stage in replicas of its own. It holds the frames, so it also leads them on to the networks."""

    def __init__(self, args: ServiceArgs, yamnet: DeploymentHandle, head: DeploymentHandle | None) -> None:
        self._full_s = args.spectrogram.full_s
        tagger, head_bundle = _bundles(args)
        patience_s = args.deadline_s * PATIENCE_NETWORK
        remote_head = cast(Network, RemoteStage(head, patience_s)) if head else None
        super().__init__(
            _spectrogram(args),
            cast(Network, RemoteStage(yamnet, patience_s)),
            tagger,
            remote_head,
            head_bundle,
            _policy(args),
        )

    async def check_health(self) -> None:
        """Ray Serve's health check: of this stage alone, the networks have their own."""
        self.check_alive()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Ray Serve's autoscaler hears of this replica: what it decodes, not what it waits for."""
        return {BACKLOG: self._spectrogram.backlog.audio_s(self._full_s)}


@serve.ingress()
class Api:
    """The HTTP API; in the fused placement it holds every stage, too."""

    def __init__(self, args: ServiceArgs, spectrogram: DeploymentHandle | None = None) -> None:
        self._args = args
        tagger, head = _bundles(args)
        self._models = describe_models(tagger, head)
        self._listener: Listens = (
            cast(Listens, RemoteStage(spectrogram, args.deadline_s * PATIENCE_LISTENER))
            if spectrogram
            else build_listener(args, tagger, head)
        )

    async def check_health(self) -> None:
        """Ray Serve's health check; stages elsewhere have their own."""
        if isinstance(self._listener, Listener):
            self._listener.check_alive()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What Ray Serve's autoscaler hears of this replica: nothing where it only passes sounds on."""
        return (
            {BACKLOG: self._listener.backlog_s(self._args.api.full_s)} if isinstance(self._listener, Listener) else {}
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        args = self._args
        rules = GateRules(
            api_keys=tuple(args.api_keys),
            max_body_bytes=args.max_body_bytes,
            max_in_flight=args.max_in_flight,
            body_timeout_s=args.body_timeout_s,
            access_log=args.access_log,
        )
        api = build_api(
            self._listener, self._models, rules, args.deadline_s, args.cors_origins, args.home, read_metrics
        )
        return behind_proxy(api)


def behind_proxy(app: ASGIApp) -> ASGIApp:
    """`app`, told of a client that is gone in ASGI's words.

    Ray's proxy lets go of a request whose client hangs up, or dies itself; the fetching of the body then sometimes raises Ray's error
    (TaskCancelledError, seen with 2.60), where ASGI has a message for it.
    """

    async def told(scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_or_end() -> Message:
            try:
                return await receive()
            except RayError:
                return {"type": "http.disconnect"}

        await app(scope, receive_or_end, send)

    return told


def build_listener(args: ServiceArgs, tagger: Bundle, head: Bundle | None) -> Listener:
    """Every stage in this process."""
    yamnet = _stage(tagger.path, "yamnet", args)
    head_stage = _stage(head.path, "vggish-head", args) if head else None
    return Listener(_spectrogram(args), yamnet, tagger, head_stage, head, _policy(args))


def _autoscaling(scaling: StageScaling) -> AutoscalingConfig:
    """Bounds, policy and pace in Ray Serve's words; its own delay on growing is none: the look-back smooths."""
    pace, policy, shrink_after_s = PACES[scaling.pace], AutoscalingPolicy(), PACES[scaling.pace].shrink_after_s
    if scaling.policy == "queued_seconds":
        given = {"full_s": scaling.full_s, "shrink_after_s": shrink_after_s}
        policy, shrink_after_s = AutoscalingPolicy(policy_function=QueuedSeconds, policy_kwargs=given), 0
    return AutoscalingConfig(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_ongoing_requests=scaling.target_ongoing_requests,
        metrics_interval_s=pace.report_every_s,
        look_back_period_s=pace.look_back_s,
        upscale_delay_s=0,
        downscale_delay_s=shrink_after_s,
        policy=policy,
    )


def _deployment(
    kind: type, name: str, scaling: StageScaling, longest_s: float = GRACEFUL_SHUTDOWN_S
) -> serve.Deployment:
    """A plain class -> a Serve deployment of that name, scaled as said; a replica that goes has `longest_s` to finish."""
    number = {"num_replicas": scaling.replicas} if scaling.replicas else {"autoscaling_config": _autoscaling(scaling)}
    return serve.deployment(
        name=name,
        max_ongoing_requests=scaling.max_ongoing_requests,
        max_queued_requests=scaling.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S),
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=longest_s,
        max_surge_percent=MAX_SURGE_PERCENT,
        ray_actor_options={"num_cpus": scaling.num_cpus, "num_gpus": scaling.num_gpus},
        logging_config={"enable_access_log": False},
        **number,
    )(kind)


def build(args: ServiceArgs) -> Application:
    """The application, as `serve run serve.app:build` and serve/earshot.yaml build it.

    Raises WeightsMissing, WeightsCorrupt or what else the models raise when they are tried, before anything is deployed: a version that
    works stays untouched. What goes wrong only on another node is met by MAX_SURGE_PERCENT.
    """
    for bundle in _bundles(args):
        if bundle is not None:
            warm_up(load_runtime(bundle, "cpu"), bundle.card.front_end)
    return compose(args)


def compose(args: ServiceArgs) -> Application:
    """The application of models that were not tried here. Raises WeightsMissing or WeightsCorrupt."""
    head, longest_s = _bundles(args)[1], args.deadline_s
    api = _deployment(Api, "Api", args.api, args.body_timeout_s + longest_s)
    if args.placement == "fused":
        return api.bind(args)
    yamnet = _deployment(YamnetDeployment, "Yamnet", args.yamnet, longest_s).bind(args)
    opinion = _deployment(HeadDeployment, "VggishHead", args.vggish_head, longest_s).bind(args) if head else None
    spectrogram = _deployment(SpectrogramDeployment, "Spectrogram", args.spectrogram, longest_s)
    return api.bind(args, spectrogram.bind(args, yamnet, opinion))


def build_page(make_asgi: Callable[[], ASGIApp]) -> Application:
    """A page (an ASGI application) as a Serve application with exactly one replica, as Gradio's sessions need."""

    class Page:
        def __serve_build_asgi_app__(self) -> ASGIApp:
            return make_asgi()

    page = StageScaling(replicas=1, num_cpus=0, max_ongoing_requests=200, max_queued_requests=-1)
    return _deployment(serve.ingress()(Page), "Page", page).bind()
