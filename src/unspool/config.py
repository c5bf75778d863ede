"""Settings: dataclasses that are at once command-line flags, a commented TOML file and what a model folder remembers.

A run's settings are a mapping from section names to dataclass instances. Field names are unique over all sections, so
that every setting has one flag. Precedence: flag, then TOML, then default.
"""

import argparse
import dataclasses
import json
import math
import operator
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from unspool.errors import ConfigError, did_you_mean

Sections = Mapping[str, type[Any]]
Settings = dict[str, Any]


def setting(default: Any, help: str, choices: Sequence[str] = ()) -> Any:
    """A dataclass field with the line that help texts and TOML files show."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": tuple(choices)})


def require(condition: bool, name: str, value: Any, expected: str) -> None:
    """Raises a ConfigError that names a setting unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name} must be {expected}, got {value!r}.")


_LIMITS = {"at least": operator.ge, "at most": operator.le, "above": operator.gt, "below": operator.lt}


def check_settings(section: Any, bounds: Mapping[str, str] = MappingProxyType({})) -> None:
    """Raises a ConfigError where a setting is out of its choices or bounds, or a number is not finite.

    Args:
        section: the settings.
        bounds: from words such as ``at least 0 and below 1`` or ``between 1 and 9`` to names of settings, blanks between.
    """
    for field in dataclasses.fields(section):
        value, choices = getattr(section, field.name), field.metadata["choices"]
        require(not isinstance(value, float) or math.isfinite(value), field.name, value, "a finite number")
        if choices and value not in choices:
            hint = did_you_mean(str(value), choices)
            raise ConfigError(f"{field.name} must be one of {', '.join(choices)}, got {value!r}{hint}.")
    check_bounds(section, bounds)


def check_bounds(section: Any, bounds: Mapping[str, str]) -> None:
    """Raises a ConfigError where a number is out of its bounds, as in `check_settings`, or not finite."""
    for words, names in bounds.items():
        plain = re.sub(r"between (\S+) and", r"at least \1 and at most", words).replace(",", "")
        limits = [(_LIMITS[kind], float(number)) for kind, number in re.findall(r"(at \w+|above|below) (\S+)", plain)]
        for name in names.split():
            value = getattr(section, name)
            finite = isinstance(value, int) or math.isfinite(value)  # an integer may be beyond all floats
            require(finite and all(holds(value, limit) for holds, limit in limits), name, value, words)


class ArgumentParser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with one line, and proposes the nearest flag."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs, allow_abbrev=False)  # type: ignore[misc]

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Parses, and refuses what is left over here, where the flags of this very command are known."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            hint = did_you_mean(unknown[0].split("=")[0], flags)
            self.error(f"unknown {'flag' if unknown[0].startswith('-') else 'argument'} {unknown[0] or repr('')}{hint}")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def add_flags(parser: argparse.ArgumentParser, sections: Sections) -> None:
    """One flag for every setting; a flag not given leaves no trace."""
    for name, section in sections.items():
        group = parser.add_argument_group(name)
        for field in dataclasses.fields(section):
            flag, text = "--" + field.name.replace("_", "-"), f"{field.metadata['help']} (default: {field.default})"
            text = text.replace("%", "%%")
            if field.type is bool:
                group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
            else:
                kind = {int: "N", float: "X", str: "TEXT"}[field.type]  # type: ignore[index]
                group.add_argument(
                    flag,
                    type=field.type,  # type: ignore[arg-type]
                    default=argparse.SUPPRESS,
                    help=text,
                    metavar="|".join(field.metadata["choices"]) or kind,
                )


def build_settings(sections: Sections, toml: Path | None = None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from defaults, a TOML file and flags.

    Raises:
        ConfigError: an unknown section or key, a value of the wrong type or out of range; the message says where.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in sections}
    if toml is not None:
        _merge_toml(values, sections, toml)
    for name, section in sections.items():
        known = {field.name for field in dataclasses.fields(section)}
        values[name].update({k: v for k, v in (flags or {}).items() if k in known})
    return {name: section(**values[name]) for name, section in sections.items()}


def settings_from_dict(sections: Sections, stored: Mapping[str, Mapping[str, Any]], where: str) -> Settings:
    """Settings from what a model folder remembers; settings that came later take their defaults."""
    values: dict[str, dict[str, Any]] = {name: {} for name in sections}
    for name, section in stored.items():
        _merge_section(values, sections, name, section, where)
    return {name: section(**values[name]) for name, section in sections.items()}


def settings_to_dict(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings as plain values for JSON."""
    return {name: dataclasses.asdict(section) for name, section in settings.items()}


def commented_toml(sections: Sections) -> str:
    """A TOML file of every setting at its default, each with its help above it."""
    lines: list[str] = []
    for name, section in sections.items():
        lines.append(f"[{name}]")
        for field in dataclasses.fields(section):
            choices = field.metadata["choices"]
            lines.append(f"# {field.metadata['help']}" + (f": {', '.join(choices)}" if choices else ""))
            lines.append(f"{field.name} = {json.dumps(field.default)}")
        lines.append("")
    return "\n".join(lines)


def to_json(values: Mapping[str, Any]) -> str:
    """One line of JSON; what is not finite becomes null, since JSON has no word for it."""
    return json.dumps(_finite(values), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _merge_toml(values: dict[str, dict[str, Any]], sections: Sections, path: Path) -> None:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for name, section in document.items():
        _merge_section(values, sections, name, section, str(path))


def _merge_section(values: dict[str, dict[str, Any]], sections: Sections, name: str, section: Any, where: str) -> None:
    if name not in sections:
        homes = [s for s, kind in sections.items() if name in _names(kind)]
        hint = f"; it belongs under [{homes[0]}]" if homes else did_you_mean(name, sections)
        raise ConfigError(f"{where}: unknown section [{name}]{hint}.")
    if not isinstance(section, Mapping):
        raise ConfigError(f"{where}: [{name}] must be a table of settings, got {section!r}.")
    types = {field.name: field.type for field in dataclasses.fields(sections[name])}
    for key, value in section.items():
        if key not in types:
            homes = [s for s, kind in sections.items() if key in _names(kind)]
            hint = f"; it belongs under [{homes[0]}]" if homes else did_you_mean(key, types)
            raise ConfigError(f"{where}: unknown key {key!r} in [{name}]{hint}.")
        kind = types[key]
        if kind is float and type(value) is int and abs(value) < 2**1000:
            value = float(value)
        if type(value) is not kind:
            expected = getattr(kind, "__name__", kind)
            raise ConfigError(f"{where}: {key} in [{name}] must be {expected}, got {value!r}.")
        values[name][key] = value


def _names(section: type[Any]) -> Iterable[str]:
    return [field.name for field in dataclasses.fields(section)]
