"""A parameter file, read and checked: named blocks, inheritance, overrides, typed values.

How a block is put together, later lines winning:

    runs.<ancestor>  ...  runs.<name>                 what the run is, at `sample` scale
    scales.<scale>.common                             what the scale changes for every run
    scales.<scale>.runs.<ancestor> ... .<name>        what the scale changes for this run

What the keys mean is said by the dataclasses of `kdlib.config`. Nothing here or there imports
torch, so a typing error costs a fraction of a second.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError


class ConfigError(ValueError):
    """A parameter file that can't be used; the message says where and what is allowed."""


def read(path: Path, keys: Collection[str], scales: Collection[str]) -> dict[str, Any]:
    """The parameter file, as YAML 1.2, with its top level checked.

    keys: what a run's block may hold; what lies below is checked with the types, by `build`.
    """
    try:
        params = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    expected = {"scale", "seeds", "scales", "runs"}
    if not isinstance(params, dict) or set(params) != expected:
        found = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ConfigError(f"{path}: top level must be {sorted(expected)}, found {found}")
    seeds = params["seeds"]
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"{path}: seeds: expected a list of integers, found {seeds!r}")
    for scale, block in _blocks(params["scales"], f"{path}: scales").items():
        one_of(scale, scales, f"{path}: scales")
        for key in _blocks(block, f"{path}: scales.{scale}"):
            one_of(key, ("common", "runs"), f"{path}: scales.{scale}")
        _check_keys(block.get("common", {}), keys, f"{path}: scales.{scale}.common")
        for run, overrides in block.get("runs", {}).items():
            one_of(run, params["runs"], f"{path}: scales.{scale}.runs")
            _check_keys(overrides, keys, f"{path}: scales.{scale}.runs.{run}")
    for run, block in _blocks(params["runs"], f"{path}: runs").items():
        _check_keys(block, keys, f"{path}: runs.{run}")
    return params


def _blocks(value: Any, where: str) -> dict[str, Any]:
    """The value, which must be a mapping of blocks."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a block of keys, found {value!r}")
    for key, block in value.items():
        if not isinstance(block, dict):
            raise ConfigError(f"{where}.{key}: expected a block of keys, found {block!r}")
    return value


def _check_keys(block: Any, keys: Collection[str], where: str) -> None:
    if not isinstance(block, dict):
        raise ConfigError(f"{where}: expected a block of keys, found {block!r}")
    for key in block:
        one_of(key, sorted({*keys, "extends"}), where)


def ancestry(params: dict[str, Any], name: str) -> list[str]:
    """The run's blocks, oldest ancestor first, the run itself last."""
    chain: list[str] = []
    current: str | None = name
    while current is not None:
        one_of(current, params["runs"], "run")
        if current in chain:
            raise ConfigError(f"runs.{name}: `extends` runs in a circle: {' -> '.join(chain)}")
        chain.append(current)
        current = params["runs"][current].get("extends")
    return chain[::-1]


def resolve(params: dict[str, Any], name: str, scale: str) -> dict[str, Any]:
    """The run's block after `extends` and the scale's overrides, not yet checked."""
    chain = ancestry(params, name)
    overrides = params["scales"].get(scale, {})
    layers = [params["runs"][run] for run in chain]
    layers.append(overrides.get("common", {}))
    layers += [overrides.get("runs", {}).get(run, {}) for run in chain]
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    merged.pop("extends", None)
    # A scale's common overrides speak to every run; a run that lacks the part ignores them.
    own = [params["runs"][run] for run in chain]
    own += [overrides.get("runs", {}).get(run, {}) for run in chain]
    for key in overrides.get("common", {}):
        if not any(key in layer for layer in own):
            merged.pop(key)
    if "times" in (schedule := merged.get("schedule") or {}):
        merged["schedule"] = _lengthened(schedule, f"runs.{name}.schedule")
    return merged


def _lengthened(schedule: dict[str, Any], where: str) -> dict[str, Any]:
    """`times: 0.5` makes a schedule half as long at every scale, whatever its steps are there."""
    rest = {key: value for key, value in schedule.items() if key != "times"}
    times = _value(float, schedule["times"], f"{where}.times")
    if not times > 0:
        raise ConfigError(f"{where}.times: must be over 0, found {times}")
    return rest | {"steps": round(_value(int, rest.get("steps"), f"{where}.steps") * times)}


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def one_of(name: Any, known: Iterable[str], what: str) -> None:
    """Raise ConfigError, with the nearest name, where `name` is not among the known ones."""
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{what}: unknown name {name!r}; known: {', '.join(known)}.{hint}")


def build(kind: type, values: Any, where: str) -> Any:
    """A dataclass from a mapping; every key and type checked."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a block of keys, found {values!r}")
    hints = typing.get_type_hints(kind)
    for key in values:
        one_of(key, hints, where)
    arguments = {}
    for part in dataclasses.fields(kind):
        if part.name in values:
            arguments[part.name] = _value(
                hints[part.name], values[part.name], f"{where}.{part.name}"
            )
        elif part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}.{part.name}: missing; allowed keys: {', '.join(hints)}")
    return kind(**arguments)


def _value(kind: Any, value: Any, where: str) -> Any:
    """One value against its annotation. Integers never pass for floats, nor bools for integers."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in options:
            return None
        return _value(next(o for o in options if o is not type(None)), value, where)
    if origin is Literal:
        one_of(value, options, where)
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {value!r}")
        if options[-1] is Ellipsis:
            options = (options[0],) * len(value)
        if len(options) != len(value):
            raise ConfigError(f"{where}: expected {len(options)} values, found {value!r}")
        pairs = enumerate(zip(options, value, strict=True))
        return tuple(_value(o, v, f"{where}[{i}]") for i, (o, v) in pairs)
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where)
    if type(value) is not kind:
        cure = f" Write {float(value)} with a dot." if kind is float and type(value) is int else ""
        raise ConfigError(f"{where}: expected {kind.__name__}, found {value!r}.{cure}")
    return value
