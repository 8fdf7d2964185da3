"""The settings: flags over environment over defaults, and no open door by accident."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.settings import Settings
from tests.conftest import CHECKOUT


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EARSHOT_{name.upper()}", raising=False)


def test_flag_wins_over_environment_and_environment_over_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().port == 8000
    monkeypatch.setenv("EARSHOT_PORT", "9001")
    assert Settings().port == 9001
    assert Settings(port=9002).port == 9002


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Settings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "127.0.0.1.example.org", ""])
def test_other_hosts_are_refused_without_a_key(host: str) -> None:
    with pytest.raises(ValidationError, match="without an API key: set EARSHOT_API_KEYS"):
        Settings(host=host)
    assert Settings(host=host, insecure=True).insecure
    assert Settings(host=host, api_keys=("k",)).api_keys


def test_key_of_blanks_and_commas_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_API_KEYS", " , ,")
    with pytest.raises(ValidationError, match="without an API key"):
        Settings(host="0.0.0.0")


def test_lists_come_as_words_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_CORS_ORIGINS", "https://a.example, https://b.example")
    monkeypatch.setenv("EARSHOT_API_KEYS", "one,two")
    settings = Settings()
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]


def test_keys_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_API_KEYS", "hunter2")
    settings = Settings()
    for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    "wrong",
    [{"port": 0}, {"port": 65536}, {"placement": "spread"}, {"replicas": 0}, {"second_opinion_rate": 1.5}, {"prot": 1}],
)
def test_wrong_values_and_names_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Settings.model_validate(wrong)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
    ],
)
def test_url_is_one_that_a_client_here_can_reach(host: str, url: str) -> None:
    assert Settings(host=host, insecure=True).url == url


def test_weights_are_looked_for_where_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARSHOT_WEIGHTS", str(tmp_path / "folder"))
    monkeypatch.setenv("EARSHOT_CACHE", str(tmp_path / "cache"))
    assert list(Settings().places().folders("yamnet"))[::2] == [tmp_path / "folder", tmp_path / "cache" / "yamnet"]
    assert list(Settings(weights_path=tmp_path).places().folders("yamnet")) == [tmp_path]
    assert not Settings().head_places().download
    assert Settings().places().starter == CHECKOUT / "models" / "starter"


def test_replicas_are_one_a_core_unless_told() -> None:
    assert Settings().replica_count >= 1
    assert Settings(replicas=7).replica_count == 7
