"""Which rows `--where` and `--min-per-class` leave, and what they refuse: nothing in an expression is ever run as code."""

import contextlib
import datetime
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow.fs import LocalFileSystem, PyFileSystem

from models.errors import BadOption, StoreFailed, WrongTable
from models.storage import Store, open_store
from pipelines.datasets.readers import read_dataset
from pipelines.datasets.table import EVENTS, DataSet
from pipelines.filters import filter_rows, select
from tests.sounds import encode, silence, tone
from tests.unit.test_plan import rows
from tests.unit.test_watch import Far

TABLE = rows(
    "a.wav",
    "b.wav",
    "c.wav",
    "d.wav",
    labels=pa.array([["dog"], ["dog", "cat"], [], None]),
    fold=pa.array([1, 2, 3, None], pa.int32()),
    country=pa.array(["IT", "FR", None, "NA"]),
    latitude=pa.array([45.5, -3.0, None, 0.0]),
    rated=pa.array([True, False, None, True]),
    recorded=pa.array([datetime.date(2020, 1, day) for day in (1, 2, 3)] + [None]),
    **{"class": pa.array(["x", "y", "z", "x"]), "file-name": pa.array(["1", "2", "3", "4"])},
)


def left(where: str) -> str:
    """The names of the rows that an expression leaves, as one word."""
    return "".join(path[0] for path in filter_rows(TABLE, where)["path"].to_pylist())


def dataset(folder: Path, table: pa.Table = TABLE) -> DataSet:
    """A data set in a folder."""
    return DataSet("manifest", open_store(folder), table)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        # comparisons, and what is missing: neither true nor false
        ("fold == 1", "a"),
        ("fold != 1", "bc"),
        ("not fold == 1", "bc"),
        ("fold < 2", "a"),
        ("2 <= fold", "bc"),
        ("fold > 1.5", "bc"),
        ("fold >= 3", "c"),
        ("country == 'NA'", "d"),
        ("country > 'FS'", "ad"),
        ("1 < fold <= 3", "bc"),
        ("latitude == -3", "b"),
        ("fold == fold", "abc"),
        # missing or not
        ("fold is None", "d"),
        ("fold == None", "d"),
        ("None == fold", "d"),
        ("fold is not None", "abc"),
        ("fold != None", "abc"),
        ("None is not country", "abd"),
        # and, or, not
        ("fold == 1 or country == 'NA'", "ad"),
        ("fold != 1 and country == 'FR'", "b"),
        ("not (fold == 1 or fold == 2)", "c"),
        ("rated", "ad"),
        ("not rated", "b"),
        ("rated == True", "ad"),
        ("fold == 3 or rated", "acd"),
        ("rated and fold < 9", "a"),
        # in a list of values, in a list of labels
        ("country in ('IT', 'FR')", "ab"),
        ("country not in ['IT']", "bd"),
        ("fold in {1, 3, 99}", "ac"),
        ("latitude in (-3, 45.5)", "ab"),
        ("fold in ()", ""),
        ("'dog' in labels", "ab"),
        ("'cat' not in labels", "ac"),
        ("'DOG' in labels", ""),
        ("'dog' in labels and 'cat' not in labels", "a"),
        # arithmetic
        ("fold + 1 == 2", "a"),
        ("fold * 2 - 1 > 2", "bc"),
        ("fold / 2 == 1.5", "c"),
        ("1 / fold < 0.4", "c"),
        ("-fold < -2", "c"),
        ("latitude / 0 > 1", "a"),
        # dates, names in backticks, expressions without a column
        ("recorded >= '2020-01-02'", "bc"),
        ("'2020-01-02' > recorded", "a"),
        ("`class` == 'x'", "ad"),
        ("`file-name` in ('2', '3') and `class` != '`class`'", "bc"),
        ("1 < 2", "abcd"),
        ("1 > 2", ""),
        (" fold\t== 1 ", "a"),
    ],
)
def test_an_expression_leaves_the_rows_for_which_it_is_true(where: str, expected: str) -> None:
    assert left(where) == expected


def test_rows_of_a_slice_are_found_where_they_are() -> None:
    table = pa.concat_tables([TABLE.slice(1, 3), TABLE.slice(0, 2)])
    assert filter_rows(table, "'dog' in labels")["path"].to_pylist() == ["b.wav", "a.wav", "b.wav"]


def test_rows_are_left_as_they_were() -> None:
    assert filter_rows(TABLE, "fold == 2").equals(TABLE.slice(1, 1))


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("__import__('os').system('touch /tmp/owned')", "not allowed"),
        ("open('x')", "not allowed"),
        ("country.upper() == 'IT'", "not allowed"),
        ("country.__class__", "not allowed"),
        ("(lambda: True)()", "not allowed"),
        ("lambda: fold", "not allowed"),
        ("[x for x in labels]", "not allowed"),
        ("all(x for x in labels)", "not allowed"),
        ("{x: 1 for x in labels}", "not allowed"),
        ("labels[0] == 'dog'", "not allowed"),
        ("f'{fold}' == '1'", "not allowed"),
        ("(x := 1) == 1", "not allowed"),
        ("fold if rated else 1", "not allowed"),
        ("fold ** 9", "not allowed"),
        ("fold % 2 == 0", "not allowed"),
        ("fold // 2 == 0", "not allowed"),
        ("fold & 1", "not allowed"),
        ("~fold", "not allowed"),
        ("b'x' == country", "not allowed"),
        ("fold == 1j", "not allowed"),
        ("fold == ...", "not allowed"),
        ("fold in (*labels,)", "not allowed"),
        ("(fold, 1)", "not allowed"),
        ("fold is 1", "they with None only"),
        ("fold < None", "None goes with is and is not"),
        ("None >= fold", "None goes with is and is not"),
        ("country in (country, 'IT')", "numbers and text only"),
        ("'x' in country", "'country' is no list to look in"),
        ("fold in 3", "'3' is no list to look in"),
        ("fold", "gives int32, not true or false"),
        ("fold + 1", "not true or false"),
        ("'dog'", "gives string, not true or false"),
        ("labels == 'dog'", "cannot be computed"),
        ("fold < 'two'", "cannot be computed"),
        ("country < 3", "cannot be computed"),
        ("country + 1 == 2", "cannot be computed"),
        ("-country == 1", "cannot be computed"),
        ("recorded > 'yesterday'", "cannot be computed"),
        ("fold in (1, 'two')", "cannot be computed"),
        ("fold == 99999999999999999999999999", "cannot be computed"),
        ("fold * 9223372036854775807 > 0", "cannot be computed: overflow"),
        ("fold ==", "is no expression"),
        ("fold = 1", "is no expression"),
        ("import os", "is no expression"),
        ("fold == 1; rated", "is no expression"),
        ("class == 'x'", "is no expression"),
        (" ", "is no expression"),
        ("fold == 1\0", "is no expression"),
    ],
)
def test_what_is_no_filter_is_refused_in_one_sentence(where: str, said: str) -> None:
    with pytest.raises(BadOption, match=said) as raised:
        filter_rows(TABLE, where)
    assert "--where" in str(raised.value)
    assert "\n" not in str(raised.value)


NESTED = pytest.mark.parametrize(
    "build",
    [
        lambda n: "(" * n + "fold == 1" + ")" * n,
        lambda n: "not " * n + "rated",
        lambda n: "-" * n + "fold == 1",
        lambda n: "fold" + " + fold" * n + " == 1",
        lambda n: "fold" + ".a" * n,
        lambda n: "f(" * n + ")" * n,
        lambda n: "[" * n + "]" * n,
        lambda n: "fold in " + "(" * n + ")" * n,
    ],
)


@NESTED
@pytest.mark.parametrize("depth", [10_000, 200_000])
def test_an_expression_nested_without_end_is_refused(build: Callable[[int], str], depth: int) -> None:
    with pytest.raises(BadOption, match="--where") as raised:
        left(build(depth))
    assert len(str(raised.value)) < 500  # the whole of it would fill the screen


@NESTED
@pytest.mark.parametrize("depth", [100, 300, 600, 900, 950, 1000, 2000, 3000, 5000])
def test_at_any_depth_an_expression_is_computed_or_refused(build: Callable[[int], str], depth: int) -> None:
    with contextlib.suppress(BadOption):
        assert set(left(build(depth))) <= set("abcd")


def test_long_but_flat_expressions_are_computed() -> None:
    assert left(" or ".join(f"fold == {number}" for number in range(2, 2000))) == "bc"
    assert left(f"fold in ({', '.join(map(str, range(2, 20_000)))})") == "bc"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("contry == 'IT'", r"no column 'contry': did you mean country\? There are: path, labels"),
        ("zzz == 1", r"no column 'zzz': there are: path, labels"),
        ("`file-nam` == '1'", r"no column 'file-nam': did you mean file-name\?"),
    ],
)
def test_an_unknown_column_is_answered_with_those_there_are(where: str, said: str) -> None:
    with pytest.raises(BadOption, match=said):
        filter_rows(TABLE, where)


def counted(*labels: list[str] | None) -> pa.Table:
    return rows(*(f"{number}.wav" for number in range(len(labels))), labels=pa.array(labels, pa.list_(pa.string())))


def test_rare_labels_vanish_and_rows_without_a_label_with_them(tmp_path: Path) -> None:
    table = counted(["dog", "cat"], ["dog"], ["cat", "owl"], ["owl", "owl"], ["ant"], [], None)
    kept = select(dataset(tmp_path, table), None, 2).table
    assert kept["labels"].to_pylist() == [["dog", "cat"], ["dog"], ["cat", "owl"], ["owl", "owl"]]
    assert select(dataset(tmp_path, counted(["owl", "owl"], ["ant"], ["ant"])), None, 2).table["path"].to_pylist() == [
        "1.wav",
        "2.wav",
    ]


def test_events_of_rare_labels_vanish_too(tmp_path: Path) -> None:
    car, dog = ({"label": label, "start_s": 0.0, "end_s": 1.0} for label in ("car", "dog"))
    events = pa.array([[car, dog], [car]], EVENTS)
    table = counted(["car", "dog"], ["car"]).append_column("events", events)
    assert select(dataset(tmp_path, table), None, 2).table["events"].to_pylist() == [[car], [car]]


def test_classes_are_counted_among_the_rows_that_are_meant(tmp_path: Path) -> None:
    table = counted(["dog"], ["dog"], ["cat"], ["cat"])
    kept = select(dataset(tmp_path, table), "path != '0.wav'", 2).table
    assert kept["path"].to_pylist() == ["2.wav", "3.wav"]


@pytest.mark.parametrize(
    ("where", "min_per_class", "said"),
    [
        ("fold == 7", None, "no row of .* is left by --where 'fold == 7'$"),
        (None, 3, "is left by --min-per-class 3$"),
        ("fold == 1", 2, "is left by --where 'fold == 1' and --min-per-class 2$"),
    ],
)
def test_nothing_left_is_said_with_what_was_asked(
    where: str | None, min_per_class: int | None, said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadOption, match=said):
        select(dataset(tmp_path), where, min_per_class)


@pytest.mark.parametrize("count", [0, -3])
def test_less_than_one_row_per_class_is_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=rf"--min-per-class {count} is no count of rows: write 1 or more"):
        select(dataset(tmp_path), None, count)


def test_durations_come_from_the_files_where_no_column_tells_them(tmp_path: Path) -> None:
    for name, seconds in {"short.wav": 0.5, "middle.flac": 1.5, "long.ogg": 4.0}.items():
        container = name.rsplit(".", 1)[1].upper()
        (tmp_path / name).write_bytes(encode(silence(seconds), container=container))
    (tmp_path / "text.wav").write_text("no sound")
    paths = ("short.wav", "middle.flac", "long.ogg", "long.ogg", "long.ogg", "text.wav", "not-there.wav")
    starts_s = pa.array([None, None, None, 1.0, 3.5, None, None], pa.float64())
    ends_s = pa.array([None, None, None, 2.0, None, None, None], pa.float64())
    data = dataset(tmp_path, rows(*paths, start_s=starts_s, end_s=ends_s))
    chosen = select(data, "duration_s > 0").table
    assert chosen["path"].to_pylist() == list(paths[:5])
    assert chosen["duration_s"].to_pylist() == pytest.approx([0.5, 1.5, 4.0, 1.0, 0.5], abs=0.01)
    assert select(data, "duration_s is None").table["path"].to_pylist() == ["text.wav", "not-there.wav"]


def test_durations_that_a_column_tells_are_believed_and_only_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_bytes(encode(silence(2.0)))
    table = rows("not-there.wav", "b.wav", duration_s=pa.array([7, None], pa.int64()))
    chosen = select(dataset(tmp_path, table), "duration_s >= 2").table
    assert chosen.column_names.count("duration_s") == 1
    assert chosen["duration_s"].to_pylist() == [7.0, 2.0]
    with pytest.raises(WrongTable, match="row 2, column 'duration_s': 'long' is no double"):
        select(dataset(tmp_path, rows("b.wav", duration_s=pa.array(["long"]))), "duration_s < 1")


def test_files_are_not_opened_for_other_columns(tmp_path: Path) -> None:
    assert "duration_s" not in select(dataset(tmp_path), "fold == 1").table.column_names


def test_a_store_that_cannot_be_reached_is_not_taken_for_files_without_a_length(tmp_path: Path) -> None:
    far = Far(LocalFileSystem())
    far.breaks = True
    (tmp_path / "a.ogg").write_bytes(encode(tone(300, 20), container="OGG"))  # its length stands at its end
    data = DataSet("manifest", Store(PyFileSystem(far), str(tmp_path), "far://sounds"), rows("a.ogg"))
    with pytest.raises(StoreFailed, match="connection reset"):
        select(data, "duration_s < 15")


def test_the_birds_of_a_region_with_enough_short_recordings_are_one_line(tmp_path: Path) -> None:
    header = "primary_label,secondary_labels,latitude,longitude,filename,duration_s\n"
    inside = [f"robin,[],46.{n},8.5,robin/{n}.ogg,{n % 14}.9\n" for n in range(100)]
    inside += [f"wren,[],46.5,9.{n},wren/{n}.ogg,3\n" for n in range(99)]
    outside = [f"wren,[],46.5,11,wren/east{n}.ogg,3\n" for n in range(200)] + ["robin,[],,,robin/lost.ogg,3\n"]
    inside += ["robin,[],46.5,8.5,robin/long.ogg,15\n", "owl,[],46.5,8.5,owl/1.ogg,3\n"]
    (tmp_path / "train_metadata.csv").write_text(header + "".join(outside + inside))
    data = read_dataset("birdclef", str(tmp_path))
    chosen = select(data, "duration_s < 15 and 45.8 <= latitude <= 47.8 and 5.9 <= longitude <= 10.5", 100).table
    primary = chosen["primary_label"].value_counts().to_pylist()
    assert primary == [{"values": "robin", "counts": 100}]
    assert set(chosen["path"].to_pylist()) == {f"train_audio/robin/{n}.ogg" for n in range(100)}
