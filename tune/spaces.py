"""What a sweep searches: a YAML file of ranges for the recipe and the architecture's options -> settings, drawn by a seed.

    recipe:
      lr: {loguniform: [1e-5, 1e-2]}
      batch_size: {choice: [8, 16, 32, 64]}
      epochs: 30
    options:
      hidden: {randint: [16, 128]}

`choice` is one of the listed values, `randint` a whole number, `uniform` and `loguniform` any number; ranges include both ends. A plain
value is the same in every trial. Each end of each range is checked before anything is trained.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from numpy.random import Generator
from pydantic import BaseModel, ValidationError

from models.architectures import find_architecture
from models.errors import BadOption, WrongPath
from tune.recipe import Recipe

SEED_SPACES = Path(__file__).parent / "seed_spaces"
SEED = "seed"  # the name of the spaces that come with Earshot
KINDS = ("choice", "randint", "uniform", "loguniform")
PARTS = ("recipe", "options")
Drawn = dict[str, dict[str, Any]]  # {"recipe": {name: value}, "options": {name: value}}


@dataclass(frozen=True)
class Domain:
    """The values that one setting may take: all of them for a choice, the lowest and the highest of a range."""

    kind: str
    values: tuple[Any, ...]

    def draw(self, rng: Generator) -> Any:
        """One value."""
        low, high = self.values[0], self.values[-1]
        if self.kind == "choice":
            return self.values[rng.integers(len(self.values))]
        if self.kind == "randint":
            return int(rng.integers(low, high, endpoint=True))
        logarithmic = self.kind == "loguniform"
        drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if logarithmic else rng.uniform(low, high)
        return min(max(float(f"{drawn:.4g}"), low), high)  # four digits: what a person can write down


@dataclass(frozen=True)
class Space:
    """The domains of one architecture's settings by (part, name), where part is `recipe` or `options`."""

    name: str
    domains: Mapping[tuple[str, str], Domain]

    def draw(self, rng: Generator) -> Drawn:
        """One trial's settings."""
        return _settings({key: domain.draw(rng) for key, domain in self.domains.items()})

    def grid(self) -> Iterator[Drawn]:
        """Every combination of choices. Raises BadOption where there is a range."""
        for (part, name), domain in self.domains.items():
            if domain.kind != "choice":
                raise BadOption(
                    f"{self.name}: {part}.{name} is a range: a grid needs choices. Say --trials N to draw from it"
                )
        for values in itertools.product(*(domain.values for domain in self.domains.values())):
            yield _settings(dict(zip(self.domains, values, strict=True)))


def _settings(values: Mapping[tuple[str, str], Any]) -> Drawn:
    return {part: {name: value for (of, name), value in values.items() if of == part} for part in PARTS}


def load_space(address: str, model: str) -> Space:
    """The space in a YAML file, or, for `seed`, the one that comes with Earshot. Raises WrongPath, BadOption naming the line."""
    if address != SEED:
        return read_space(Path(address), model)
    path = SEED_SPACES / f"{model}.yaml"
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in SEED_SPACES.glob("*.yaml")))
        raise BadOption(f"there is no seed space for {model}, only for {there}: write one and say --space FILE.yaml")
    return read_space(path, model)


def read_space(path: Path, model: str) -> Space:
    """The space in a file, checked against what the architecture lets one choose. Raises WrongPath, BadOption naming the line."""
    limits: dict[str, type[BaseModel]] = {"recipe": Recipe, "options": find_architecture(model).options}
    domains = {}
    for part, node, where in _entries(_compose(path), path.name):
        if part not in PARTS:
            raise BadOption(f"{where}: no part named {part!r}; there are: {', '.join(PARTS)}")
        for name, value, line in _entries(node, path.name):
            place = f"{line}: {part}.{name}"
            domains[part, name] = domain = _read_domain(yaml.SafeLoader("").construct_object(value, deep=True), place)
            for extreme in domain.values:
                _check(limits[part], name, extreme, place)
    if not domains:
        raise BadOption(f"{path}: no settings; write some below {' or '.join(f'{part}:' for part in PARTS)}")
    return Space(path.name, domains)


def _compose(path: Path) -> Any:
    """The file's tree of nodes, which know their lines."""
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise WrongPath(f"{path}: cannot be read ({error.strerror}): name a YAML file, or say --space seed") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadOption(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def _entries(node: Any, file: str) -> Iterator[tuple[str, Any, str]]:
    """Each key of a mapping with its value's node, and where it stands. Nothing at all is an empty mapping."""
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
        return
    if not isinstance(node, yaml.MappingNode):
        raise BadOption(f"{file}, line {node.start_mark.line + 1}: write `name: value` here")
    seen = set()
    for key, value in node.value:
        where = f"{file}, line {key.start_mark.line + 1}"
        if key.value in seen:
            raise BadOption(f"{where}: {key.value} stands here a second time")
        seen.add(key.value)
        yield key.value, value, where


def _read_domain(written: Any, where: str) -> Domain:
    if not isinstance(written, dict):
        return Domain("choice", (_number(written),))
    kind, values = next(iter(written.items()), (None, None))
    if len(written) != 1 or kind not in KINDS:
        raise BadOption(f"{where}: write a value, or one of {', '.join(f'{{{name}: [...]}}' for name in KINDS)}")
    if not isinstance(values, list) or not values or (kind != "choice" and len(values) != 2):
        raise BadOption(
            f"{where}: {kind} needs {'values' if kind == 'choice' else 'two ends'}, as in {{{kind}: [1, 8]}}"
        )
    numbers = tuple(map(_number, values))
    if kind != "choice":
        _check_range(kind, numbers, where)
    return Domain(kind, numbers)


def _check_range(kind: str, ends: tuple[Any, ...], where: str) -> None:
    wanted: type | tuple[type, ...] = int if kind == "randint" else (int, float)
    if not all(isinstance(end, wanted) and not isinstance(end, bool) for end in ends):
        raise BadOption(f"{where}: the ends of {kind} are {'whole ' * (kind == 'randint')}numbers, not {list(ends)}")
    if ends[0] > ends[1]:
        raise BadOption(f"{where}: the first end is the lower one, not {list(ends)}")
    if kind == "loguniform" and ends[0] <= 0:
        raise BadOption(f"{where}: loguniform needs ends above 0, not {list(ends)}")


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-5 as a word; here it is a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _check(limits: type[BaseModel], name: str, value: Any, where: str) -> None:
    """Raises BadOption where the setting does not exist or may not have this value; all others have their defaults."""
    try:
        limits.model_validate({name: value})
    except ValidationError as error:
        if name not in limits.model_fields:
            raise BadOption(f"{where}: no such setting; there are: {', '.join(limits.model_fields)}") from error
        raise BadOption(f"{where}: {value!r}: {error.errors()[0]['msg']}") from error
