"""Search-space YAML -> what is fixed, what is searched (Optuna distributions), and what the study feeds.

name: gamma                     # the study's name, unless --study gives another
description: Table 4
feeds: table_4                  # the tables of the report that its runs stand in, by name or as a list
rows: loss.gamma                # what names their lines: settings, or `variant`
columns: data.lead_in           # what names their columns: settings; without them, the columns are metrics
sampler: grid                   # tpe (default) or grid
trials: 12                      # default of --trials, each another setting; a grid runs all of its points
metric: objective               # what is maximised, of the validation share
fixed: {data.root: simpouring, loss.name: lac, fit.epochs: 20}
search:
  loss.gamma: {type: float, low: 0.05, high: 2.0, log: true}
  seed: {type: categorical, choices: [0, 1, 2]}
variants:                       # named sets of settings, searched as one more dimension
  L_c: {loss.alpha: 0}
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from lacray.cli import placed
from lacray.config import (
    DEFAULT_LOSS,
    NOTHING,
    TRUTH,
    Config,
    ConfigError,
    UserError,
    build,
    is_loss,
    known_keys,
    read_setting,
    takes_integers_alone,
    unknown_key,
)
from lacray.metrics import MAXIMISED, SELECTABLE
from lacray.results import check_name
from lacray.study import feeds
from lacray.text import home_expanded

SPACES = "search_spaces"
VARIANT = feeds.VARIANT
TEXT_FIELDS = ("name", "description", "sampler", "metric")
YAML_SCALARS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "null", "timestamp", "value")}
FIELDS = ("name", "description", *feeds.FIELDS, "sampler", "trials", "metric", "fixed", "search", "variants")
# How a study is shown; another way is the same study.
SHOWN = ("description", *feeds.FIELDS)
DISTRIBUTION_FIELDS = {
    "float": ("low", "high", "log", "step"),
    "int": ("low", "high", "log", "step"),
    "categorical": ("choices",),
}
# Fields of a distribution that hold values of its setting, beside the list of choices.
VALUES = ("low", "high", "step")
# Nodes of a YAML file, each counted as often as aliases repeat it; more is no space, but takes hours to read.
MAX_NODES = 100_000


@dataclass(frozen=True)
class Space:
    """A checked search space."""

    name: str
    description: str = ""
    feeds: tuple[str, ...] = ()
    """Tables of the report."""
    rows: tuple[str, ...] = ()
    """What names the lines of these tables."""
    columns: tuple[str, ...] = ()
    """What names their columns; none: the metrics are the columns."""
    sampler: str = "tpe"
    trials: int = 10
    metric: str = "objective"
    fixed: dict[str, Any] = field(default_factory=dict)
    search: dict[str, BaseDistribution] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What is searched, as it was written."""
    origins: dict[str, str] = field(default_factory=dict, compare=False)
    """Where each key was written, for messages."""

    def content(self) -> dict[str, Any]:
        """Plain values that `parse_space` makes this space of again: what the manifest of a study holds."""
        return {
            "name": self.name,
            "description": self.description,
            **{name: list(getattr(self, name)) for name in feeds.FIELDS},
            "sampler": self.sampler,
            "trials": self.trials,
            "metric": self.metric,
            "fixed": self.fixed,
            "search": self.specs,
            "variants": self.variants,
        }

    def placed(self) -> Space:
        """The same with absolute paths, as rows and manifests hold it: what it names does not depend on the folder."""
        specs = {key: _placed_choices(key, spec) for key, spec in self.specs.items()}
        return replace(
            self,
            fixed=placed(self.fixed),
            search={key: _distribution(key, spec) for key, spec in specs.items()},
            variants={name: placed(values) for name, values in self.variants.items()},
            specs=specs,
        )

    def first_params(self) -> dict[str, Any]:
        """What stands for the trials where one setting must: the defaults, else the first of everything."""
        return self.default_point() or next(self.corners())

    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna suggests: the searched keys, and the variant where there are some."""
        if not self.variants:
            return dict(self.search)
        return {VARIANT: CategoricalDistribution(tuple(self.variants)), **self.search}

    def config(self, params: Mapping[str, Any] | None = None) -> Config:
        """The setting of a trial's parameters.

        Raises:
            ConfigError: all that is wrong with it.
        """
        params = dict(params or {})
        variant = params.pop(VARIANT, None)
        values = {**self.fixed, **(self.variants[variant] if variant is not None else {}), **params}
        return build(values, self.origins)

    def grid(self) -> dict[str, list[Any]]:
        """Every value of every searched key; only for categorical ones.

        Raises:
            ConfigError: names the keys with a range in place of choices.
        """
        ranges = [key for key, kind in self.search.items() if not isinstance(kind, CategoricalDistribution)]
        if ranges:
            raise ConfigError(
                f"{key}: a grid needs type: categorical with choices; give them, or use sampler: tpe" for key in ranges
            )
        return {key: list(kind.choices) for key, kind in self.distributions().items()}  # type: ignore[attr-defined]

    def points(self) -> list[dict[str, Any]]:
        """Every point of a grid, in the order of its trials."""
        grid = self.grid()
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]

    def num_settings(self) -> float:
        """Different settings in the space; inf where a range has no steps."""
        return math.prod(num_values(kind) for kind in self.distributions().values())

    def corners(self) -> Iterator[dict[str, Any]]:
        """Parameters at each extreme of one key with the first extreme of every other."""
        extremes = self._extremes()
        first = {key: values[0] for key, values in extremes.items()}
        yield first
        for key, values in extremes.items():
            for value in values[1:]:
                yield {**first, key: value}

    def combinations(self, keys: Collection[str]) -> Iterator[dict[str, Any]]:
        """Parameters with every variant and combination of the extremes of some keys; the first of every other."""
        extremes = self._extremes()
        own = [values if key in keys or key == VARIANT else values[:1] for key, values in extremes.items()]
        for values in itertools.product(*own):
            yield dict(zip(extremes, values, strict=True))

    def _extremes(self) -> dict[str, list[Any]]:
        return {
            key: list(kind.choices) if isinstance(kind, CategoricalDistribution) else [kind.low, kind.high]  # type: ignore[attr-defined]
            for key, kind in self.distributions().items()
        }

    def default_point(self) -> dict[str, Any] | None:
        """The defaults, where they lie in the space: tried first, so that no study ends below them."""
        if self.variants or not self.search:
            return None
        try:
            defaults = self.config().flat()
        except ConfigError:
            # What is not searched does not go with them.
            return None
        point = {key: defaults.get(key) for key in self.search}
        inside = all(_contains(kind, point[key]) for key, kind in self.search.items())
        return point if inside else None


def find_space(name: str) -> Path:
    """A search space as the user names it: a path, or one of the bundled ones."""
    package = Path(__file__).resolve().parents[1]
    roots = (package.parent / SPACES, package / SPACES)
    candidates = [home_expanded(name), Path(SPACES) / name, *(root / name for root in roots)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    found = {path.relative_to(root).as_posix() for root in roots for path in root.rglob("*.yaml")}
    bundled = sorted(found, key=lambda path: (path.count("/"), path))
    by_name = {Path(path).name: path for path in bundled}
    likely = [by_name[near] for near in difflib.get_close_matches(Path(name).name, by_name, n=2, cutoff=0.8)]
    hint = f"did you mean {' or '.join(likely)}?" if likely else f"give a YAML file, or one of {', '.join(bundled)}"
    raise ConfigError(f"{name}: no such search space; {hint}")


def load_space(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Space:
    """Read and check a search space.

    Args:
        path: a YAML file.
        overrides: dotted keys from the command line; they win over `fixed` and take a key out of `search`.

    Raises:
        ConfigError: every unknown key, reversed range and value out of range in it, together, before anything starts.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "it is no text")
        raise ConfigError(f"{path}: cannot be read ({reason}); give a YAML file, see search_spaces/") from error
    try:
        content, lines = _load_with_lines(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{path}: must be a flat file of settings, is nested beyond reading") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping with {', '.join(FIELDS)}, got {type(content).__name__}")

    def where(*keys: str) -> str:
        return f"{path}:{lines.get(keys, 1)}"

    return parse_space({"name": path.stem, **content}, overrides, where)


def parse_space(
    content: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, where: Callable[..., str] | None = None
) -> Space:
    """Check the content of a search space.

    Args:
        content: as a YAML file holds it, or `Space.content`.
        overrides: as for `load_space`.
        where: keys -> where they were written, for the messages.

    Raises:
        ConfigError: as `load_space`.
    """
    overrides, where = dict(overrides or {}), where or (lambda *_: "the study's manifest")
    problems = [f"{key}: must be one of {', '.join(FIELDS)} ({where(key)})" for key in content if key not in FIELDS]
    sections: dict[str, dict[str, Any]] = {}
    for section in ("fixed", "search", "variants"):
        value = content.get(section)
        value = {} if value is None else value
        if not isinstance(value, dict):
            problems.append(f"{section}: must be a mapping, got {value!r} ({where(section)})")
            value = {}
        sections[section] = {str(key): entry for key, entry in value.items()}
    fixed = {key: read_setting(key, value) for key, value in sections["fixed"].items()}
    specs = {key: _read_spec(key, spec) for key, spec in sections["search"].items()}
    origins = {key: where("fixed", key) for key in fixed} | {key: where("search", key) for key in specs}
    losses = _losses(fixed, sections, overrides)
    known = list(dict.fromkeys(key for loss in losses for key in known_keys(loss)))
    search: dict[str, BaseDistribution] = {}
    for key, spec in specs.items():
        if key not in known:
            problems.append(f"{unknown_key(key, known, losses[0])} ({origins[key]})")
        elif key in overrides:
            continue
        elif key in fixed:
            problems.append(f"{key}: must be fixed or searched, got both ({origins[key]})")
        else:
            try:
                search[key] = _distribution(key, spec)
            except ValueError as error:
                problems.append(f"{key}: {error} ({origins[key]})")
    variants, wrong = _variants(sections["variants"], {*search, *overrides}, where)
    problems += wrong
    lists = {name: feeds.names(content.get(name)) for name in feeds.FIELDS}
    misnamed = feeds.misnamed(lists, known, has_variants=bool(variants))
    problems += [f"{problem} ({where(field)})" for field, problem in misnamed]
    plan = {"sampler": "tpe", "trials": 10, "metric": "objective", **content}
    problems += _wrong_in_plan(plan, where)
    sampler, trials, metric = plan["sampler"], plan["trials"], plan["metric"]
    space = Space(
        name=str(content["name"]),
        description=str(content.get("description", "")),
        feeds=lists["feeds"],
        rows=lists["rows"],
        columns=lists["columns"],
        sampler=sampler,
        trials=trials,
        metric=str(metric),
        fixed={**fixed, **overrides},
        search=search,
        variants=variants,
        specs={key: specs[key] for key in search},
        origins={**origins, **dict.fromkeys(overrides, "command line")},
    )
    problems += _out_of_range(space, {name: where("variants", name) for name in variants})
    if not problems and sampler == "grid":
        space.grid()
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    # Each setting is tried once: one that searches nothing has a single trial.
    count = space.num_settings()
    return replace(space, trials=int(count if sampler == "grid" else min(trials, count)))


def _variants(
    section: Mapping[str, Any], taken: Collection[str], where: Callable[..., str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The settings of every variant by its name, and what is wrong with them; `taken` are set elsewhere."""
    variants: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name, values in section.items():
        if not isinstance(values, dict):
            problems.append(
                f"{name}: a variant must be a mapping of settings, got {values!r} ({where('variants', name)})"
            )
            continue
        variants[name] = {str(key): read_setting(str(key), value) for key, value in values.items()}
        problems += [
            f"{key}: must not be in variant {name!r} and searched or on the command line ({where('variants', name)})"
            for key in values
            if key in taken
        ]
    return variants, problems


def _wrong_in_plan(plan: Mapping[str, Any], where: Callable[..., str]) -> list[str]:
    """What is wrong with a study's name, sampler, number of trials and metric."""
    problems: list[str] = []
    try:
        check_name("study", str(plan["name"]))
    except UserError as error:
        problems += [f"name: {problem} ({where('name')})" for problem in error.problems]
    sampler, trials, metric = plan["sampler"], plan["trials"], plan["metric"]
    if sampler not in ("tpe", "grid"):
        problems.append(f"sampler: must be tpe or grid, got {sampler!r} ({where('sampler')})")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        problems.append(f"trials: must be an integer >= 1, got {trials!r} ({where('trials')})")
    if metric not in SELECTABLE:
        near = difflib.get_close_matches(str(metric), SELECTABLE, n=2) or [f"cropped.{name}" for name in MAXIMISED[:2]]
        problems.append(
            f"metric: must be objective, or cropped. or full. with {', '.join(MAXIMISED)}, got {metric!r}; "
            f"near: {', '.join(near)} ({where('metric')})"
        )
    return problems


def _losses(
    fixed: Mapping[str, Any], sections: Mapping[str, dict[str, Any]], overrides: Mapping[str, Any]
) -> list[str]:
    """The losses that trials of a space may have; what is no loss is told when their settings are built."""
    searched = sections["search"].get("loss.name")
    choices = searched.get("choices") if isinstance(searched, dict) else None
    named = [values.get("loss.name") for values in sections["variants"].values() if isinstance(values, dict)]
    everywhere = overrides.get("loss.name", fixed.get("loss.name", DEFAULT_LOSS))
    wanted = [name or everywhere for name in [*(choices if isinstance(choices, list) else []), *named]] or [everywhere]
    return list(dict.fromkeys(name for name in wanted if is_loss(name))) or [DEFAULT_LOSS]


def _read_spec(key: str, spec: Any) -> Any:
    """What is searched, with its values as their setting has them."""
    if not isinstance(spec, dict):
        return spec
    read = {name: read_setting(key, value) if name in VALUES else value for name, value in spec.items()}
    if str(spec.get("step")).lower() in NOTHING:
        read.pop("step", None)
    if isinstance(spec.get("log"), str):
        # Any text would count as true.
        read["log"] = TRUTH.get(spec["log"].lower(), spec["log"])
    if isinstance(spec.get("choices"), list):
        read["choices"] = [read_setting(key, choice) for choice in spec["choices"]]
    return read


def _placed_choices(key: str, spec: dict[str, Any]) -> dict[str, Any]:
    """What is searched, with absolute paths."""
    if "choices" not in spec:
        return spec
    return {**spec, "choices": [placed({key: choice})[key] for choice in spec["choices"]]}


def _distribution(key: str, spec: Any) -> BaseDistribution:
    """Optuna's vocabulary -> its distribution; ValueError says what is wrong."""
    kinds = list(DISTRIBUTION_FIELDS)
    if not isinstance(spec, dict) or spec.get("type") not in kinds:
        raise ValueError(f"must be {{type: float|int|categorical, ...}}, got {spec!r}")
    kind = spec["type"]
    allowed = DISTRIBUTION_FIELDS[kind]
    extra = [name for name in spec if name not in (*allowed, "type")]
    if extra:
        raise ValueError(f"{kind} takes {', '.join(allowed)}, got {', '.join(extra)}")
    values = {name: value for name, value in spec.items() if name != "type"}
    if kind == "categorical":
        choices = values.get("choices")
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"choices must be a list with something in it, got {choices!r}")
        plural = [choice for choice in choices if not isinstance(choice, bool | int | float | str | None)]
        if plural:
            raise ValueError(f"choices must be numbers, text, true, false or null, got {plural[0]!r}")
        meant = _placed_choices(key, spec)["choices"]
        twice = [choice for place, choice in enumerate(choices) if _is_among(meant[place], meant[:place])]
        if twice:
            raise ValueError(f"choices must be different settings, got {twice[0]!r} twice; leave one out")
        return CategoricalDistribution(tuple(choices))
    for name in ("low", "high", "step"):
        number = values.get(name)
        if name == "step" and number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"{name} must be a number, got {number!r}")
        if kind == "int" and not float(number).is_integer():
            raise ValueError(f"{name} must be an integer with type: int, got {number}; use type: float")
    if not isinstance(values.get("log", False), bool):
        raise ValueError(f"log must be true or false, got {values['log']!r}")
    if kind == "float" and takes_integers_alone(key):
        raise ValueError("must be type: int, since it takes integers alone, got type: float")
    if values["low"] > values["high"]:
        raise ValueError(f"low <= high must hold, got low {values['low']} and high {values['high']}; swap them")
    if values.get("log") and values["low"] <= 0:
        raise ValueError(f"low must be > 0 with log: true, got {values['low']}")
    return (FloatDistribution if kind == "float" else IntDistribution)(**values)


def _is_among(value: Any, others: Sequence[Any]) -> bool:
    """Whether a value is another's setting too: 1 and 1.0 are one, 1 and true are two."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in others)


def num_values(kind: BaseDistribution) -> float:
    """Different values of a key; inf where its range has no steps."""
    if isinstance(kind, CategoricalDistribution):
        return len(kind.choices)
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if kind.low == kind.high:
        return 1
    return math.floor((kind.high - kind.low) / kind.step + 1e-9) + 1 if kind.step else math.inf


def _contains(kind: BaseDistribution, value: Any) -> bool:
    """Whether Optuna could suggest the value."""
    if isinstance(kind, CategoricalDistribution):
        return any(type(value) is type(choice) and value == choice for choice in kind.choices)
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if isinstance(value, bool) or not isinstance(value, int | float) or not kind.low <= value <= kind.high:
        return False
    steps = (value - kind.low) / kind.step if kind.step else 0.0
    return math.isclose(steps, round(steps), abs_tol=1e-9)


def _out_of_range(space: Space, variant_origins: Mapping[str, str]) -> list[str]:
    """What config.py's ranges say to every corner of the space; each problem once."""
    found: list[str] = []
    for params in space.corners():  # ranges of config.py are per key
        try:
            space.config(params)
        except ConfigError as error:
            origin = variant_origins.get(params.get(VARIANT, ""))
            for problem in error.problems:
                found.append(problem if problem.endswith(")") or origin is None else f"{problem} ({origin})")
    return list(dict.fromkeys(found))


def _load_with_lines(text: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    """The content, and the line of each key by its path; keys, names and values of settings are text as written."""
    lines: dict[tuple[str, ...], int] = {}
    loader = yaml.SafeLoader(text)
    num_nodes = 0

    def walk(node: yaml.Node, path: tuple[str, ...], above: tuple[yaml.Node, ...]) -> None:
        nonlocal num_nodes
        num_nodes += 1
        if num_nodes > MAX_NODES:
            raise yaml.YAMLError(f"its aliases make more than {MAX_NODES} values of it")
        if node in above:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: holds itself")
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, str(key.value))
                if here in lines:
                    raise yaml.YAMLError(
                        f"key {key.value!r} twice, in lines {lines[here]} and {key.start_mark.line + 1}"
                    )
                lines[here] = key.start_mark.line + 1
                _as_text(key)
                walk(value, here, (*above, node))
        elif isinstance(node, yaml.SequenceNode):
            for entry in node.value:
                walk(entry, (*path, ""), (*above, node))
        elif _is_text(path):
            _as_text(node)

    try:
        document = loader.get_single_node()
        if document is None:
            return None, lines
        walk(document, (), ())
        return loader.construct_document(document), lines
    finally:
        loader.dispose()


def _is_text(path: tuple[str, ...]) -> bool:
    """Whether a scalar is left to the setting that it belongs to, or is a name."""
    section, *rest = path or ("",)
    if section == "search":
        return (len(rest) == 2 and rest[1] in (*VALUES, "type")) or rest[1:] == ["choices", ""]
    if section in feeds.FIELDS:
        return rest in ([], [""])
    return (section, len(rest)) in {("fixed", 1), ("variants", 2), *((name, 0) for name in TEXT_FIELDS)}


def _as_text(node: yaml.Node) -> None:
    """YAML would make 1_0, no, 2024-05-01 and 010 of other languages' habits."""
    if isinstance(node, yaml.ScalarNode) and node.tag in YAML_SCALARS:
        node.tag = "tag:yaml.org,2002:str"
