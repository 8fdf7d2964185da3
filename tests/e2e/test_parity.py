"""The real YAMNet through the running service: the accuracy that the field knows it by."""

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conftest import Service, run_up

NAMES = {
    "dog": "Dog",
    "rain": "Rain",
    "sea_waves": "Waves, surf",
    "crying_baby": "Baby cry, infant cry",
    "clock_tick": "Clock",
    "sneezing": "Sneeze",
    "helicopter": "Helicopter",
    "chainsaw": "Chainsaw",
    "rooster": "Chicken, rooster",
    "crackling_fire": "Fire",
}


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_up(tmp_path_factory.mktemp("real"), "--no-ui", "--weights", str(shared / "weights")) as running:
        yield running


@pytest.fixture(scope="module")
def scores(real: Service, shared: Path) -> dict[str, dict[str, float]]:
    """Mean score by label, of every clip."""
    clips = sorted((shared / "data" / "esc10" / "audio").glob("*.ogg"))

    def ask(clip: Path) -> dict[str, float]:
        query = {"top_k": 521, "second_opinion": "never"}
        headers = {"Content-Type": "audio/ogg"}
        answer = httpx.post(
            f"{real.url}/v1/classify", content=clip.read_bytes(), params=query, headers=headers, timeout=60
        )
        return {label["label"]: label["score"] for label in answer.raise_for_status().json()["labels"]}

    with ThreadPoolExecutor(4) as pool:
        return dict(zip([clip.name for clip in clips], pool.map(ask, clips), strict=True))


def test_esc10_without_training(scores: dict[str, dict[str, float]], shared: Path) -> None:
    with (shared / "data" / "esc10" / "meta" / "esc50.csv").open(newline="") as stream:
        truth = {row["filename"]: row["category"] for row in csv.DictReader(stream)}
    assert len(scores) == len(truth) == 400
    right = sum(max(NAMES, key=lambda c: found[NAMES[c]]) == truth[clip] for clip, found in scores.items())
    assert 0.9725 <= right / 400 <= 0.9775


def test_the_clips_best_label_is_the_reference_interpreters(scores: dict[str, dict[str, float]], shared: Path) -> None:
    reference = np.load(shared / "reference" / "yamnet_esc10.npz")
    with (shared / "weights" / "yamnet_class_map.csv").open(newline="") as stream:
        labels = [row["display_name"] for row in csv.DictReader(stream)]
    same = [
        max(scores[str(name)], key=scores[str(name)].__getitem__) == labels[int(mean.argmax())]
        for name, mean in zip(reference["filenames"], reference["mean_scores"], strict=True)
    ]
    assert np.mean(same) >= 0.98
