"""Unpacking what strangers packed: whole files below the folder, and nothing else."""

import io
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from models.errors import JobFailed
from pipelines.archives import unpack

FILES = {
    "set/meta/table.csv": b"filename,fold\n",
    "set/audio/a.wav": bytes(range(256)) * 500,
    "set/audio/empty.wav": b"",
}
PLENTY = 1 << 24


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_tar_entry(path: Path, kind: bytes, target: str = "") -> Path:
    """A tar of one entry that is no file."""
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("set/trap")
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return path


def read_all(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    return write_zip(path, files) if path.suffix == ".zip" else write_tar(path, files)


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
def test_every_file_arrives_and_is_counted(tmp_path: Path, name: str) -> None:
    archive, sizes = pack(tmp_path / name, FILES), []
    assert unpack([archive], tmp_path / "out", max_bytes=PLENTY, advance=sizes.append) == 3
    assert read_all(tmp_path / "out") == FILES
    assert sum(sizes) == sum(map(len, FILES.values()))


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
def test_top_folder_is_stripped_with_what_lies_beside_it(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / name, FILES | {"._set": b"junk"})
    assert unpack([archive], tmp_path / "out", strip=True, max_bytes=PLENTY) == 3
    assert read_all(tmp_path / "out") == {path.removeprefix("set/"): content for path, content in FILES.items()}


def test_second_time_replaces_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    unpack([write_zip(tmp_path / "a.zip", {"f": b"old and long"})], out, max_bytes=PLENTY)
    unpack([write_zip(tmp_path / "b.zip", {"f": b"new"})], out, max_bytes=PLENTY)
    assert read_all(out) == {"f": b"new"}


@pytest.mark.parametrize("archive", ["set.zip", "set.tar.gz"])
@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil", "set/../../evil"])
@pytest.mark.parametrize("strip", [False, True])
def test_names_that_lead_out_are_refused(tmp_path: Path, archive: str, name: str, strip: bool) -> None:
    packed = pack(tmp_path / archive, {name: b"evil"})
    with pytest.raises(JobFailed, match="outside"):
        unpack([packed], tmp_path / "deep" / "out", strip=strip, max_bytes=PLENTY)
    assert read_all(tmp_path) == {archive: packed.read_bytes()}


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "../../outside"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes, target: str) -> None:
    packed = write_tar_entry(tmp_path / "set.tar.gz", kind, target)
    with pytest.raises(JobFailed, match=r"set/trap.*a link or a device"):
        unpack([packed], tmp_path / "out", max_bytes=PLENTY)
    assert not os.path.lexists(tmp_path / "out" / "set" / "trap")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("trap")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(JobFailed, match=r"trap.*a link or a device"):
        unpack([tmp_path / "set.zip"], tmp_path / "out", max_bytes=PLENTY)
    assert not os.path.lexists(tmp_path / "out" / "trap")


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz"])
def test_more_than_the_bound_is_refused_before_it_is_written(tmp_path: Path, name: str) -> None:
    bomb = pack(tmp_path / name, {"small": b"x", "big": bytes(10_000_000)})
    assert bomb.stat().st_size < 20_000
    written: list[int] = []
    with pytest.raises(JobFailed, match="more than 1,000,000 bytes"):
        unpack([bomb], tmp_path / "out", max_bytes=1_000_000, advance=written.append)
    assert read_all(tmp_path / "out") == {"small": b"x"}
    assert sum(written) < 2_000_000


def test_exactly_the_bound_is_let_pass(tmp_path: Path) -> None:
    packed = write_zip(tmp_path / "set.zip", {"a": bytes(600), "b": bytes(400)})
    assert unpack([packed], tmp_path / "out", max_bytes=1000) == 2
    with pytest.raises(JobFailed, match="more than 999 bytes"):
        unpack([packed], tmp_path / "out", max_bytes=999)


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
def test_half_an_archive_is_one_clear_error(tmp_path: Path, name: str) -> None:
    whole = pack(tmp_path / name, {"noise": os.urandom(200_000)}).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(JobFailed, match=rf"{name}: cannot be unpacked .*Delete it and run the same command again"):
        unpack([tmp_path / name], tmp_path / "out", max_bytes=PLENTY)
    assert not (tmp_path / "out").exists() or read_all(tmp_path / "out") == {}


def test_file_with_a_flipped_byte_does_not_appear(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("noise", bytes(1000))
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(JobFailed, match="cannot be unpacked"):
        unpack([path], tmp_path / "out", max_bytes=PLENTY)
    assert read_all(tmp_path / "out") == {}


@pytest.mark.skipif(shutil.which("zip") is None, reason="the program zip is not here: it makes the split archive")
@pytest.mark.parametrize("level", ["-0", "-9"])
def test_parts_of_a_split_zip_are_read_as_one(tmp_path: Path, level: str) -> None:
    files = {f"set/{number}.wav": os.urandom(90_000) for number in range(5)}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    subprocess.run(["zip", level, "-q", "-s", "100k", "-r", "set.zip", "set"], cwd=tmp_path, check=True)
    parts = [*sorted(tmp_path.glob("set.z[0-9]*")), tmp_path / "set.zip"]
    assert len(parts) == 5
    assert unpack(parts, tmp_path / "out", max_bytes=PLENTY) == 5
    assert read_all(tmp_path / "out") == files
    with pytest.raises(JobFailed, match=r"set\.zip: cannot be unpacked .*7z x"):
        unpack([parts[0], *parts[2:]], tmp_path / "gap", max_bytes=PLENTY)
