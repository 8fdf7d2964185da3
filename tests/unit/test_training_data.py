"""Features folders as training data: targets, roles, batches."""

from pathlib import Path

import numpy as np
import pytest

from models.errors import BadOption, OutputMismatch, WrongPath
from tests.features import clusters, save_features
from tune.batches import Batch, Stream
from tune.data import FeatureSet, Labels, choose_target, open_feature_set
from tune.split import TEST, TRAIN, UNUSED, VALIDATION, Split, assign_roles

SHAPE = (2, 3)


def keep(batch: Batch, rng: np.random.Generator) -> Batch:
    return batch


def make(folder: Path, count: int = 40, classes: int = 4, **columns: object) -> FeatureSet:
    features, labels = clusters(count, SHAPE, classes)
    save_features(folder, features, columns.pop("labels", labels), row_group=7, **columns)  # type: ignore[arg-type]
    return open_feature_set(str(folder))


def everything(stream: Stream) -> list[int]:
    return [row for batch in stream.in_order() for row in batch.rows.tolist()]


def test_folder_without_features_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongPath, match="earshot featurize"):
        open_feature_set(str(tmp_path / "nothing"))


def test_incomplete_features_are_refused(tmp_path: Path) -> None:
    features, labels = clusters(8, SHAPE, 2)
    save_features(tmp_path / "f", features, labels, complete=False)
    with pytest.raises(OutputMismatch, match="not complete"):
        open_feature_set(str(tmp_path / "f"))


def test_every_row_comes_once_with_its_own_features_and_label(tmp_path: Path) -> None:
    features, names = clusters(40, SHAPE, 4)
    opened = make(tmp_path / "f", folds=[number % 3 for number in range(40)])
    labels = Labels(opened, target := choose_target(opened))
    chosen = np.ones(40, bool)
    seen = {}
    for batch in Stream(opened, labels, chosen, batch_size=6).shuffled(np.random.default_rng(0), keep):
        for row, values, wanted in zip(batch.rows, batch.features, batch.targets, strict=True):
            item = opened.index["item"][int(row)].as_py()
            number = int(item.removeprefix("clip").removesuffix(".wav"))
            assert np.array_equal(values, features[number])
            assert [target.names[wanted.argmax()]] == names[number]
            seen[item] = seen.get(item, 0) + 1
    assert len(seen) == 40
    assert set(seen.values()) == {1}


def test_epochs_differ_and_one_seed_repeats_itself(tmp_path: Path) -> None:
    opened = make(tmp_path / "f")
    stream = Stream(opened, Labels(opened, choose_target(opened)), np.ones(40, bool), 8)

    def order(seed: int) -> list[int]:
        return [row for batch in stream.shuffled(np.random.default_rng(seed), keep) for row in batch.rows.tolist()]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert sorted(order(1)) == list(range(40))


@pytest.mark.parametrize("row_group", [1, 40])
def test_workers_share_the_rows_and_take_equally_many_steps(tmp_path: Path, row_group: int) -> None:
    features, names = clusters(40, SHAPE, 4)
    save_features(tmp_path / "f", features, names, row_group=row_group)
    opened = open_feature_set(str(tmp_path / "f"))
    labels = Labels(opened, choose_target(opened))
    streams = [Stream(opened, labels, np.ones(40, bool), 4, rank, 3) for rank in range(3)]
    assert sorted(row for stream in streams for row in everything(stream)) == list(range(40))
    rng = np.random.default_rng(0)
    steps = [sum(1 for _ in stream.shuffled(rng, keep)) for stream in streams]
    assert steps == [streams[0].steps] * 3


def test_reading_error_reaches_the_reader(tmp_path: Path) -> None:
    opened = make(tmp_path / "f")
    (tmp_path / "f" / "part-0.parquet").write_bytes(b"no longer Parquet")
    stream = Stream(opened, Labels(opened, choose_target(opened)), np.ones(40, bool), 8)
    with pytest.raises(Exception, match=r"[Pp]arquet"):
        everything(stream)


def test_eight_bits_become_components(tmp_path: Path) -> None:
    stored = np.full((4, 2, 128), 255, np.uint8)
    save_features(tmp_path / "f", stored, [["a"], ["b"], ["a"], ["b"]])
    opened = open_feature_set(str(tmp_path / "f"))
    batch = next(Stream(opened, Labels(opened, choose_target(opened)), np.ones(4, bool), 4).in_order())
    assert batch.features.dtype == np.float32
    assert batch.features.max() == pytest.approx(2.0, abs=0.02)


def test_one_label_a_row_is_single_label_and_any_number_multi_label(tmp_path: Path) -> None:
    single = make(tmp_path / "single")
    assert not choose_target(single).multi_label
    assert choose_target(single, multi_label=True).multi_label
    several = make(tmp_path / "several", count=4, classes=2, labels=[["a"], ["a", "b"], [], ["b"]])
    target = choose_target(several)
    assert target.multi_label
    assert Labels(several, target).of(np.arange(4)).tolist() == [[1, 0], [1, 1], [0, 0], [0, 1]]
    with pytest.raises(BadOption, match="exactly one label"):
        choose_target(several, multi_label=False)


def test_positive_labels_are_one_class_against_the_rest(tmp_path: Path) -> None:
    opened = make(tmp_path / "f", count=8)
    target = choose_target(opened, positive=("class1", "class3"))
    assert target.names == ("class1 or class3",)
    assert target.multi_label
    assert Labels(opened, target).of(np.arange(4)).tolist() == [[0], [1], [0], [1]]


def test_positive_label_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"'Speech'.*class0, class1"):
        choose_target(make(tmp_path / "f", classes=2), positive=("Speech",))


def test_rare_labels_are_left_out_where_it_is_wanted(tmp_path: Path) -> None:
    labels = [["a"], ["b"]] * 6 + [["rare"]]
    opened = make(tmp_path / "f", count=13, labels=labels)
    target = choose_target(opened, min_recordings=2)
    assert target.names == ("a", "b")
    roles = assign_roles(opened, target, Split(test_share=0.3, validation_share=0))
    assert roles[12] == UNUSED
    assert (roles[:12] != UNUSED).all()


def test_class_with_one_recording_is_refused_by_name(tmp_path: Path) -> None:
    labels = [["a"], ["b"]] * 6 + [["rare"]]
    opened = make(tmp_path / "f", count=13, labels=labels, folds=[1, 1, 2, 2] * 3 + [1])
    with pytest.raises(BadOption, match=r"'rare' has no row to train with when fold 1.*--min-recordings"):
        assign_roles(opened, choose_target(opened), Split(test_fold="1", validation_share=0))
    with pytest.raises(BadOption, match="'rare' has no row to test with when fold 2"):
        assign_roles(opened, choose_target(opened), Split(test_fold="2", validation_share=0))


def test_fold_tests_and_nothing_of_its_recordings_trains(tmp_path: Path) -> None:
    recordings = [f"r{number // 4}" for number in range(40)]
    folds = [1 + (number // 8) % 5 for number in range(40)]
    folds[0] = 2  # a recording that the data set itself cut in two
    opened = make(tmp_path / "f", folds=folds, recordings=recordings)
    roles = assign_roles(opened, choose_target(opened), Split(test_fold="1"))
    by_role = {role: set(opened.recordings[roles == role]) for role in (TRAIN, VALIDATION, TEST)}
    assert (opened.column("fold")[roles == TEST] == "1").all()
    assert by_role[TRAIN].isdisjoint(by_role[TEST])
    assert by_role[TRAIN].isdisjoint(by_role[VALIDATION])
    assert by_role[VALIDATION].isdisjoint(by_role[TEST])
    assert by_role[VALIDATION]
    assert UNUSED in roles


def test_fold_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    opened = make(tmp_path / "f", folds=[1 + number % 2 for number in range(40)])
    with pytest.raises(BadOption, match="no fold '7'; there are: 1, 2"):
        assign_roles(opened, choose_target(opened), Split(test_fold="7"))


def test_given_split_is_kept(tmp_path: Path) -> None:
    splits = ["train", "val", "test", "train"] * 10
    opened = make(tmp_path / "f", count=40, classes=2, labels=[["a"], ["b"], ["a"], ["b"]] * 10, splits=splits)
    target = choose_target(opened, multi_label=True)
    roles = assign_roles(opened, target, Split(by_split=True))
    names = opened.column("split")
    assert {name: set(roles[names == name]) for name in set(names)} == {
        "train": {TRAIN},
        "val": {VALIDATION},
        "test": {TEST},
    }
    unknown = make(tmp_path / "g", splits=["train", "dev"] * 20)
    with pytest.raises(BadOption, match=r"split 'dev'.*known are: train"):
        assign_roles(unknown, choose_target(unknown), Split(by_split=True))


def test_shares_are_taken_by_recording_with_each_class_in_them(tmp_path: Path) -> None:
    opened = make(tmp_path / "f", count=120, recordings=[f"r{number // 4 % 15}-{number % 4}" for number in range(120)])
    target = choose_target(opened)
    roles = assign_roles(opened, target, Split(test_share=0.2, validation_share=0.2))
    for role in (TRAIN, VALIDATION, TEST):
        assert Labels(opened, target).of(np.flatnonzero(roles == role)).any(axis=0).all()
    assert set(opened.recordings[roles == TRAIN]).isdisjoint(opened.recordings[roles != TRAIN])
    assert np.array_equal(roles, assign_roles(opened, target, Split(test_share=0.2, validation_share=0.2)))


def test_class_of_few_recordings_is_on_every_side_where_that_can_be(tmp_path: Path) -> None:
    labels = [["rare"] if number % 7 == 0 else ["common"] for number in range(28)]  # four recordings of the rare one
    opened = make(tmp_path / "f", count=28, labels=labels)
    target = choose_target(opened)
    for seed in range(8):
        roles = assign_roles(opened, target, Split(seed=seed))
        for role in (TRAIN, VALIDATION, TEST):
            assert Labels(opened, target).of(np.flatnonzero(roles == role)).any(axis=0).all()
