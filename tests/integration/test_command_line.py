"""The `earshot` command from outside: arguments in, exit codes and lines out."""

import json
import os
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import CHECKOUT, EARSHOT, Service
from tests.sounds import encode, silence, tone


def earshot(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(EARSHOT), *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | environment, check=False
    )


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    folder = tmp_path / "sounds"
    (folder / "deep").mkdir(parents=True)
    (folder / "low.wav").write_bytes(encode(tone(300)))
    (folder / "deep" / "high.flac").write_bytes(encode(tone(3000), container="FLAC"))
    return folder


def test_help_shows_an_example_for_every_verb() -> None:
    for verb in (
        ["up"],
        ["classify"],
        ["featurize"],
        ["watch"],
        ["data", "list"],
        ["data", "describe"],
        ["data", "fetch"],
        ["doctor"],
        ["weights"],
        ["weights", "list"],
        ["weights", "fetch"],
        ["weights", "verify"],
    ):
        shown = earshot(*verb, "--help")
        assert shown.returncode == 0
        assert "Example:" in shown.stdout, verb


def test_a_folder_is_walked_and_every_answer_is_the_services_plus_the_path(
    sounds: Path, tone_tagger: Path, tone_head: Path, service: Service
) -> None:
    here = earshot("classify", sounds, "--json", "--weights", tone_tagger, "--head", tone_head)
    assert here.returncode == 0
    there = earshot("classify", sounds, "--json", "--server", service.url)
    assert there.returncode == 0
    answers = [[json.loads(line) for line in run.stdout.splitlines()] for run in (here, there)]
    assert [Path(answer["path"]).name for answer in answers[0]] == ["high.flac", "low.wav"]
    for answer in answers[0] + answers[1]:
        del answer["request_id"], answer["second_opinion"]  # asked at random
    assert answers[0] == answers[1]


def test_some_rejected_is_3_and_the_rest_is_done(sounds: Path, tone_tagger: Path) -> None:
    (sounds / "bad.wav").write_bytes(b"no sound at all")
    run = earshot("classify", sounds, "--json", "--weights", tone_tagger)
    assert run.returncode == 3
    assert len(run.stdout.splitlines()) == 2
    assert "bad.wav" in run.stderr
    assert "2 done, 1 rejected" in run.stderr


def test_nothing_usable_is_2_with_one_line(tmp_path: Path, tone_tagger: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no sound at all")
    for target in (tmp_path / "bad.wav", tmp_path / "missing.wav", tmp_path):
        run = earshot("classify", target, "--weights", tone_tagger)
        assert run.returncode == 2
        assert "Traceback" not in run.stderr
    assert earshot("classify", tmp_path / "bad.wav", "--rank", "best", "--weights", tone_tagger).returncode == 2


def test_the_table_shows_the_event_that_silence_would_drown(tmp_path: Path, tone_tagger: Path) -> None:
    (tmp_path / "glass.wav").write_bytes(encode(np.concatenate([silence(2), tone(3000), silence(2)])))
    run = earshot("classify", tmp_path / "glass.wav", "--weights", tone_tagger, "--timeline")
    assert run.returncode == 0
    assert "s  High tone (" in run.stdout
    assert "timeline:" in run.stdout


def test_no_weights_says_what_to_do(tmp_path: Path, sounds: Path) -> None:
    nowhere = str(tmp_path / "none")
    run = earshot("classify", sounds, EARSHOT_CACHE=nowhere, EARSHOT_WEIGHTS=nowhere, EARSHOT_DOWNLOAD="false")
    assert run.returncode == 1
    assert "earshot weights fetch yamnet" in run.stderr
    assert "https://storage.googleapis.com/" in run.stderr


def test_without_internet_the_starter_weights_answer_and_say_so(tmp_path: Path) -> None:
    flags = {"EARSHOT_CACHE": str(tmp_path / "none"), "EARSHOT_DOWNLOAD": "false"}
    run = earshot("classify", "ui/samples/siren.ogg", "--json", **flags)
    assert run.returncode == 0
    answer = json.loads(run.stdout)
    assert answer["model"]["name"] == "starter-yamnet"
    assert answer["labels"][0]["label"] == "Siren"
    assert "earshot weights fetch yamnet" in run.stderr


def test_a_wrong_hash_is_refused_with_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "yamnet.tflite").write_bytes(b"not it")
    (tmp_path / "yamnet_class_map.csv").write_text("index,mid,display_name\n")
    run = earshot("weights", "verify", "yamnet", "--folder", tmp_path)
    assert run.returncode == 1
    assert "10c95ea3eb9a7bb4cb8bddf6feb023250381008177ac162ce169694d05c317de" in run.stderr
    assert "80e35a2e" not in run.stderr or "SHA-256 is" in run.stderr
    assert run.stderr.count("SHA-256 is ") == 1


def test_a_taken_port_is_one_line_and_starts_nothing(tone_tagger: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = earshot("up", "--port", str(port), "--weights", tone_tagger)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in run.stderr


def test_an_open_door_needs_a_key_or_a_word(tone_tagger: Path) -> None:
    run = earshot("up", "--host", "0.0.0.0", "--weights", tone_tagger)
    assert run.returncode == 2
    assert "--insecure" in run.stderr


def test_doctor_tells_the_memory_of_the_running_service(service: Service) -> None:
    run = earshot("doctor", "--port", str(service.port))
    assert f"runs on {service.url}" in run.stdout
    assert "MiB PSS" in run.stdout


def test_the_command_wins_over_a_strangers_models_package(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("raise RuntimeError('a stranger')\n")
    run = earshot("weights", "list", PYTHONPATH=str(tmp_path))
    assert run.returncode == 0
    assert "yamnet" in run.stdout


def test_the_wheel_holds_the_command_alone() -> None:
    text = (CHECKOUT / "pyproject.toml").read_text()
    assert 'py-modules = ["earshot"]' in text
    assert "packages =" not in text.split("[tool.setuptools]")[1].split("[tool.ruff]")[0]
