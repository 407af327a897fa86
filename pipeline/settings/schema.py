"""Questions about the settings tree: which dotted keys exist, what each allows, and how text becomes its value."""

import re
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.common.errors import UsageError
from pipeline.common.names import nearest
from pipeline.settings import Section, Settings, SftPhase

SECTIONS = tuple(
    name
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
)
"""Top-level keys of a preset file."""
LISTED = (SftPhase,)
"""Sections in lists, whose keys have a number: `sft.phases.0.steps`."""


def all_keys() -> list[str]:
    """Every dotted key that can be set, dict fields with `<name>` in the place of the free part."""
    return [key for key, _ in _walk(Settings, "")]


def _walk(section: type[Section], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _walk(inner, f"{prefix}{name}.")
        elif get_origin(inner) is dict:
            value = get_args(inner)[1]
            if isinstance(value, type) and issubclass(value, Section):
                yield from _walk(value, f"{prefix}{name}.<name>.")
            else:
                yield f"{prefix}{name}.<name>", value
        else:
            yield prefix + name, inner


def split_key(key: str) -> list[str]:
    """The parts of a dotted key. A name of the user's own comes last and may hold dots itself: an import path
    (`verify.rewards.my.module:function`), the name of an evaluation set or of an arm."""
    parts = key.split(".")
    annotation: Any = Settings
    for i, part in enumerate(parts):
        if get_origin(annotation) is dict and not _is_section(get_args(annotation)[1]):
            return [*parts[:i], ".".join(parts[i:])]
        annotation = _inside(annotation, part)
    return parts


def field_type(key: str) -> Any:
    """The annotation at a dotted key.

    Raises:
        UsageError: there is no such key (names the nearest right one and what its section holds).
    """
    annotation: Any = Settings
    walked: list[str] = []
    for part in split_key(key):
        annotation = _inside(annotation, part)
        if annotation is None:
            raise UsageError(unknown_key(key, walked))
        walked.append(part)
    return annotation


def _inside(annotation: Any, part: str) -> Any:
    """The annotation one part further; None if there is no such part."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if _is_section(annotation) and part in annotation.model_fields:
        return annotation.model_fields[part].annotation
    if origin is dict and part:
        return arguments[1]
    if origin is list and re.fullmatch("[0-9]+", part) and arguments[0] in LISTED:
        return arguments[0]
    return None


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def unknown_key(key: str, walked: list[str] | None = None) -> str:
    """The message for a key that does not exist."""
    guess = nearest(key, [name.replace(".<name>", "") for name in all_keys()])
    text = f"{key}: there is no such setting." + (f" Did you mean {guess}?" if guess not in (None, key) else "")
    prefix = ".".join(walked or [])
    inside = [name for name in all_keys() if prefix and name.startswith(prefix + ".")]
    if inside:
        return f"{text}\nAllowed in {prefix}: {', '.join(name[len(prefix) + 1 :] for name in inside)}"
    return f"{text}\nSections: {', '.join(SECTIONS)}; beside them: seed, name, runs_dir, force, dry_run"


def parse(key: str, text: str) -> Any:
    """The value that `key=text` on a command line means. Numbers stay text, which pydantic converts and checks.

    Raises:
        UsageError: no such key, or text that cannot become its type.
    """
    annotation, optional = _unwrap(field_type(key))
    if get_origin(annotation) is Literal and text in get_args(annotation):
        return text
    if text in ("", "none", "null"):
        if optional:
            return None
        if text == "" and get_origin(annotation) is list:
            return []
        if text == "":
            raise UsageError(f"{key}= needs a value. Allowed: {describe(key)}")
    if isinstance(annotation, type) and issubclass(annotation, Section):
        raise UsageError(f"{key} is a section, not a setting. Allowed: {', '.join(annotation.model_fields)}")
    if get_origin(annotation) in (list, dict):
        if text.startswith(("[", "{")):
            try:
                return load_yaml(text)
            except ValueError as error:
                raise UsageError(f"{key}={text}: not YAML ({error}). Allowed: {describe(key)}") from error
        return [part.strip() for part in text.split(",") if part.strip()] if get_origin(annotation) is list else text
    return text


MOST_VALUES = 100_000
"""In one YAML text."""


def load_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """What YAML text means.

    Raises:
        ValueError: it is not YAML, is nested too deeply, contains itself (`&a [*a]`), or repeats so much by aliases that every
            walk through it would take hours.
    """
    try:
        value = yaml.load(text, Loader=loader)
        _size(value, ())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, TypeError) as error:  # TypeError: a list or mapping as a key
        raise ValueError(str(error)) from error
    return value


def _size(value: Any, around: tuple[int, ...]) -> int:
    """How many values it holds, each alias counted as what it repeats."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) in around:
        raise ValueError("an alias (*name) lies inside its own anchor (&name)")
    size = 1
    for inner in value.values() if isinstance(value, dict) else value:
        size += _size(inner, (*around, id(value)))
        if size > MOST_VALUES:
            raise ValueError(f"it holds more than {MOST_VALUES:,} values, aliases (*name) counted as what they repeat")
    return size


def choices(key: str) -> list[str]:
    """The words allowed at a key; empty if it takes anything else than certain words."""
    try:
        annotation, _ = _unwrap(field_type(key))
    except UsageError:
        return []
    return list(map(str, get_args(annotation))) if get_origin(annotation) is Literal else []


def describe(key: str) -> str:
    """What is allowed at a key: its values, or its type and range."""
    try:
        annotation, optional = _unwrap(field_type(key))
    except UsageError:
        return _describe_item(key)
    text = _type_name(annotation)
    limits = [
        f"{sign} {bound}" if isinstance(bound, int) else f"{sign} {bound:g}" for sign, bound in _limits(_field(key))
    ]
    if limits:
        text += " " + " and ".join(limits)
    return text + (", or none" if optional else "")


def _describe_item(key: str) -> str:
    """What is allowed at `tracking.to.0`, as pydantic calls the items of a list."""
    whole, _, place = key.rpartition(".")
    try:
        annotation = _unwrap(field_type(whole))[0] if place.isdigit() else None
    except UsageError:
        annotation = None
    return _type_name(get_args(annotation)[0]) if get_origin(annotation) is list else "nothing (no such setting)"


def _field(key: str) -> FieldInfo | None:
    """The declaration behind a key, where it is a plain field of a section."""
    section: Any = Settings
    field: FieldInfo | None = None
    for part in key.split("."):
        if isinstance(section, type) and issubclass(section, Section) and part in section.model_fields:
            field = section.model_fields[part]
            section = field.annotation
        elif get_origin(section) in (dict, list):
            section, field = get_args(section)[-1], None
        else:
            return None
    return field


def default_of(key: str) -> Any:
    """The plain (dumped) default at a key, or None."""
    field = _field(key)
    default = None if field is None else field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return None
    if isinstance(default, list):
        return [item.model_dump() if isinstance(item, Section) else item for item in default]
    if isinstance(default, dict):
        return {name: item.model_dump() if isinstance(item, Section) else item for name, item in default.items()}
    return default


def _limits(field: FieldInfo | None) -> Iterator[tuple[str, float]]:
    for rule in field.metadata if field else ():
        for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            bound = getattr(rule, attribute, None)
            if bound is not None:
                yield sign, bound


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    """The annotation without `| None`, and whether None is allowed."""
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [argument for argument in get_args(annotation) if argument is not type(None)]
        return inner[0], len(inner) < len(get_args(annotation))
    return annotation, False


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin is list:
        return f"a list of {_type_name(arguments[0])} (a,b,c or a YAML list)"
    if origin is dict:
        return f"{_type_name(arguments[1])} by name"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
