"""What `earshot doctor` says of the weights."""

from pathlib import Path

from cluster.doctor import examine
from cluster.settings import Settings
from models.bundle import save_bundle
from models.weights import starter_notice
from tests.tiny_models import LABELS, build_tone_graph


def test_starter_weights_serve_and_are_told_of(tmp_path: Path, tone_tagger: Path) -> None:
    graph = build_tone_graph().SerializeToString()
    starter = save_bundle(tmp_path / "m", {"int8": graph}, LABELS, name="starter", version="1", starter=True).path
    for folder, good in ((tone_tagger, True), (starter, False)):
        (finding,) = (found for found in examine(Settings(weights_path=folder)) if found.what == "weights")
        assert (finding.good, finding.needed) == (good, False)
        assert finding.remedy == starter_notice(3)
