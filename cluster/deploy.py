"""Deploys a Serve config file to the running cluster, with this checkout as its code, and waits until the service answers."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cluster.session import NAMESPACE, find_haproxy, open_session, prepare_environment
from cluster.settings import Settings
from cluster.terminal import err
from models.errors import BadOption, EarshotError

DEADLINE_S = 300.0
POLL_S = 0.5
EVERY_INTERFACE = "0.0.0.0"  # noqa: S104 (the replicas' ports, behind the API key; the proxy's own host is the node's)
KEEPER = "earshot-code"


def on_cluster(settings: Settings) -> Settings:
    """The settings for a verb that works on a cluster: the one named, or the one that this machine is a node of."""
    address = "auto" if settings.ray_address == "local" else settings.ray_address
    return settings.model_copy(update={"ray_address": address})


def deploy(settings: Settings, path: Path, deadline_s: float = DEADLINE_S) -> None:
    """Returns when the service is ready. Raises BadOption for a file that cannot be deployed, EarshotError with the reason otherwise.

    A version that is not ready by the deadline goes on starting; the one before it serves on until then.
    """
    config = read_config(settings, path)
    settings = on_cluster(settings)
    prepare_environment(settings)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        step = progress.add_task("shipping the code", total=None)
        with open_session(settings):
            keeper = _keep_code(config)
            progress.update(step, description="starting the service")
            names = _apply(config)
            _wait_until_ready(names, deadline_s, lambda text: progress.update(step, description=text))
            _let_go_of_other_code(keeper)


def read_config(settings: Settings, path: Path) -> dict[str, Any]:
    """The file, with what the settings say and the file leaves open: API keys, the weights' place. Raises BadOption."""
    try:
        config: dict[str, Any] = yaml.safe_load(path.read_text())
        applications: list[dict[str, Any]] = config["applications"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise BadOption(f"{path}: no Serve config file ({error}): serve/earshot.yaml is one") from error
    for application in applications:
        args = application.setdefault("args", {})
        args.setdefault("api_keys", [key.get_secret_value() for key in settings.api_keys])
        if settings.weights:
            args.setdefault("weights_folder", str(settings.weights))
        if not args["api_keys"] and not settings.insecure:
            raise BadOption(
                "refusing to deploy without an API key, because the replicas' ports are open to the nodes' network: "
                "set EARSHOT_API_KEYS=KEY, or say --insecure where a firewall keeps strangers out"
            )
    if find_haproxy():
        config.setdefault("http_options", {})["host"] = EVERY_INTERFACE
    return config


def _apply(config: dict[str, Any]) -> list[str]:
    """Starts Serve where it does not run, and hands it the config. Gives the applications' names."""
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        schema = ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadOption(f"the config's {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    serve.start(
        proxy_location=schema.proxy_location,
        http_options=schema.http_options.model_dump(),
        logging_config=schema.logging_config,
    )
    _get_global_client().deploy_apps(schema)
    return [application.name for application in schema.applications]


class Keeper:
    """An actor that only is there."""

    def is_there(self) -> bool:
        return True


def _keep_code(config: dict[str, Any]) -> str:
    """Makes every application run the shipped code, and keeps it. Gives the keeper's name.

    Ray deletes shipped code when no process uses it; a service of which every replica has died at once could not start again.
    """
    import ray

    code = ray.get_runtime_context().runtime_env["working_dir"]
    for application in config["applications"]:
        application.setdefault("runtime_env", {})["working_dir"] = code

    name = f"{KEEPER}-{Path(code).stem.removeprefix('_ray_pkg_')}"
    options = {"name": name, "lifetime": "detached", "get_if_exists": True, "max_restarts": -1, "num_cpus": 0}
    keeper = ray.remote(Keeper).options(**options).remote()
    ray.get(keeper.is_there.remote(), timeout=DEADLINE_S)
    return name


def _let_go_of_other_code(keeper: str) -> None:
    import ray
    from ray.util import list_named_actors

    for actor in list_named_actors(all_namespaces=True):
        if actor["namespace"] == NAMESPACE and actor["name"].startswith(KEEPER) and actor["name"] != keeper:
            ray.kill(ray.get_actor(actor["name"], namespace=NAMESPACE))


def _wait_until_ready(names: list[str], deadline_s: float, tell: Callable[[str], None]) -> None:
    """Returns when every application runs and every proxy is healthy. Raises EarshotError with Serve's own reason."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus, ProxyStatus

    began_s = time.monotonic()
    was_ready = False
    while True:
        status = serve.status()
        here = {name: status.applications.get(name) for name in names}
        for name, application in here.items():
            if application and application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                raise EarshotError(f"{name} cannot start: {_reason(application)}")
        replicas = [d.replica_states for a in here.values() if a for d in a.deployments.values()]
        running, wanted = sum(r.get("RUNNING", 0) for r in replicas), sum(sum(r.values()) for r in replicas)
        proxies = list(status.proxies.values())
        healthy = proxies.count(ProxyStatus.HEALTHY)
        tell(f"{running} of {wanted} replicas run, {healthy} of {len(proxies)} proxies")
        runs = all(a and a.status == ApplicationStatus.RUNNING for a in here.values())
        is_ready = runs and healthy == len(proxies) > 0
        if is_ready and was_ready:  # twice: a node's first replica runs a moment before its proxy is known
            return
        was_ready = is_ready
        if time.monotonic() - began_s > deadline_s:
            raise EarshotError(
                f"not ready within {deadline_s:g} s: {running} of {wanted} replicas run, {healthy} of {len(proxies)} proxies. A new "
                "version starts beside the old one, which serves on: is there room for both? `ray status` shows free cores, "
                "`serve status` what is missing"
            )
        time.sleep(POLL_S)


def _reason(application: Any) -> str:
    """The last line of what the failed part said: a stack trace ends in the error."""
    messages = [d.message for d in application.deployments.values() if "UNHEALTHY" in d.status or "FAILED" in d.status]
    text = next((m for m in messages if m), application.message)
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    said = next(
        (line for line in reversed(lines) if "Error" in line or "models.errors" in line), lines[-1] if lines else ""
    )
    return said or "see `serve status`"
