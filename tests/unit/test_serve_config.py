"""The builder's arguments: those in serve/earshot.yaml, and those of `earshot up`."""

import importlib
import typing
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.settings import Settings
from models.bundle import load_bundle, save_bundle
from models.errors import WeightsCorrupt, WeightsMissing
from serve.app import build
from serve.run import service_args
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


def test_every_replica_gets_the_very_models_that_were_found(tone_tagger: Path, tone_head: Path) -> None:
    args = service_args(Settings(), load_bundle(tone_tagger), load_bundle(tone_head))
    assert (args.weights, args.head, args.download) == (tone_tagger, tone_head, False)


def test_a_cluster_without_weights_does_not_serve_the_starter_unasked(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="earshot weights fetch yamnet"):
        build(ServiceArgs(cache=tmp_path, download=False))


def test_a_version_whose_network_does_not_load_is_refused_before_it_is_deployed(
    tmp_path: Path, tone_tagger: Path
) -> None:
    good = load_bundle(tone_tagger)
    bad = save_bundle(
        tmp_path / "bad", {"int8": b"no graph"}, good.labels, name="bad", version="2", front_end=good.card.front_end
    )
    for placement in ("fused", "separate"):
        with pytest.raises(WeightsCorrupt, match="does not load"):
            build(ServiceArgs(weights=bad.path, download=False, placement=placement))
