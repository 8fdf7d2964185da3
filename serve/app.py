"""The Ray Serve application: deployments around the plain stages, and the typed builder that composes them.

Fused: one deployment, Api, whose replicas hold every stage. Separate: Api -> Spectrogram -> Yamnet and VggishHead, each a deployment that
scales on its own; the frames go straight from the Spectrogram to the networks, and only the answer comes back through the Api.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, cast

from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from models.audio import Limits
from models.bundle import Bundle
from models.errors import Overloaded, WeightsMissing
from models.weights import Places, default_cache, find_head, find_tagger
from serve.api import Listens, build_api
from serve.gate import GateRules
from serve.metrics import StageMeter, read_metrics
from serve.problems import RETRY_AFTER_S
from serve.schemas import ModelsAnswer, ServedModel, ServiceArgs, StageScaling
from serve.stages import Listener, Network, NetworkStage, OpinionPolicy, Spectrogram

APP_NAME = "earshot"
PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)  # between the tries of a call whose replica died

MAX_SAMPLES_PER_S = 96_000 * 2  # of the longest sound: two channels at 96 kHz
HEALTH_CHECK_PERIOD_S = 2
HEALTH_CHECK_TIMEOUT_S = 10
GRACEFUL_SHUTDOWN_S = 10

logger = logging.getLogger("earshot.app")


class RemoteStage:
    """A stage in another replica: it has that stage's methods.

    A call whose replica died is sent again (stages are idempotent); our own errors and full queues are not tried again.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        return functools.partial(self._call, method)

    async def _call(self, method: str, *args: object) -> Any:
        pauses_s = iter(PAUSES_S)
        while True:
            try:
                return await getattr(self._handle, method).remote(*args)
            except (BackPressureError, DeploymentUnavailableError) as error:
                raise Overloaded("every queue is full: send the request again a little later") from error
            except RayActorError as error:
                if (pause_s := next(pauses_s, None)) is None:
                    raise Overloaded("a stage of the service is down: send the request again a little later") from error
                logger.warning("%s: the replica died, trying again", method)
                await asyncio.sleep(pause_s)


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


class YamnetDeployment(NetworkStage):
    """YAMNet in replicas of its own."""

    def __init__(self, args: ServiceArgs) -> None:
        super().__init__(_bundles(args)[0].path, StageMeter("yamnet"), args.device)

    async def check_health(self) -> None:
        """Ray Serve's health check."""
        await self.check_ready()


class HeadDeployment(NetworkStage):
    """The second opinion in replicas of its own."""

    def __init__(self, args: ServiceArgs) -> None:
        bundle = _bundles(args)[1]
        if bundle is None:
            raise WeightsMissing("no second opinion here: name its folder with --head")
        super().__init__(bundle.path, StageMeter("vggish-head"), args.device)

    async def check_health(self) -> None:
        """Ray Serve's health check."""
        await self.check_ready()


class SpectrogramDeployment(Listener):
    """The spectrogram stage in replicas of its own. It holds the frames, so it also leads them on to the networks."""

    def __init__(self, args: ServiceArgs, yamnet: DeploymentHandle, head: DeploymentHandle | None) -> None:
        tagger, head_bundle = _bundles(args)
        remote_head = cast(Network, RemoteStage(head)) if head else None
        super().__init__(
            _spectrogram(args), cast(Network, RemoteStage(yamnet)), tagger, remote_head, head_bundle, _policy(args)
        )

    async def check_health(self) -> None:
        """Ray Serve's health check: of this stage alone, the networks have their own."""
        await self._spectrogram.check_ready()


@serve.ingress()
class Api:
    """The HTTP API; in the fused placement it holds every stage, too."""

    def __init__(self, args: ServiceArgs, spectrogram: DeploymentHandle | None = None) -> None:
        self._args = args
        tagger, head = _bundles(args)
        self._models = describe_models(tagger, head)
        self._listener: Listens = (
            cast(Listens, RemoteStage(spectrogram)) if spectrogram else build_listener(args, tagger, head)
        )

    async def check_health(self) -> None:
        """Ray Serve's health check; stages elsewhere have their own."""
        if self._args.placement == "fused":
            await self._listener.check_ready()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        args = self._args
        rules = GateRules(
            api_keys=tuple(args.api_keys),
            max_body_bytes=args.max_body_bytes,
            max_in_flight=args.max_in_flight,
            body_timeout_s=args.body_timeout_s,
            access_log=args.access_log,
        )
        return build_api(
            self._listener, self._models, rules, args.deadline_s, args.cors_origins, args.home, read_metrics
        )


def build_listener(args: ServiceArgs, tagger: Bundle, head: Bundle | None) -> Listener:
    """Every stage in this process."""
    yamnet = _stage(tagger.path, "yamnet", args)
    head_stage = _stage(head.path, "vggish-head", args) if head else None
    return Listener(_spectrogram(args), yamnet, tagger, head_stage, head, _policy(args))


def _deployment(kind: type, name: str, scaling: StageScaling) -> serve.Deployment:
    """A plain class -> a Serve deployment of that name, scaled as said."""
    number: dict[str, Any] = {"num_replicas": scaling.replicas}
    if scaling.replicas is None:
        number = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=scaling.min_replicas,
                max_replicas=scaling.max_replicas,
                target_ongoing_requests=scaling.target_ongoing_requests,
                upscale_delay_s=scaling.upscale_delay_s,
                downscale_delay_s=scaling.downscale_delay_s,
            )
        }
    return serve.deployment(
        name=name,
        max_ongoing_requests=scaling.max_ongoing_requests,
        max_queued_requests=scaling.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S),
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=GRACEFUL_SHUTDOWN_S,
        ray_actor_options={"num_cpus": scaling.num_cpus, "num_gpus": scaling.num_gpus},
        logging_config={"enable_access_log": False},
        **number,
    )(kind)


def build(args: ServiceArgs) -> Application:
    """The application, as `serve run serve.app:build` and serve/earshot.yaml build it.

    Raises WeightsMissing or WeightsCorrupt before anything is deployed.
    """
    head = _bundles(args)[1]
    if args.placement == "fused":
        return _deployment(Api, "Api", args.api).bind(args)
    yamnet = _deployment(YamnetDeployment, "Yamnet", args.yamnet).bind(args)
    opinion = _deployment(HeadDeployment, "VggishHead", args.vggish_head).bind(args) if head else None
    spectrogram = _deployment(SpectrogramDeployment, "Spectrogram", args.spectrogram).bind(args, yamnet, opinion)
    return _deployment(Api, "Api", args.api).bind(args, spectrogram)


def build_page(make_asgi: Callable[[], ASGIApp]) -> Application:
    """A page (an ASGI application) as a Serve application with exactly one replica, as Gradio's sessions need."""

    class Page:
        def __serve_build_asgi_app__(self) -> ASGIApp:
            return make_asgi()

    page = StageScaling(replicas=1, num_cpus=0, max_ongoing_requests=200, max_queued_requests=-1)
    return _deployment(serve.ingress()(Page), "Page", page).bind()
