"""serve/earshot.yaml against Ray Serve's own schema and our builder's arguments."""

import importlib
import typing

import yaml
from ray.serve.schema import ServeDeploySchema

from serve.schemas import ServiceArgs
from tests.conftest import CHECKOUT


def test_the_shipped_config_file_is_one_that_serve_and_our_builder_accept() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load((CHECKOUT / "serve" / "earshot.yaml").read_text()))
    (application,) = config.applications
    args = ServiceArgs.model_validate(application.args)
    assert args.placement == "separate"
    assert config.http_options.host == "127.0.0.1"
    module, _, name = application.import_path.partition(":")
    builder = getattr(importlib.import_module(module), name)
    assert typing.get_type_hints(builder)["args"] is ServiceArgs
