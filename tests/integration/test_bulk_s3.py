"""Bulk jobs on an S3 server over HTTP: sounds from a bucket, results to a bucket."""

import pyarrow.parquet as pq
import pytest

from models.features import open_features
from models.storage import Store, open_store
from tests.integration.test_bulk import run
from tests.s3 import Cloud
from tests.sounds import encode, tone


@pytest.fixture
def bucket(cloud: Cloud, request: pytest.FixtureRequest) -> Store:
    """A bucket with sounds of two classes, one broken."""
    name = request.node.name.replace("_", "-")[:60]
    cloud.make_bucket(name)
    store = open_store(cloud.address(f"{name}/sounds"))
    for number in range(4):
        store.write(f"low/{number}.wav", encode(tone(300 + number, 2)))
        store.write(f"high/{number}.flac", encode(tone(3000 + number, 2), container="FLAC"))
    store.write("low/broken.wav", b"no sound")
    return store


def beside(store: Store, name: str) -> str:
    """The address of another place in the store's bucket."""
    return store.address.replace("/sounds?", f"/{name}?")


def test_features_from_a_bucket_to_a_bucket(bucket: Store) -> None:
    out = beside(bucket, "features")
    command = ["featurize", "folder", "--root", bucket.address, "--out", out, "--window-s", "1"]
    first = run(*command, "--where", "'low' in labels")
    assert first.returncode == 3, first.stderr
    second = run(*command)
    assert "4 done, 5 there already" in second.stderr
    rows = open_features(open_store(out)).to_table(columns=["path", "labels", "valid"])
    assert len(rows) == 8 * 4
    assert {row["path"].split("/")[0] for row in rows.to_pylist()} == {"low", "high"}


def test_answers_from_a_bucket_and_from_a_manifest_that_names_it(bucket: Store, tone_tagger, tmp_path) -> None:
    out = beside(bucket, "answers")
    ended = run("classify", bucket.address, "--out", out, "--weights", tone_tagger)
    assert ended.returncode == 3, ended.stderr
    answers = open_features(open_store(out)).to_table().to_pylist()
    best = {row["path"]: row["labels"][0]["label"] for row in answers}
    assert set(best.values()) == {"Low tone", "High tone"}

    lines = ["path,labels", *(f"{bucket.address_of(name)},{name[:3]};tone" for name in best)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    ended = run("classify", tmp_path / "list.csv", "--out", tmp_path / "out", "--weights", tone_tagger)
    assert ended.returncode == 0, ended.stderr
    table = pq.read_table(tmp_path / "out").to_pylist()
    assert {row["path"].split("?")[0].rsplit("/", 2)[-1] for row in table} == {name.split("/")[1] for name in best}


def test_a_store_that_is_away_is_one_clear_error(bucket: Store, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    cloud.stop()
    try:
        ended = run("featurize", "folder", "--root", bucket.address, "--out", beside(bucket, "none"))
    finally:
        cloud.start()
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert "cannot be reached" in line
    assert "run the same command again" in line
