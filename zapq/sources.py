"""Where each setting comes from: a flag, else the environment, else the TOML file, else the default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from zapq.core.queue_settings import QueueSettings
from zapq.declared import queue_section, read_queues
from zapq.errors import InvalidSetting
from zapq.limits import TOKEN_VARIABLE, URL_VARIABLE
from zapq.settings import Option, Settings, options
from zapq.spelling import did_you_mean, nearest

Source = Literal["flag", "environment", "file", "default"]


@dataclass(frozen=True, slots=True)
class Value:
    """The value of one setting, and its source."""

    option: Option
    value: Any
    source: Source
    place: str = ""
    """The flag, the variable or the file; empty for a default."""


@dataclass(frozen=True, slots=True)
class Found:
    """What people have asked for."""

    values: tuple[Value, ...]
    """One for each setting, in the order of `options`; those in `errors` are left out."""
    errors: tuple[InvalidSetting, ...]
    """A value each that its setting does not allow."""
    token: str
    queues: Mapping[str, QueueSettings]
    """Queues that files declare."""
    files: tuple[str, ...]
    """The TOML files that were read."""

    def settings(self) -> Settings:
        """Return the settings; raises `InvalidSetting` for what is wrong first."""
        for error in self.errors:
            raise error
        values: dict[str, Any] = {each.option.name: each.value for each in self.values}
        try:
            return Settings(**values, token=self.token, queues=self.queues)
        except InvalidSetting as error:
            if error.members["setting"] != "queues":
                raise
            raise InvalidSetting(f"{' and '.join(self.files)}: {error.detail}", setting="queues") from None


def load(
    *,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    config: str | None = None,
    queues: str | None = None,
) -> Settings:
    """Return the settings people asked for; `find` has the parameters.

    Raises `InvalidSetting` naming the place the bad value came from.
    """
    return find(flags=flags, environ=environ, config=config, queues=queues).settings()


def find(
    *,
    flags: Mapping[str, str | None],
    environ: Mapping[str, str],
    config: str | None = None,
    queues: str | None = None,
) -> Found:
    """Return the value of each setting, and its source.

    `flags` maps field names to what was typed (None: not given). An empty environment variable counts as
    not set. `config` is the TOML file, which may declare queues as well; `queues` is one that does nothing else.
    Raises `InvalidSetting` for a file that cannot be used.
    """
    from_file, declared, named = _read_config(config) if config else ({}, {}, "")
    queues = queues or named
    if queues:
        further = _read_declarations(queues)
        twice = sorted(declared.keys() & further.keys())
        if twice:
            raise InvalidSetting(
                f"{queues}: {queue_section(twice[0])} is declared in {config} as well. Remove one of them.",
                setting="queues",
            )
        declared = {**declared, **further}
    values: list[Value] = []
    errors: list[InvalidSetting] = []
    for option in options():
        try:
            values.append(_value(option, flags.get(option.name), environ, from_file, config or ""))
        except InvalidSetting as error:
            errors.append(error)
    return Found(
        tuple(values),
        tuple(errors),
        environ.get(TOKEN_VARIABLE, ""),
        declared,
        tuple(each for each in (config, queues) if each),
    )


def _value(
    option: Option, flag: str | None, environ: Mapping[str, str], from_file: Mapping[str, str], config: str
) -> Value:
    if flag is not None:
        return Value(option, _parsed(option, flag, f"{option.flag} {option.shown(flag)}"), "flag", option.flag)
    said = {each: environ[each] for each in option.variables if environ.get(each)}
    if said:
        places = {name: f"{name}={option.shown(text)}" for name, text in said.items()}
        meanings = {_parsed(option, text, places[name]) for name, text in said.items()}
        if len(meanings) > 1:
            raise InvalidSetting(
                f"{' and '.join(places.values())} contradict each other: set one of them.", setting=option.name
            )
        return Value(option, meanings.pop(), "environment", next(iter(said)))
    if option.name in from_file:
        text = from_file[option.name]
        place = f"{config}: {option.name} = {option.shown(text)}"
        return Value(option, _parsed(option, text, place), "file", config)
    return Value(option, option.default, "default")


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return each variable that looks like a setting and is none, with the one that was probably meant."""
    known = {each for option in options() for each in option.variables} | _OTHER_VARIABLES
    # Compared without what all have in common, or they would all look alike.
    names = {each.removeprefix("ZAPQ_"): each for each in sorted(known)}
    unknown: dict[str, str | None] = {}
    for name, text in sorted(environ.items()):
        if text and name.startswith("ZAPQ_") and name not in known and not _is_of_a_platform(name, text):
            near = nearest(name.removeprefix("ZAPQ_"), names)
            unknown[name] = names[near] if near else None
    return unknown


_OTHER_VARIABLES = {"ZAPQ_CONFIG", "ZAPQ_QUEUES", TOKEN_VARIABLE, URL_VARIABLE}
"""Those that are no setting, and those of the commands for clients."""


def _is_of_a_platform(name: str, text: str) -> bool:
    """Whether Kubernetes or Docker sets this variable in the containers of a service called zapq."""
    if name.endswith("_PORT") and re.match("(tcp|udp|sctp)://", text):
        return True
    # Docker writes the name of a link, and the variables of the image it leads to.
    if (name.endswith("_NAME") and text.startswith("/")) or "_ENV_" in name:
        return True
    return bool(re.search(r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?)\Z", name))


def _parsed(option: Option, text: str, place: str) -> str | int | float | bool:
    try:
        value = option.parse(text)
        option.check(value)
    except ValueError as error:
        raise InvalidSetting(f"{place}: {error}.", setting=option.name) from None
    return value


def _read_toml(path: str, flag: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
        _check_integers(table)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidSetting(f"--{flag} {path!r}: {reason}.", setting=flag) from None
    return table


def _check_integers(table: dict[str, Any]) -> None:
    """Raise ValueError for one that TOML does not have. Longer ones could not even be shown."""
    left: list[Any] = [table]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("an integer is out of range; TOML has those of 64 bits")


def _read_config(path: str) -> tuple[dict[str, str], dict[str, QueueSettings], str]:
    """Return the settings a TOML file has, the queues it declares, and the file it names for more of those."""
    table = _read_toml(path, "config")
    known = {option.name for option in options()}
    tables = table.pop("queues", {})
    named = tables if isinstance(tables, str) else ""
    queues = {} if named else read_queues(path, tables)
    for key, value in table.items():
        if key not in known:
            raise InvalidSetting(
                f"{path}: {key!r} is not a setting; zapq --help lists them.{did_you_mean(key, known)}", setting=key
            )
        if key == "queue" and isinstance(value, dict):
            example = queue_section(next(iter(value), "jobs"))
            raise InvalidSetting(f"{path}: a queue is declared in a table {example}, with an s.", setting=key)
        if not isinstance(value, str | int | float):
            raise InvalidSetting(f"{path}: {key} must be one value, not {type(value).__name__}.", setting=key)
    return {key: str(value) for key, value in table.items()}, queues, named


def _read_declarations(path: str) -> dict[str, QueueSettings]:
    """Return the queues that a TOML file declares, in which nothing else may be."""
    table = _read_toml(path, "queues")
    tables = table.pop("queues", {})
    for key in table:
        raise InvalidSetting(
            f"{path}: {key!r} is not expected here. Declare queues, such as [queues.jobs]; settings of the server"
            " are for the file of --config.",
            setting="queues",
        )
    return read_queues(path, tables)
