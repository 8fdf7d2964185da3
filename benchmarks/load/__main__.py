"""Load on `earshot up` with Artillery, a report at the end. Ctrl-C ends the load early and still reports what was seen.

`python -m benchmarks.load --test 1` is the long form (23 minutes; `--test 2`: 83), `--short` about a minute, `--test ramp` looks for the
rate that this machine carries. All is kept in build/load/; a test that was finished is not run again without `--again`, only reported.
"""

import argparse
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.clips import ROOT, Unusable, load_inputs
from benchmarks.load.artillery import SCENARIOS, install_artillery, run_artillery
from benchmarks.load.records import Phase, read_phases
from benchmarks.load.report import write_report
from benchmarks.load.watch import watching
from benchmarks.report import save, show
from benchmarks.systems import PORT, NotRunning, earshot, end_on_sigterm, running

RESULTS = ROOT / "benchmarks" / "RESULTS.md"
TESTS = {"1": "test1", "2": "test2", "ramp": "ramp"}
LAST_ANSWERS_S = 60  # after the last phase, for what is still on its way

err = Console(stderr=True)


def main() -> None:
    """Exit code 0: every request was answered 200; 1: not so, or it broke off; 2: something it needs is not here."""
    args = _arguments()
    end_on_sigterm()
    test = TESTS[args.test]
    form = "mini" if args.mini else "short" if args.short else "long"
    folder = args.out or ROOT / "build" / "load" / f"{test}-{form}"
    phases = read_phases(SCENARIOS / f"{test}.yaml", form)
    finished = folder / "finished.json"
    try:
        if args.again or not finished.exists():
            _run(test, form, folder, args, phases)
        said = json.loads(finished.read_text()) if finished.exists() else _said("was ended early")
        table, total = write_report(folder, phases, f"{test} ({form}): {said['how']}")
    except (Unusable, NotRunning, ValueError) as error:
        err.print(f"load: {error}", highlight=False, soft_wrap=True, markup=False)
        sys.exit(2 if isinstance(error, Unusable) else 1)
    except KeyboardInterrupt:
        sys.exit("load: ended before the load began")
    show(table)
    err.print(f"record, figures and picture: {folder}", highlight=False, soft_wrap=True)
    if args.save:
        save(table, RESULTS, f"`{said['command']}`, {said['how']}.")
    sys.exit(1 if total.failed or not finished.exists() else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__)
    parser.add_argument("--test", choices=TESTS, default="1")
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--short", action="store_true", help="about a minute")
    forms.add_argument("--mini", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--again", action="store_true", help="run it even if it was finished before")
    parser.add_argument("--weights", type=Path, help="folder with YAMNet's files, or a model folder")
    parser.add_argument("--clips", type=Path, help="folder with sounds [default: ESC-10 where it is, else ui/samples]")
    parser.add_argument("--replicas", type=int, default=1, help="to begin with")
    parser.add_argument("--max-replicas", type=int, default=2)
    parser.add_argument("--pace", choices=("demo", "production"), default="production")
    parser.add_argument("--out", type=Path, help="folder for record, figures and picture [default: in build/load]")
    parser.add_argument("--save", action="store_true", help=f"append the table to {RESULTS.name}")
    return parser.parse_args()


def _said(how: str) -> dict[str, str]:
    return {"command": shlex.join(["python", "-m", "benchmarks.load", *sys.argv[1:]]), "how": how}


def _run(test: str, form: str, folder: Path, args: argparse.Namespace, phases: list[Phase]) -> None:
    """Starts the service and the load; returns when all was answered, or after Ctrl-C."""
    install_artillery()
    inputs = load_inputs(args.clips, args.weights)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    flags = ["--replicas", str(args.replicas), "--max-replicas", str(args.max_replicas), "--pace", args.pace]
    length_s = sum(phase.duration_s for phase in phases)
    with tempfile.TemporaryDirectory(prefix="earshot-bench-") as sounds:
        for number, body in enumerate(inputs.bodies["ogg"]):
            Path(sounds, f"{number:04}.ogg").write_bytes(body)
        began_s, url = time.monotonic(), f"http://127.0.0.1:{PORT}"
        with (
            running(earshot("fused", inputs.bundle.path, *flags)) as service,
            run_artillery(test, form, url, Path(sounds), folder) as load,
            watching(service, psutil.Process(load.pid), folder / "samples.jsonl"),
        ):
            whole = _wait(load, length_s + LAST_ANSWERS_S)
        passed_s = time.monotonic() - began_s
    if whole:
        how = f"{len(inputs.bodies['ogg'])} clips, {args.replicas} to {args.max_replicas} replicas, pace {args.pace}"
        (folder / "finished.json").write_text(json.dumps(_said(f"{how}, {passed_s:.0f} s")))


def _wait(load: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Did it come to its end by itself?"""
    try:
        with err.status(f"load for {limit_s / 60:.0f} minutes at most; Ctrl-C ends it and reports"):
            return load.wait(limit_s) == 0
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one is enough: the service ends in order, then comes the report
        return False
    except subprocess.TimeoutExpired:
        err.print("load: Artillery did not end in time", highlight=False)
        return False


if __name__ == "__main__":
    main()
