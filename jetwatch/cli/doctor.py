"""`jetp doctor`: looks at this machine, and says what keeps an agent on it from working, and what to do.

Every topic has a file in `jetwatch/health/`. Here they are put together, with what only the command line knows: the
journal as `jetp status` reads it, the engine of `jetp local`, the sources as `check-config --online` tries them.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click
from msgspec.structs import replace

from jetwatch import __version__, statedir
from jetwatch.cli import trying
from jetwatch.cli.local import Machine, NoEngineError, find_engine
from jetwatch.cli.opening import present, reading
from jetwatch.cli.standing import Standing, look
from jetwatch.cli.streams import say_json, say_text
from jetwatch.config.load import load
from jetwatch.config.model import DiskReserve, Settings, WatchSettings
from jetwatch.errors import ConfigError, JournalError, NotPermitted
from jetwatch.health import agents, files, machine, programs, service, storage, timekeeping
from jetwatch.health.finding import Finding, Verdict, exit_code
from jetwatch.process.prepare import Surroundings
from jetwatch.statedir import StateDir
from jetwatch.telemetry.plain import visible

_USUAL_CONFIG = Path("/etc/jetwatch/watch.yml")
_WIDTH = 80
_VERDICT_WIDTH = 9
_TRIED = {
    trying.Result.OK: Verdict.OK,
    trying.Result.NOTHING_TO_TRY: Verdict.OK,
    trying.Result.NOT_NOW: Verdict.NOT_NOW,
    trying.Result.CANNOT_WORK: Verdict.PROBLEM,
}


@click.command()
@click.option(
    "--watch-config",
    "config",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The configuration.  [default: the last agent's, else /etc/jetwatch/watch.yml]",
)
@click.option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The agent's state directory, where it is not the usual one.",
)
@click.option("--online", is_flag=True, help="Try the content source of every watch, too: one look each.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one JSON document.")
def doctor(config: Path | None, state_dir: Path | None, online: bool, as_json: bool) -> None:
    """Look at this machine and say what keeps an agent from working, and what to do.

    Looked at are clock, state directory, disk, kernel, control groups, process 1, the systemd unit, agents, the
    configuration with its files and commands, and the engine behind `jetp local`. Nothing is changed. Run it as the
    agent's user.

    Leaves with 0 if nothing keeps an agent from working (warnings do not), with 78 if a person has to see to
    something, else with 75 if what is wrong may pass by itself.

    \b
    Examples:
      jetp doctor
      jetp doctor --watch-config watch.yml --online
    """
    findings = []
    for each in examine(config, state_dir, online=online):
        findings.append(each)
        if not as_json:
            say_text(f"{as_text(each)}\n")
    if as_json:
        document = {"findings": [each.as_data() for each in findings], "exit_code": exit_code(findings)}
        say_json(document)
    else:
        say_text(f"{summary(findings)}\n")
    raise SystemExit(exit_code(findings))


def examine(config: Path | None, state_dir: Path | None, *, online: bool) -> Iterator[Finding]:
    """Look at everything; told as it is known."""
    # Where the configuration names a state directory it is needed to find the journal, and the journal may be what
    # names the configuration: the usual places first, then what they say.
    layout = StateDir.at(statedir.choose(state_dir, os.environ, None))
    standing, trouble = _standing(layout)
    path = config or _config_of(standing)
    settings, said = _load(path)
    if settings is not None:
        layout = StateDir.at(statedir.choose(state_dir, os.environ, settings.state_dir), settings.download_dir)
        standing, trouble = _standing(layout)
    agent = _agent(standing)
    running = agent is not None and agent.running

    yield from timekeeping.findings(timekeeping.read(_witnesses(path, layout)))
    yield from _room(layout, settings)
    in_use = standing.agent.cgroup if standing is not None and standing.agent is not None and running else None
    yield from machine.findings(machine.read_kernel(), machine.read_groups(in_use), machine.read_init())
    yield from service.findings(service.read(agent.pid if agent is not None and running else None))
    yield from [trouble] if trouble is not None else agents.findings(agent, __version__)
    others = agents.read_others({os.getpid(), *([agent.pid] if agent is not None else [])})
    yield from agents.others_findings(others, path.absolute() if path is not None else None)
    yield from said
    if path is not None and settings is not None:
        yield from files.findings(files.read(path, settings))
        yield from _commands(settings, _surroundings(agent))
        yield from _sources(settings) if online else ()


def _standing(layout: StateDir) -> tuple[Standing | None, Finding | None]:
    """The agent as its journal knows it, None where there is no journal; and why that cannot be read."""
    try:
        if not layout.journal.exists():
            return None, None
        with reading(layout) as journal:
            return look(layout, journal, present()), None
    except (NotPermitted, PermissionError):
        sentence = f"{layout.root}: only the agent's own user and root may look into it"
        return None, Finding("journal", Verdict.WARNING, "journal", sentence, "run as that user")
    except JournalError as error:
        verdict = Verdict.NOT_NOW if error.exit_code == 75 else Verdict.PROBLEM
        return None, Finding("journal", verdict, "journal", str(error), "")


def _agent(standing: Standing | None) -> agents.Agent | None:
    if standing is None or standing.agent is None:
        return None
    known = standing.agent
    return agents.Agent(
        pid=known.pid,
        version=known.version,
        running=standing.running,
        crashed=not standing.running and known.stopped is None,
        rejected=standing.config_rejected or "",
        stalled=standing.stalled,
    )


def _config_of(standing: Standing | None) -> Path | None:
    """What the newest agent read, else the usual file; None where neither is there."""
    named = [Path(standing.agent.config_path)] if standing is not None and standing.agent is not None else []
    return next((path for path in (*named, _USUAL_CONFIG) if os.path.lexists(path)), None)


def _load(path: Path | None) -> tuple[Settings | None, list[Finding]]:
    """The configuration, and what there is to say of it."""
    subject = "configuration"
    if path is None:
        advice = "name one with --watch-config, or write one with jetp init"
        return None, [Finding("config", Verdict.WARNING, subject, "none was named, and none was found", advice)]
    try:
        settings, warnings = load(path, examine=trying.examine)
    except ConfigError as error:
        return None, [Finding("config", Verdict.PROBLEM, subject, str(each)) for each in error.problems]
    many = "watch" if len(settings.watches) == 1 else "watches"
    said = [Finding("config", Verdict.OK, subject, f"{path}: {len(settings.watches)} {many}, valid")]
    return settings, said + [Finding("config", Verdict.WARNING, subject, str(each)) for each in warnings]


def _witnesses(path: Path | None, layout: StateDir) -> list[Path]:
    """Files that were written in this machine's past."""
    return [layout.journal, layout.told, Path(statedir.__file__), *([path] if path is not None else [])]


def _room(layout: StateDir, settings: Settings | None) -> Iterator[Finding]:
    reserves = [watch.disk_reserve for watch in settings.watches.values()] if settings is not None else []
    most = DiskReserve(
        max((each.free_bytes for each in reserves), default=DiskReserve().free_bytes),
        max((each.free_inodes for each in reserves), default=DiskReserve().free_inodes),
    )
    yield from storage.findings(storage.read(layout.root), most)
    if not layout.downloads.is_relative_to(layout.root):
        yield from storage.findings(storage.read(layout.downloads), most, "download directory")


def _surroundings(agent: agents.Agent | None) -> Surroundings:
    """What commands would get from the agent that runs, as far as it shows; else from one that is started here."""
    here = replace(trying.surroundings(), cwd=os.getcwd())  # noqa: PTH109 - text, as an agent has it
    path, cwd = agents.surroundings_of(agent.pid) if agent is not None and agent.running else ("", "")
    environ = {**here.environ, "PATH": path} if path else here.environ
    return replace(here, environ=environ, cwd=cwd or here.cwd)


def _commands(settings: Settings, surroundings: Surroundings) -> Iterator[Finding]:
    for watch in settings.watches.values():
        yield from programs.findings(watch.name, programs.read(watch, surroundings))
    if any(map(_uses_an_engine, settings.watches.values())):
        yield _engine(surroundings)


def _uses_an_engine(watch: WatchSettings) -> bool:
    """Whether its play is `jetp local …`."""
    words = watch.play.words or ()
    return len(words) > 1 and Path(words[0]).name in ("jetp", "jetwatch") and words[1] == "local"


def _engine(surroundings: Surroundings) -> Finding:
    try:
        engine = find_engine(replace(Machine.here(), environ=surroundings.environ))
    except NoEngineError as error:
        return Finding("engine", Verdict.PROBLEM, "engine of jetp local", str(error))
    return Finding("engine", Verdict.OK, "engine of jetp local", engine.argv[0])


def _sources(settings: Settings) -> Iterator[Finding]:
    for tried in trying.try_all(settings):
        found = tried.as_line().removeprefix(f"{tried.watch}: ")
        yield Finding("source", _TRIED[tried.result], f"source of {tried.watch}", found)


def as_text(finding: Finding) -> str:
    """A verdict, what was found, and below it what to do; at most 80 columns where words can be parted."""
    verdict = finding.verdict.replace("_", " ")
    lines = _wrapped(verdict.ljust(_VERDICT_WIDTH), f"{finding.subject}: {finding.found}")
    if finding.advice:
        lines += _wrapped(" " * _VERDICT_WIDTH + "do: ", finding.advice)
    return "\n".join(lines)


def _wrapped(first: str, text: str) -> list[str]:
    indent = " " * len(first)
    return textwrap.wrap(
        visible(text),
        _WIDTH,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def summary(findings: list[Finding]) -> str:
    """How many there are of each verdict, the worst first."""
    counts = {verdict: sum(each.verdict is verdict for each in findings) for verdict in reversed(Verdict)}
    return "\n" + ", ".join(f"{verdict.replace('_', ' ')}: {count}" for verdict, count in counts.items() if count)
