"""Which rows train, validate and test. Rows are divided by recording: what was cut from one recording never lies on two sides."""

import warnings

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.model_selection import StratifiedGroupKFold

from models.errors import BadOption
from tune.data import FeatureSet, Labels, Target

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, 3
Roles = NDArray[np.int8]
SPLIT_ROLES = {
    "train": TRAIN,
    "validation": VALIDATION,
    "val": VALIDATION,
    "valid": VALIDATION,
    "test": TEST,
    "eval": TEST,
}


class Split(BaseModel):
    """How rows are divided. `test_fold`: that fold tests; `by_split`: the data set's own split; else `test_share` of the recordings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    test_fold: str | None = None
    by_split: bool = False
    test_share: float = Field(0.15, ge=0, lt=1)
    validation_share: float = Field(0.15, ge=0, lt=1, description="of what is left for training; 0: no early stopping")
    seed: int = 0


def assign_roles(features: FeatureSet, target: Target, split: Split) -> Roles:
    """The role of each row [N]: TRAIN, VALIDATION, TEST or UNUSED. Raises BadOption for a division that cannot teach or tell anything."""
    roles = _given_roles(features, split)
    if not target.multi_label:  # rows whose label is left out
        roles[~Labels(features, target).of(np.arange(len(features))).any(axis=1)] = UNUSED
    if split.test_fold is None and not split.by_split and split.test_share:
        _take_share(features, target, roles, TEST, split.test_share, split.seed)
    if split.validation_share and not (roles == VALIDATION).any():
        _take_share(features, target, roles, VALIDATION, split.validation_share, split.seed)
    for role in (VALIDATION, TEST):  # nothing of a recording that is heard later is learned from
        kept = np.unique(features.recordings[roles == role])
        roles[(roles < role) & np.isin(features.recordings, kept)] = UNUSED
    _check_classes(features, target, roles, split)
    return roles


def _given_roles(features: FeatureSet, split: Split) -> Roles:
    """The roles that the data set itself gives; TRAIN for the rest."""
    roles = np.full(len(features), TRAIN, np.int8)
    if split.test_fold is not None:
        if split.test_fold not in features.folds:
            there = f"there are: {', '.join(features.folds)}" if features.folds else "this data set has none"
            raise BadOption(f"no fold {split.test_fold!r}; {there}")
        roles[features.column("fold") == split.test_fold] = TEST
    if split.by_split:
        names = features.column("split")
        if unknown := sorted(set(names) - set(SPLIT_ROLES)):
            raise BadOption(
                f"split {str(unknown[0]) or '(empty)'!r} in the features; known are: {', '.join(SPLIT_ROLES)}. Leave out --split"
            )
        roles[:] = [SPLIT_ROLES[name] for name in names]
    return roles


def _take_share(features: FeatureSet, target: Target, roles: Roles, role: int, share: float, seed: int) -> None:
    """Gives `role` to a share of the training recordings, each class its part of them."""
    rows = np.flatnonzero(roles == TRAIN)
    groups = features.recordings[rows]
    parts = min(max(2, round(1 / share)), len(np.unique(groups)))
    if parts < 2:
        raise BadOption("all rows come from one recording: there must be others to validate and test on")
    targets = Labels(features, target).of(rows)
    divider = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rare classes are looked at in _check_classes
        divided = list(divider.split(rows, targets.argmax(axis=1), groups))
    # Of the equal parts the one that leaves the most classes on both sides: with few recordings not every part does.
    _, taken = max(divided, key=lambda sides: sum(targets[side].any(axis=0).sum() for side in sides))
    roles[rows[taken]] = role


def _check_classes(features: FeatureSet, target: Target, roles: Roles, split: Split) -> None:
    """Raises BadOption where a class cannot be learned, or a single-label fold cannot be judged."""
    labels = Labels(features, target)
    for role, doing in ((TRAIN, "train"), (TEST, "test")):
        rows = np.flatnonzero(roles == role)
        if not len(rows):
            if role == TRAIN or split.test_fold is not None:
                raise BadOption(f"no row is left to {doing} with")
            continue
        present = labels.of(rows).any(axis=0)
        if not present.all() and (role == TRAIN or not target.multi_label):
            name = target.names[int(np.flatnonzero(~present)[0])]
            where = f" when fold {split.test_fold} is the test" if split.test_fold is not None else ""
            raise BadOption(
                f"label {name!r} has no row to {doing} with{where}: it comes from too few recordings. "
                f"Leave it out (--min-recordings N), or add recordings"
            )
