from pathlib import Path

import pytest
from gradio.utils import get_upload_folder

from models.errors import BadInput
from ui.uploads import is_stored, names_foreign_file, read_stored

STORED = f"{get_upload_folder()}/0123/sound.wav"


def test_what_gradio_stored_may_be_read() -> None:
    assert is_stored(STORED)
    assert not names_foreign_file([{"path": STORED, "meta": {}}, 5, "mean", None])


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "pyproject.toml",
        f"{STORED}/../../../../etc/passwd",
        "https://example.org/a.wav",
        "",
        "a\0b",
        7,
        ["a"],
    ],
)
def test_nothing_else_may_be_read(path: object) -> None:
    assert not is_stored(path)
    assert names_foreign_file([1, {"path": path}])
    assert names_foreign_file({"deep": [{"er": {"path": path}}]})


def test_a_link_out_of_the_store_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    (tmp_path / "secret.wav").write_bytes(b"secret")
    link = tmp_path / "store" / "link.wav"
    link.symlink_to(tmp_path / "secret.wav")
    with pytest.raises(BadInput, match="uploaded here"):
        read_stored(str(link))


def test_a_sound_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "here.wav").write_bytes(b"sound")
    assert read_stored(str(tmp_path / "here.wav")) == b"sound"
    with pytest.raises(BadInput, match="no longer stored"):
        read_stored(str(tmp_path / "gone.wav"))
    with pytest.raises(BadInput, match="no sound yet"):
        read_stored(None)
