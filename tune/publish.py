"""Makes a servable model of a finished run folder: graphs, card, labels, weights, pictures, and a README for people."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch

from models.bundle import CARD, Bundle, FrontEnd, Label, Precision, Takes, load_bundle, save_bundle, sha256_of
from models.errors import EarshotError
from models.export import as_patches, compose, export_module, load_float, with_scores
from models.features import Made
from models.frontend import PATCH_FRAMES, PATCH_HOP_S, YAMNET_OFFSET, hop_frames
from models.report_pictures import draw_calibration, draw_confusion, draw_learning_curves
from models.weights import Places, find_embedder
from tune.experiment import Experiment, Judged, Outcome, Prepared, prepare
from tune.outcomes import WEIGHTS, pool

LICENCE = "that of the data it was trained on"
EMBEDDERS = ("yamnet", "vggish")


@dataclass(frozen=True)
class Graphs:
    """A model's graphs, what they take, and what they expect of their patches."""

    graphs: dict[Precision, bytes]
    takes: Takes
    front_end: FrontEnd


def find_embedder_of(made: Made, places: Places, head_places: Places) -> Bundle | None:
    """The network whose embeddings the features are; None where they are no embeddings of sound, or its weights are not here."""
    if made.network not in EMBEDDERS or made.front_end.get("postprocess"):
        return None
    try:
        bundle = find_embedder(made.network, places, head_places)
    except EarshotError:
        return None
    return bundle if bundle.card.weights_sha256 == made.weights_sha256 else None


def build_graphs(prepared: Prepared, outcome: Outcome, embedder: Bundle | None) -> Graphs:
    """Patches -> scores where the model can be served; else features -> scores."""
    made, shape = prepared.features.made, prepared.features.shape
    network = prepared.build_network()
    network.load_state_dict(dict(outcome.weights))
    model = with_scores(export_module(network.eval(), shape), outcome.target.multi_label, outcome.temperature)
    hop_s = float(made.front_end.get("window_hop_s") or PATCH_HOP_S)
    if made.kind == "logmel":
        front_end = FrontEnd(log_offset=YAMNET_OFFSET, hop_s=hop_s, frames=shape[0])
        return Graphs({"float": as_patches(model).SerializeToString()}, "patches", front_end)
    if embedder is None:
        return Graphs({"float": model.SerializeToString()}, "features", FrontEnd(hop_s=hop_s))
    hop = hop_frames(float(made.front_end["patch_hop_s"] or 0))
    frames = (shape[0] - 1) * hop + PATCH_FRAMES
    graphs: dict[Precision, bytes] = {"float": compose(load_float(embedder), model, frames, hop).SerializeToString()}
    if "int8" in embedder.card.graphs:
        graphs["int8"] = compose(onnx.load(embedder.graph("int8")), model, frames, hop).SerializeToString()
    front_end = FrontEnd(log_offset=embedder.card.front_end.log_offset, hop_s=hop_s, frames=frames)
    return Graphs(graphs, "patches", front_end)


def publish(
    out: Path,
    experiment: Experiment,
    config: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    embedder: Bundle | None,
) -> Bundle:
    """Writes the model beside the runs it came from, or gives the one that is there. Its metrics are those of the folds together."""
    if (out / CARD).exists():
        return load_bundle(out)
    prepared = prepare(experiment)
    *folds, final = outcomes.values()
    judged = pool(folds) or final.test
    built = build_graphs(prepared, final, embedder)
    files = {WEIGHTS: safetensors.torch.save({name: value.contiguous() for name, value in final.weights.items()})}
    files |= draw_report(outcomes, judged or final.validation)
    metrics = judged.metrics.headline() if judged else {}
    files["metrics.json"] = _metrics_document(outcomes, judged)
    accuracy = describe_accuracy(folds, final, judged)
    files["README.md"] = write_card(experiment, prepared, config, outcomes, accuracy, judged).encode()
    (out / WEIGHTS).write_bytes(files[WEIGHTS])
    return save_bundle(
        out,
        built.graphs,
        tuple(Label(name, "") for name in final.target.names),
        weights_sha256=sha256_of(out / WEIGHTS),
        files=files,
        name=out.resolve().name,
        version=str(config["data"])[:8],
        front_end=built.front_end,
        takes=built.takes,
        licence=LICENCE,
        source=f"trained on {experiment.features}",
        accuracy=accuracy,
        architecture=experiment.model,
        options=dict(experiment.options),
        multi_label=final.target.multi_label,
        temperature=final.temperature,
        thresholds=final.thresholds,
        embedder_sha256=prepared.features.made.weights_sha256,
        metrics=metrics,
    )


def draw_report(outcomes: Mapping[str, Outcome], judged: Judged | None) -> dict[str, bytes]:
    """The pictures of a run folder by file name."""
    curves = {name: outcome.epochs for name, outcome in outcomes.items()}
    losses = {name: [report.validation_loss for report in epochs] for name, epochs in curves.items()}
    pictures = {"learning.png": draw_learning_curves(losses, "validation loss")}
    if judged is None:
        return pictures
    target = next(iter(outcomes.values())).target
    pictures["calibration.png"] = draw_calibration(judged.targets, judged.scores, multi_label=target.multi_label)
    if judged.metrics.confusion is not None:
        pictures["confusion.png"] = draw_confusion(judged.metrics.confusion, target.names)
    return pictures


def describe_accuracy(folds: list[Outcome], final: Outcome, judged: Judged | None) -> str:
    """How well the model does, in words: which figure, and on what."""
    headline = "f1" if final.target.positive else "mAP" if final.target.multi_label else "accuracy"
    if folds:
        each = [fold.test.metrics.headline()[headline] for fold in folds if fold.test]
        return f"{headline} {np.mean(each):.3f}, mean of {len(each)} folds ({min(each):.3f} to {max(each):.3f})"
    if judged:
        return f"{headline} {judged.metrics.headline()[headline]:.3f} on {len(judged.targets)} rows that had no part in training"
    return "not known: no rows were kept for a test"


def _metrics_document(outcomes: Mapping[str, Outcome], judged: Judged | None) -> bytes:
    runs = {
        name: {
            "test": outcome.test.metrics.headline() if outcome.test else None,
            "validation": outcome.validation.metrics.headline() if outcome.validation else None,
            "epochs": len(outcome.epochs),
            "seconds": round(outcome.seconds, 2),
            "wait_share": round(outcome.wait_share, 4),
        }
        for name, outcome in outcomes.items()
    }
    document = {"test": judged.metrics.model_dump() if judged else None, "runs": runs}
    return (json.dumps(document, indent=2) + "\n").encode()


def write_card(
    experiment: Experiment,
    prepared: Prepared,
    config: Mapping[str, Any],
    outcomes: Mapping[str, Outcome],
    accuracy: str,
    judged: Judged | None,
) -> str:
    """The model card for people, as Markdown (Mitchell et al. 2019, arXiv 1810.03993)."""
    final = list(outcomes.values())[-1]
    made = prepared.features.made
    lines = [
        f"# {experiment.model}, trained on {experiment.features}",
        "",
        f"It tells apart: {', '.join(final.target.names)}. Accuracy: {accuracy}.",
        "",
        f"- Input: {made.kind} features of {made.front_end.get('window_s')} s{f', by {made.network}' if made.network else ''}.",
        f"- Options: {json.dumps(dict(experiment.options))}; recipe: {experiment.recipe.model_dump_json()}.",
        f"- Data: {len(prepared.features)} rows, fingerprint `{config['data']}`.",
        f"- Made by Earshot {config['program']}, revision {config['revision']}.",
        f"- Temperature {final.temperature:.3f}, fitted on validation rows; thresholds per label are in card.json.",
        "- What it says of sounds unlike those it was trained on is not known.",
        "",
        "| run | epochs | seconds | waiting for data | test |",
        "|---|---|---|---|---|",
    ]
    for name, outcome in outcomes.items():
        numbers = outcome.test.metrics.headline() if outcome.test else {}
        shown = ", ".join(f"{key} {value:.3f}" for key, value in numbers.items())
        lines.append(
            f"| {name} | {len(outcome.epochs)} | {outcome.seconds:.1f} | {outcome.wait_share:.1%} | {shown or '-'} |"
        )
    if judged:
        lines += ["", "| label | precision | recall | F1 | average precision | rows |", "|---|---|---|---|---|---|"]
        for name, row in judged.metrics.per_class.items():
            values = [row[key] for key in ("precision", "recall", "f1", "average_precision")]
            cells = " | ".join("-" if value is None else f"{value:.3f}" for value in values)
            lines.append(f"| {name} | {cells} | {row['support']:g} |")
    pictures = ["learning.png", *(["confusion.png"] if judged and judged.metrics.confusion is not None else [])]
    if judged or final.validation:
        pictures.append("calibration.png")
    return "\n".join([*lines, "", *(f"![{name}]({name})" for name in pictures), ""])
