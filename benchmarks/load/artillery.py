"""Artillery, installed for this checkout and run on one scenario."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.clips import ROOT, Unusable
from benchmarks.process_tree import tree_of

VERSION = "2.0.21"  # the last that runs on node 20
FOLDER = ROOT / "build" / "load" / "artillery"
PROGRAM = FOLDER / "node_modules" / ".bin" / "artillery"
SCENARIOS = Path(__file__).resolve().parent


def install_artillery() -> None:
    """Puts the pinned version under build/ where it is not there yet; no package's own scripts are run. Raises Unusable."""
    if missing := [name for name in ("node", "npm") if shutil.which(name) is None]:
        raise Unusable(f"{missing[0]} is not here: install Node.js 20 or later, Artillery runs on it")
    package = FOLDER / "node_modules" / "artillery" / "package.json"
    if package.exists() and f'"version": "{VERSION}"' in package.read_text():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text('{"private": true}\n')
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--save-exact", f"artillery@{VERSION}"]
    if subprocess.run(command, cwd=FOLDER, check=False).returncode:
        raise Unusable(f"npm could not install artillery@{VERSION}: see above")


@contextlib.contextmanager
def run_artillery(test: str, form: str, url: str, sounds: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Artillery at work on the last core, until the block ends; its record, report and words are in `folder`.

    It is one process with one schedule (not one a core), so that the record's numbers are the order of the arrivals.
    """
    command = [str(PROGRAM), "run", "--target", url, "--output", str(folder / "artillery.json"), "--quiet"]
    command += ["-e", form]
    given = {"RECORD_TO": str(folder / "record.txt"), "RECORD_SOUNDS": str(sounds)}
    given["NODE_OPTIONS"] = f"--require {SCENARIOS / 'one_worker.js'}"
    quiet = {"ARTILLERY_DISABLE_TELEMETRY": "true", "NO_UPDATE_NOTIFIER": "1"}
    core = {max(os.sched_getaffinity(0))}
    with (folder / "artillery.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, str(SCENARIOS / f"{test}.yaml")],
            stdout=log,
            stderr=log,
            env=os.environ | given | quiet,
            start_new_session=True,  # Ctrl-C is for the driver, which ends this
            preexec_fn=lambda: os.sched_setaffinity(0, core),
        )
        try:
            yield process
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    members = tree_of(psutil.Process(process.pid))
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(members, timeout=10)
    for member in alive:
        with contextlib.suppress(psutil.Error):
            member.kill()
    process.wait()
