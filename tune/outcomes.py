"""A finished training on disk: outcome.json, weights.safetensors, scores.npz. The JSON comes last: where it is, all of it is."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.torch

from models.errors import WeightsCorrupt
from tune.data import Target
from tune.experiment import Judged, Outcome
from tune.loop import EpochReport
from tune.metrics import Metrics, score

OUTCOME = "outcome.json"
WEIGHTS = "weights.safetensors"
SCORES = "scores.npz"


def save_outcome(folder: Path, outcome: Outcome) -> None:
    """Writes an outcome; a reader sees all of it or nothing."""
    contiguous = {name: value.contiguous() for name, value in outcome.weights.items()}
    safetensors.torch.save_file(contiguous, folder / WEIGHTS)
    judged = {"validation": outcome.validation, "test": outcome.test}
    arrays = {
        f"{name}_{kind}": getattr(part, kind) for name, part in judged.items() if part for kind in ("targets", "scores")
    }
    np.savez_compressed(folder / SCORES, **arrays)
    document = {
        "target": asdict(outcome.target),
        "temperature": outcome.temperature,
        "thresholds": outcome.thresholds,
        "seconds": outcome.seconds,
        "metrics": {name: part.metrics.model_dump() for name, part in judged.items() if part},
        "epochs": [asdict(report) for report in outcome.epochs],
    }
    draft = folder / f".{OUTCOME}"
    draft.write_text(json.dumps(document, indent=2) + "\n")
    os.replace(draft, folder / OUTCOME)


def load_outcome(folder: Path) -> Outcome | None:
    """The outcome in a folder; None where there is none. Raises WeightsCorrupt for a damaged one."""
    if not (folder / OUTCOME).exists():
        return None
    try:
        document = json.loads((folder / OUTCOME).read_text())
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        with np.load(folder / SCORES, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise WeightsCorrupt(
            f"{folder}: this result cannot be read ({error}): delete the folder to train it again"
        ) from error
    names = document["target"]
    target = Target(tuple(names["classes"]), names["multi_label"], tuple(names["positive"]))

    def judged(name: str) -> Judged | None:
        if f"{name}_targets" not in arrays:
            return None
        metrics = Metrics.model_validate(document["metrics"][name])
        return Judged(arrays[f"{name}_targets"], arrays[f"{name}_scores"], metrics)

    return Outcome(
        target=target,
        weights=weights,
        temperature=document["temperature"],
        thresholds=document["thresholds"],
        epochs=[EpochReport(**report) for report in document["epochs"]],
        validation=judged("validation"),
        test=judged("test"),
        seconds=document["seconds"],
    )


def pool(outcomes: list[Outcome]) -> Judged | None:
    """The test rows of several folds as one; each was judged by a network that had not heard it. None where nothing was tested."""
    tested = [outcome.test for outcome in outcomes if outcome.test]
    if not tested:
        return None
    targets, scores = (np.concatenate([getattr(part, kind) for part in tested]) for kind in ("targets", "scores"))
    target = outcomes[0].target
    return Judged(targets, scores, score(targets, scores, target.names, multi_label=target.multi_label))
