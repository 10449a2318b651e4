"""A systemd timer and its service → watches that do the same, and a remark for every setting without an equivalent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec import Struct, field

from jetwatch.config.commands import NAME_PATTERN
from jetwatch.config.times import YEAR_S, clock
from jetwatch.importing import exec_line
from jetwatch.importing.naming import Names
from jetwatch.importing.systemd_time import calendar, span_s
from jetwatch.importing.unit import Setting, Unit, words
from jetwatch.importing.watch_file import Aside, Import, Imported, Remark, Value

HEADER_NOTES = (
    "What differs from systemd: a firing that was missed while the machine was down is made up once, as with",
    "Persistent=true; a watch fires at its time, not within AccuracySec; no sandbox of the unit is taken over.",
)
DEFAULTS: Mapping[str, Value] = {"timeouts": {"play": "24h"}}
"""A oneshot service has no limit; the default of a play, 2 h, could end what was never ended before."""

_SAY_NOTHING = {
    "Unit": {"Description", "Documentation", "After", "Before", "Wants", "DefaultDependencies"},
    "Timer": {"Persistent", "AccuracySec", "Unit", "RemainAfterElapse"},
    "Service": {"Type", "SyslogIdentifier", "RemainAfterExit", "KillMode", "Restart"},
}
_JOURNAL = ("journal", "inherit", "journal+console")
_FIRST = ("OnBootSec", "OnStartupSec", "OnActiveSec")


class _Making(Struct):
    """What is gathered: the settings that were understood, and the remarks."""

    units: tuple[Unit, Unit]
    home_of: Callable[[str], str | None]
    understood: set[tuple[str, int]] = field(default_factory=set)
    remarks: list[Remark] = field(default_factory=list)

    def remark(self, unit: Unit, setting: Setting, text: str) -> None:
        """Say something of a setting."""
        self.understood.add((unit.name, setting.line))
        self.remarks.append(Remark(setting.line, f"{setting.key}={setting.value}: {text}", unit.name))

    def take(self, unit: Unit, section: str, key: str) -> list[Setting]:
        """All values of a key, which is understood from now on."""
        self.understood |= {
            (unit.name, setting.line) for setting in unit.settings if (setting.section, setting.key) == (section, key)
        }
        return unit.listed(section, key)

    def last(self, unit: Unit, section: str, key: str) -> Setting | None:
        """Its last value."""
        found = self.take(unit, section, key)
        return found[-1] if found else None


def service_name(timer: Unit) -> str:
    """The unit that this timer starts."""
    named = timer.last("Timer", "Unit")
    return named.value if named else timer.name.removesuffix(".timer") + ".service"


def convert(timer: Unit, service: Unit, *, home_of: Callable[[str], str | None]) -> Import:
    """A watch for each OnCalendar, or one for OnUnitActiveSec. `home_of`: where an account lives."""
    making = _Making((timer, service), home_of)
    moments = _moments(making, timer)
    keys = _service_keys(making, service)
    command = _command(making, service)
    for unit in making.units:
        _remark_the_rest(making, unit)
    described = [setting.value for unit in making.units if (setting := unit.last("Unit", "Description"))]
    entries: list[Imported | Aside] = []
    names = Names()
    base = re.sub(r"[^a-z0-9_-]+", "-", service.name.removesuffix(".service").lower()).strip("-_")[:60] or "job"
    for number, moment in enumerate(moments if command else []):
        lock: dict[str, Value] = {"exclusive": base} if len(moments) > 1 else {}
        entries.append(
            Imported(
                name=names.exact(base),
                keys={**moment, **lock, **keys, "jet_command": command or {}},
                comments=described if number == 0 else (),
                remarks=making.remarks if number == 0 else (),
                hints=_hints(moment),
            )
        )
    return Import(tuple(entries) or (Aside(described, making.remarks),))


def _moments(making: _Making, timer: Unit) -> list[dict[str, Value]]:
    """When: the keys that say it, once for each watch."""
    delay = _span(making, timer, "Timer", "RandomizedDelaySec")
    found: list[dict[str, Value]] = []
    for setting in making.take(timer, "Timer", "OnCalendar"):
        try:
            when = calendar(setting.value)
        except ValueError as error:
            making.remark(timer, setting, f"not imported: {error}")
            continue
        zone: dict[str, Value] = {"timezone": when.timezone} if when.timezone else {}
        splay: dict[str, Value] = {"splay": delay} if delay else {}
        found.append({"schedule": when.schedule, **zone, **splay})
    interval = _interval(making, timer)
    if interval:
        jitter: dict[str, Value] = {"jitter": delay} if delay else {}
        found.append({"check_command": "true", "check_interval": interval, **jitter})
    for key in _FIRST:
        for setting in making.take(timer, "Timer", key):
            told = "the first run begins when the agent starts" if interval else "not imported: it has no equivalent"
            making.remark(timer, setting, told)
    return found


def _interval(making: _Making, timer: Unit) -> str | None:
    active = _span(making, timer, "Timer", "OnUnitActiveSec")
    inactive = timer.last("Timer", "OnUnitInactiveSec")
    if inactive:
        making.remark(timer, inactive, "`check_interval` counts from start to start, not from the end")
    return active or _span(making, timer, "Timer", "OnUnitInactiveSec")


def _span(making: _Making, unit: Unit, section: str, key: str, least_s: float = 0.0) -> str | None:
    """A duration of watch.yml; None where it is 0, not given, endless, or not understood (which is remarked)."""
    setting = making.last(unit, section, key)
    if setting is None or setting.value == "infinity":
        return None
    try:
        seconds = span_s(setting.value)
    except ValueError as error:
        making.remark(unit, setting, str(error))
        return None
    if seconds > YEAR_S:
        making.remark(unit, setting, f"at most {clock(YEAR_S)} can be said")
    return clock(min(seconds, YEAR_S)) if seconds > least_s else None


def _service_keys(making: _Making, service: Unit) -> dict[str, Value]:
    keys: dict[str, Value] = {}
    for name, key in (("User", "user"), ("Group", "group"), ("Nice", "nice"), ("UMask", "umask")):
        setting = making.last(service, "Service", name)
        if setting:
            keys[key] = _known(making, service, setting, setting.value)
    user = keys.get("user")
    cwd = _working_directory(making, service, user if isinstance(user, str) else "root")
    keys["cwd"] = cwd or "/"
    env = _environment(making, service)
    files = _environment_files(making, service)
    timeout = _timeout(making, service)
    return keys | ({"env": env} if env else {}) | ({"env_file": files} if files else {}) | timeout


def _timeout(making: _Making, service: Unit) -> dict[str, Value]:
    kind = making.last(service, "Service", "Type")
    is_oneshot = kind is not None and kind.value == "oneshot"
    if kind and kind.value not in ("oneshot", "simple", "exec"):
        making.remark(service, kind, "the run ends when its command ends")
    least_s = 0.1
    start = _span(making, service, "Service", "TimeoutStartSec", least_s)
    longest = _span(making, service, "Service", "RuntimeMaxSec", least_s)
    limit = start if is_oneshot else longest
    grace = _span(making, service, "Service", "TimeoutStopSec")
    said = {name: value for name, value in (("play", limit), ("grace", grace)) if value}
    return {"timeouts": said} if said else {}


def _working_directory(making: _Making, service: Unit, user: str) -> str | None:
    setting = making.last(service, "Service", "WorkingDirectory")
    if setting is None:
        return None
    path = setting.value.removeprefix("-")
    if path == "~":
        path = making.home_of(user) or ""
    path = _known(making, service, setting, path)
    if not path.startswith("/"):
        making.remark(service, setting, "this directory is not known here; write it as `cwd`")
        return None
    return path


def _environment(making: _Making, service: Unit) -> dict[str, Value]:
    env: dict[str, Value] = {}
    for setting in making.take(service, "Service", "Environment"):
        try:
            assignments = words(_known(making, service, setting, setting.value))
        except ValueError as error:
            making.remark(service, setting, str(error))
            continue
        for assignment in assignments:
            name, equals, value = assignment.partition("=")
            if equals and re.fullmatch(NAME_PATTERN, name):
                env[name] = value
            else:
                making.remark(service, setting, f"`{assignment}` is not NAME=value")
    return env


def _environment_files(making: _Making, service: Unit) -> list[str]:
    files = []
    for setting in making.take(service, "Service", "EnvironmentFile"):
        files.append(_known(making, service, setting, setting.value.removeprefix("-")))
        if setting.value.startswith("-"):
            making.remark(service, setting, "`-`: this file has to be there, or no command starts")
    return files


def _known(making: _Making, unit: Unit, setting: Setting, text: str) -> str:
    """The text with its specifiers; those that are not known here are remarked and stay."""
    known, unknown = exec_line.without_specifiers(text, unit.name)
    if unknown:
        making.remark(unit, setting, f"{', '.join(unknown)} has no equivalent and was left as it is")
    return known


def _command(making: _Making, service: Unit) -> Value | None:
    """What the service runs, the commands before and after it included; None if there is nothing."""
    execs: list[exec_line.Exec] = []
    has_start = False
    for key in ("ExecStartPre", "ExecStart", "ExecStartPost"):
        for setting in making.take(service, "Service", key):
            try:
                found = exec_line.read(_known(making, service, setting, setting.value))
            except ValueError as error:
                making.remark(service, setting, f"not imported: {error}")
                return None
            for each in found:
                for remark in each.remarks:
                    making.remark(service, setting, remark)
            execs += found
            has_start = has_start or key == "ExecStart"
    if not has_start:
        making.remarks.append(Remark(1, "there is no ExecStart", service.name))
        return None
    command = exec_line.command(execs)
    codes = _ok_exit_codes(making, service)
    return {**command, "ok_exit_codes": codes} if codes and isinstance(command, Mapping) else command


def _ok_exit_codes(making: _Making, service: Unit) -> list[str]:
    codes = ["0"]
    for setting in making.take(service, "Service", "SuccessExitStatus"):
        for code in setting.value.split():
            if code.isdecimal() and int(code) <= 255:
                codes.append(code)
            else:
                making.remark(service, setting, f"`{code}`: write it as a number")
    return codes if len(codes) > 1 else []


def _remark_the_rest(making: _Making, unit: Unit) -> None:
    for setting in unit.settings:
        silent = setting.key in _SAY_NOTHING.get(setting.section, set()) or setting.section == "Install"
        silent = silent or (setting.key in ("StandardOutput", "StandardError") and setting.value in _JOURNAL)
        if silent or not setting.value or (unit.name, setting.line) in making.understood:
            continue
        if setting.key == "OnFailure":
            making.remark(unit, setting, "`on_fail: systemctl start --no-block UNIT` starts it")
        elif setting.key == "OnSuccess":
            making.remark(unit, setting, "`on_ok: systemctl start --no-block UNIT` starts it")
        else:
            making.remark(unit, setting, "no equivalent")


def _hints(moment: Mapping[str, Value]) -> tuple[str, ...]:
    if "schedule" not in moment or "splay" in moment:
        return ()
    return ("splay: 5m  # a random wait before each start: on many machines, not all in the same second",)
