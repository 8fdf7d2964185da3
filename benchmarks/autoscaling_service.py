"""`earshot up` with another autoscaling policy: `python -m benchmarks.autoscaling_service PORT MODEL POLICY PACE MAX_REPLICAS`."""

import sys
from pathlib import Path

from starlette.types import ASGIApp

from cluster.settings import Settings
from models.bundle import Bundle
from serve import run
from serve.schemas import ServiceArgs


def main() -> None:
    """Serves until SIGTERM."""
    port, model, policy, pace, most = sys.argv[1:]
    settings = Settings.model_validate(
        {"port": port, "weights_path": Path(model), "ui": False, "pace": pace, "replicas": 1, "max_replicas": most}
    )
    plain = run.service_args

    def with_policy(settings: Settings, tagger: Bundle, head: Bundle | None) -> ServiceArgs:
        args = plain(settings, tagger, head)
        return args.model_copy(update={"api": args.api.model_copy(update={"policy": policy})})

    run.service_args = with_policy
    run.run_service(settings, _no_page)


def _no_page(settings: Settings) -> ASGIApp:
    raise NotImplementedError(f"no page at {settings.url}")


if __name__ == "__main__":
    main()
