"""Makes the starter weights, on which a machine without internet runs: small networks that learned from the real YAMNet and 400 clips.

    python -m tune.starter yamnet --clips ESC-10 --weights FOLDER
    python -m tune.starter vggish-slim --clips ESC-10 --weights FOLDER

Five runs, each without one fold, say how well it knows the ten classes; the one that is kept then learns from all folds. Of the teacher's
521 outputs those stay that the clips and the synthesised sounds can teach. A fold that is done is not done again.
"""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import onnx
import onnxruntime
import safetensors.torch
import torch
import typer
from numpy.typing import NDArray
from torch import nn

from models.bundle import Bundle, FrontEnd, save_bundle, sha256_of
from models.frontend import PATCH_HOP_S, PATCH_S, VGGISH_OFFSET, YAMNET_OFFSET, FloatArray
from models.heads import VggishHead, build_arrays
from models.quantize import quantize
from models.runtime import load_runtime
from models.vggish_onnx import build_vggish_graph
from models.weights import Places, find_tagger
from models.yamnet_onnx import build_yamnet_float
from tune.starter_sounds import KINDS, synthesise
from tune.starter_training import (
    BATCH,
    ESC10,
    RECIPES,
    STUDENTS,
    Clips,
    Mixer,
    StarterVGGish,
    StarterYAMNet,
    accuracy,
    load_clips,
    train,
)

KNOWN = (*ESC10.values(), *KINDS)
FOLDS = (1, 2, 3, 4, 5)
ALL = 0  # the run that hears every fold
CALIBRATION_BATCHES = 8
FRONT_ENDS = {
    "yamnet": FrontEnd(log_offset=YAMNET_OFFSET, hop_s=PATCH_HOP_S),
    "vggish-slim": FrontEnd(log_offset=VGGISH_OFFSET, hop_s=PATCH_S),
}


class Maker:
    """Trains one kind of student, and makes a bundle of it."""

    def __init__(self, kind: str, clips: Clips, teacher: Bundle, work: Path) -> None:
        self.kind, self.clips, self.teacher, self.work = kind, clips, teacher, work
        self.class_names = [label.name for label in teacher.labels]
        self.columns = [self.class_names.index(name) for name in ESC10.values()]
        waveforms, names = synthesise(per_kind=20, seed=1)
        self.synthetic = Clips(waveforms, names, np.zeros(len(names), np.int64))

    def file(self, fold: int, suffix: str) -> Path:
        """What a run leaves: .safetensors, and .json when it is done."""
        return self.work / f"{self.kind}-fold{fold}.{suffix}"

    def missing(self) -> Iterator[int]:
        """The runs that are not done, the one that hears every fold last."""
        return (fold for fold in (*FOLDS, ALL) if not self.file(fold, "json").exists())

    def mixer(self, fold: int, seed: int) -> Mixer:
        """Batches of all clips but those of a fold."""
        network = load_runtime(self.teacher, "cpu", "int8")
        offset, rng = STUDENTS[self.kind].log_offset, np.random.default_rng(seed)
        return Mixer(self.clips.without(fold) + self.synthetic, network, self.class_names, offset, rng)

    def run(self, fold: int) -> None:
        """Trains without one fold, keeps the weights, and notes the accuracy on that fold."""
        recipe, seed = RECIPES[self.kind], 100 + fold
        torch.manual_seed(seed)
        title = f"{self.kind}, without fold {fold}" if fold else f"{self.kind}, all folds"
        student = train(STUDENTS[self.kind](), self.mixer(fold, seed), recipe, self.columns, title)
        right = accuracy(student, self.clips.only(fold), self.columns, student.log_offset) if fold else None
        state = {name: value.contiguous() for name, value in student.state_dict().items()}
        safetensors.torch.save_file(state, self.file(fold, "safetensors"))
        self.file(fold, "json").write_text(json.dumps({"accuracy": right, "steps": recipe.steps, "seed": seed}))
        print(f"{title}: {right}", flush=True)

    def bundle(self, out: Path) -> Bundle:
        """The run that heard every fold -> an int8 bundle with the labels that it knows."""
        student = STUDENTS[self.kind]()
        student.load_state_dict(safetensors.torch.load_file(self.file(ALL, "safetensors")))
        known = [self.class_names.index(name) for name in KNOWN]
        graph = build_graph(student.eval(), known)
        mixer = self.mixer(ALL, seed=7)
        graph8 = quantize(graph, (mixer.batch(BATCH).patches.numpy() for _ in range(CALIBRATION_BATCHES)), "u8s8")
        agreement = compare(graph, graph8, mixer.batch(4 * BATCH).patches.numpy())
        folds = [json.loads(self.file(fold, "json").read_text())["accuracy"] for fold in FOLDS]
        return save_bundle(
            out / self.kind,
            {"int8": graph8.SerializeToString()},
            tuple(self.teacher.labels[column] for column in known),
            weights_sha256=sha256_of(self.file(ALL, "safetensors")),
            name=f"starter-{self.kind}",
            version="1",
            front_end=FRONT_ENDS[self.kind],
            licence="Apache-2.0",
            source="trained by tune/starter.py: taught by YAMNet on ESC-10's clips and on synthesised sounds",
            accuracy=(
                f"ESC-10, five folds: {statistics.mean(folds):.1%} ({min(folds):.1%} to {max(folds):.1%}); "
                f"{len(KINDS)} kinds of synthesised sound were not tested on recordings"
            ),
            starter=True,
            architecture=self.kind,
            metrics={"accuracy": statistics.mean(folds)},
            agreement={"int8": agreement},
        )


def build_graph(student: nn.Module, known: list[int]) -> onnx.ModelProto:
    """A student, its norms folded and only the known classes kept -> "patches" -> "scores" and "embeddings"."""
    if isinstance(student, StarterYAMNet):
        plain = student.network.fold()
        state = {name: value.detach().numpy() for name, value in plain.state_dict().items()}
        return build_yamnet_float(state | {name: state[name][known] for name in ("dense.weight", "dense.bias")})
    assert isinstance(student, StarterVGGish)
    full = student.head
    head = VggishHead(len(known), multi_label=True, hidden=full.hidden1.out_features)
    state = full.state_dict()
    head.load_state_dict(state | {name: state[name][known] for name in ("output.weight", "output.bias")})
    return build_vggish_graph(build_arrays(student.network.fold(), head), multi_label=True, slim=True)


def compare(graph: onnx.ModelProto, other: onnx.ModelProto, patches: FloatArray) -> dict[str, float]:
    """How two graphs agree on patches: share of equal best classes, mean difference of scores."""

    def scores(model: onnx.ModelProto) -> NDArray[np.float32]:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return cast(NDArray[np.float32], session.run(["scores"], {"patches": patches})[0])

    one, two = scores(graph), scores(other)
    same = float(np.mean(one.argmax(1) == two.argmax(1)))
    return {"top1": round(same, 4), "mean_difference": round(float(np.abs(one - two).mean()), 6)}


def main(
    kind: Annotated[str, typer.Argument(help=" | ".join(STUDENTS))],
    clips: Annotated[Path, typer.Option(help="ESC-10 or ESC-50, as downloaded")],
    weights: Annotated[Path, typer.Option(help="folder with the real YAMNet's files")],
    work: Annotated[Path, typer.Option(help="where weights and results of the runs are kept")] = Path("build/starter"),
    out: Annotated[Path, typer.Option(help="where the bundle goes")] = Path("models/starter"),
    threads: Annotated[int, typer.Option(help="of torch")] = 1,
) -> None:
    """Trains what is missing of one network, five folds and then all of them, and makes the bundle."""
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    maker = Maker(kind, load_clips(clips), find_tagger(Places(explicit=weights, download=False)), work)
    for fold in maker.missing():
        maker.run(fold)
    print(maker.bundle(out).card.accuracy)


if __name__ == "__main__":
    typer.run(main)
