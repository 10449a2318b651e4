"""What cron ran, run by jetwatch: `jetp import-cron`, `jetp check-config`, one look, and the output."""

from __future__ import annotations

import getpass
import json
import re
import subprocess
from pathlib import Path

from agent_process import JETP

_ENVIRON = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "LANG": "C.UTF-8"}
PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/from-cron-and-timers.md"
CRONTAB = r"""# what this machine does
GREETING = "good  morning"
MAILTO=ops@example.org

# per cent signs and input
0 3 * * 1-5 tr a-z A-Z; echo \%F%dear all,%$GREETING {{
@hourly echo "$GREETING" '{{.Names}}' > {there}/hourly; pwd >> {there}/hourly
SHELL=/bin/bash
@daily [[ $GREETING == good* ]] && echo "{{ ${#GREETING}" > {there}/daily
@reboot true
"""


def jetp(*words: str | Path, code: int = 0, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """`jetp WORDS`, with this text to read."""
    done = subprocess.run(
        [JETP, *words], env=_ENVIRON, input=text or "", capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
    return done


def imported(tmp_path: Path, *words: str | Path, text: str | None = None) -> tuple[Path, str]:
    """The watch.yml that was printed, valid, and what was said on standard error."""
    done = jetp(*words, text=text)
    path = tmp_path / "watch.yml"
    path.write_text(done.stdout)
    jetp("check-config", path)
    return path, done.stderr


def test_an_imported_crontab_does_what_cron_did(tmp_path: Path) -> None:
    """Environment, shell, input and per cent signs, and braces that are no template."""
    crontab = tmp_path / "crontab"
    crontab.write_text(CRONTAB.replace("{there}", str(tmp_path)))
    config, said = imported(tmp_path, "import-cron", "--user", getpass.getuser(), crontab)
    assert f"{crontab}:3: MAILTO" in said
    assert f"{crontab}:10: not imported: @reboot" in said
    assert "  # per cent signs and input\n" in config.read_text()
    state = tmp_path / "state"
    jetp("watch", "--watch-config", config, "--once", "--no-splay", "--state-dir", state)
    runs = json.loads(jetp("runs", "--json", "--state-dir", state).stdout)
    by_watch = {run["watch"]: run["play_uuid"] for run in runs}
    assert set(by_watch) == {"tr-a-z", "echo", "echo-2"}
    output = jetp("logs", by_watch["tr-a-z"], "--state-dir", state).stdout
    assert output == "DEAR ALL,\n$GREETING {{\n%F\n"
    home = Path("~").expanduser()
    assert (tmp_path / "hourly").read_text() == f"good  morning {{{{.Names}}}}\n{home}\n"
    assert (tmp_path / "daily").read_text() == "{{ 13\n"


def test_a_system_crontab_is_read_from_standard_input(tmp_path: Path) -> None:
    """The user column is found out."""
    config, said = imported(tmp_path, "import-cron", "-", text="17 * * * * root run-parts /etc/cron.hourly\n")
    assert said == ""
    assert "    user: root\n" in config.read_text()


def test_a_file_without_jobs_is_refused(tmp_path: Path) -> None:
    """With the reason for each line that could not be taken over."""
    done = jetp("import-cron", "--user", "root", "-", text="@reboot x\n", code=2)
    assert done.stdout == ""
    assert "@reboot" in done.stderr
    assert "no job" in done.stderr


def shown() -> list[str]:
    """The blocks of the page that are read or printed."""
    return re.findall(r"^```(?:crontab|ini|yaml|text)\n(.*?)^```", PAGE.read_text(), re.M | re.S)


def test_the_page_shows_what_is_printed() -> None:
    """Its crontab becomes its watch.yml, to the letter, and its warnings are those that are said."""
    crontab, config, warnings = shown()[:3]
    done = jetp("import-cron", "--user-column", "-", text=crontab)
    assert done.stdout == config
    assert done.stderr == warnings


def test_an_imported_timer_does_what_systemd_did(tmp_path: Path) -> None:
    """Environment, words, a failure that does not count, variables, and the service beside the timer."""
    (tmp_path / "note.timer").write_text("[Timer]\nOnCalendar=Mon..Fri 02:30 UTC\nRandomizedDelaySec=5min\n")
    (tmp_path / "note.service").write_text(
        f"""[Service]
Type=oneshot
WorkingDirectory={tmp_path}
Environment="GREETING=good  morning" 'BRACES={{{{'
ExecStartPre=-/bin/false
ExecStart=/usr/bin/printf '[%%s]\\n' $GREETING ${{GREETING}} "it's" $$HOME * ${{BRACES}}
ProtectSystem=strict
"""
    )
    config, said = imported(tmp_path, "import-timer", tmp_path / "note.timer")
    assert said == "warning: note.service:7: ProtectSystem=strict: no equivalent\n"
    jetp("watch", "--watch-config", config, "--once", "--no-splay", "--state-dir", tmp_path / "state")
    output = jetp("logs", "--state-dir", tmp_path / "state").stdout
    assert output == "[good]\n[morning]\n[good  morning]\n[it's]\n[$HOME]\n[*]\n[{{]\n"


def test_a_timer_without_its_service_says_what_to_do(tmp_path: Path) -> None:
    """Where it was looked for."""
    (tmp_path / "x.timer").write_text("[Timer]\nOnCalendar=daily\n")
    assert f"{tmp_path}/x.service: No such file" in jetp("import-timer", tmp_path / "x.timer", code=2).stderr


def test_the_page_shows_what_a_timer_becomes(tmp_path: Path) -> None:
    """To the letter, but for the directory."""
    timer, service, config, warnings = shown()[3:7]
    (tmp_path / "report.timer").write_text(timer)
    (tmp_path / "report.service").write_text(service)
    done = jetp("import-timer", tmp_path / "report.timer")
    assert done.stdout.replace(str(tmp_path), "/etc/systemd/system") == config
    assert done.stderr == warnings


def test_nothing_but_a_line_feed_ends_a_line_of_the_input(tmp_path: Path) -> None:
    """A lone CR, and what YAML takes for an end of line, stay in their command; a NUL is refused with its line."""
    crontab = tmp_path / "crontab"
    crontab.write_bytes("1 1 * * * cat%\u2028    on_ok: {shell: id, user: root}\r2 2 * * * id\n".encode())
    made = jetp("import-cron", "--user", "nobody", crontab).stdout
    assert [line for line in made.splitlines() if re.match(r" +(on_ok|schedule):", line)] == [
        "    schedule: '1 1 * * *'"
    ]
    assert r"\u2028    on_ok: {shell: id, user: root}\r2 2 * * * id" in made.replace("\\L", r"\u2028")
    crontab.write_bytes(b"# x\n1 1 * * * a\0b\n")
    assert f"{crontab}:2: expected text, found a NUL" in jetp("import-cron", crontab, code=2).stderr
