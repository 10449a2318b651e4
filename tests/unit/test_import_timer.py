"""systemd's units, read by its own rules, as watches."""

from __future__ import annotations

from typing import Any

import pytest

from jetwatch.importing import exec_line, from_timer, systemd_time, unit
from jetwatch.importing.systemd_time import Calendar
from jetwatch.importing.watch_file import Import, Imported

TIMER = "[Timer]\nOnCalendar=daily\n"


def converted(timer: str, service: str) -> Import:
    """What the two become."""
    return from_timer.convert(
        unit.read("x.timer", timer), unit.read("x.service", service), home_of={"web": "/srv/web"}.get
    )


def watch_of(service: str = "", timer: str = TIMER) -> Imported:
    """The one watch that they become, where the service runs /bin/x."""
    (watch,) = converted(timer, f"[Service]\nExecStart=/bin/x\n{service}").watches
    return watch


def test_a_unit_is_read_by_the_rules_of_systemd() -> None:
    """Comments, continuation across a comment, repeated keys, the empty value that forgets."""
    text = "; a\n[A]\nx = 1\n# b\ny=1\ny=2\\\n# c\n   3\nnonsense\n[B]\ny=\ny=4\n"
    read = unit.read("u", text)
    assert [(each.line, each.section, each.key, each.value) for each in read.settings] == [
        (3, "A", "x", "1"),
        (5, "A", "y", "1"),
        (6, "A", "y", "2 3"),
        (11, "B", "y", ""),
        (12, "B", "y", "4"),
    ]
    assert [each.value for each in read.listed("A", "y")] == ["1", "2 3"]
    assert [each.value for each in read.listed("B", "y")] == ["4"]
    assert read.last("A", "z") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a  b", ["a", "b"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ("a'b c'd", ["ab cd"]),
        (r"a\x20b \s \t", ["a b", " ", "\t"]),
        (r"'\u00e9\101'", ["éA"]),
        ("''", [""]),
        (r"\;", [r"\;"]),
        ("';'", [r"\;"]),
    ],
)
def test_words_are_split_as_systemd_splits_them(text: str, found: list[str]) -> None:
    """Not as a shell does."""
    assert unit.words(text) == found


@pytest.mark.parametrize("text", ["'a", r"\q", r"\x00"])
def test_words_that_systemd_refuses_are_refused(text: str) -> None:
    """With a sentence."""
    with pytest.raises(ValueError, match=r"quote|escape"):
        unit.words(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1h 30min", 5400), ("5min", 300), ("2 weeks", 1_209_600), ("500ms", 0.5), ("1d12h", 129_600)],
)
def test_a_span_is_seconds(text: str, seconds: float) -> None:
    """With and without units."""
    assert systemd_time.span_s(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "5 parsecs", "-1"])
def test_what_is_no_span_is_refused(text: str) -> None:
    """With a sentence."""
    with pytest.raises(ValueError, match="time span"):
        systemd_time.span_s(text)


CALENDARS = {
    "daily": "0 0 * * *",
    "weekly": "0 0 * * 1",
    "quarterly": "0 0 1 1,4,7,10 *",
    "03:30": "30 3 * * *",
    "*-*-* 03:30:00": "30 3 * * *",
    "Mon..Fri 03:30": "30 3 * * 1-5",
    "Sat,Sun 10:00": "0 10 * * 6,0",
    "Sat..Sunday *:00": "0 * * * 6-7",
    "*:0/15": "*/15 * * * *",
    "*:5/20": "5-59/20 * * * *",
    "8..18/2:00": "0 8-18/2 * * *",
    "*-*-1,15 04:00": "0 4 1,15 * *",
    "*-01/3-01": "0 0 1 1-12/3 *",
    "12-24 18:00": "0 18 24 12 *",
    "Mon": "0 0 * * 1",
}


@pytest.mark.parametrize(("text", "schedule"), CALENDARS.items())
def test_a_calendar_expression_is_a_schedule(text: str, schedule: str) -> None:
    """That fires at the same times."""
    assert systemd_time.calendar(text) == Calendar(schedule)


def test_a_calendar_expression_may_name_its_zone() -> None:
    """Which the watch then has."""
    assert systemd_time.calendar("daily Europe/Berlin") == Calendar("0 0 * * *", "Europe/Berlin")
    assert systemd_time.calendar("Mon 03:00 UTC") == Calendar("0 3 * * 1", "UTC")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2027-01-01", "years"),
        ("*-*~01", "end of a month"),
        ("*:*:30", "seconds"),
        ("Mon *-*-1 03:00", "either"),
        ("25:00", "25:00"),
        ("Sat..Mon", "rise"),
        ("Mon..Fry", "weekday"),
        ("daily Europe/Nowhere", "know"),
        ("", "no calendar"),
        ("@1", "no calendar"),
    ],
)
def test_what_crontab_cannot_say_is_refused(text: str, reason: str) -> None:
    """With what stands in the way."""
    with pytest.raises(ValueError, match=reason):
        systemd_time.calendar(text)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/bin/x -a 'b c'", {"run": ["/bin/x", "-a", "b c"]}),
        ("/bin/x {{.y}}", {"run": ["/bin/x", "{{ '{{' }}.y}}"]}),
        (":/bin/x $a", {"run": ["/bin/x", "$a"]}),
        ("@/bin/x zero one", {"run": ["/bin/x", "one"]}),
        ("-/bin/x", {"shell": "set -f\n{ /bin/x || :; }"}),
        ("/bin/x a${b}c $d $$e f$g ''", {"shell": "set -f\n/bin/x a\"${b}\"c $d '$'e 'f$g' ''"}),
        ("/bin/x ; /bin/y \\;", {"shell": "set -f\n/bin/x &&\n/bin/y ';'"}),
    ],
)
def test_a_command_keeps_its_words(text: str, command: dict[str, Any]) -> None:
    """What systemd does besides is written for the shell."""
    assert exec_line.command(exec_line.read(text)) == command


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [
        ("User=web", "user", "web"),
        ("User=web\nWorkingDirectory=~", "cwd", "/srv/web"),
        ("", "cwd", "/"),
        ("Nice=5", "nice", "5"),
        ('Environment="A=b c" D=e\nEnvironment=D=f', "env", {"A": "b c", "D": "f"}),
        ("Environment=A=1\nEnvironment=\nEnvironment=B=%p", "env", {"B": "x"}),
        ("EnvironmentFile=/etc/x", "env_file", ["/etc/x"]),
        ("Type=oneshot\nTimeoutStartSec=90", "timeouts", {"play": "90s"}),
        ("TimeoutStartSec=90\nRuntimeMaxSec=1h", "timeouts", {"play": "1h"}),
        ("SuccessExitStatus=3", "jet_command", {"run": ["/bin/x"], "ok_exit_codes": ["0", "3"]}),
    ],
)
def test_a_setting_of_the_service_is_a_key(service: str, key: str, value: object) -> None:
    """Without a remark."""
    watch = watch_of(service)
    assert watch.keys[key] == value
    assert watch.remarks == []


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("ProtectSystem=strict", "no equivalent"),
        ("[Unit]\nOnFailure=page.service", "on_fail"),
        ("EnvironmentFile=-/etc/x", "has to be there"),
        ("Type=notify", "command ends"),
        ("User=%H", "%H"),
        ("TimeoutStartSec=soon", "time span"),
        ("SuccessExitStatus=SIGKILL", "number"),
        ("Environment=nothing", "NAME=value"),
    ],
)
def test_a_setting_without_an_equivalent_is_remarked(service: str, said: str) -> None:
    """Once, with its file and line."""
    (remark,) = watch_of(service).remarks
    assert said in remark.text
    assert (remark.file, remark.line >= 3) == ("x.service", True)


def test_an_interval_is_a_check_that_is_always_due() -> None:
    """From start to start; a random delay is jitter."""
    keys = watch_of(timer="[Timer]\nOnUnitActiveSec=15min\nRandomizedDelaySec=1min\n").keys
    assert (keys["check_command"], keys["check_interval"], keys["jitter"]) == ("true", "15m", "1m")


def test_two_calendar_expressions_are_two_watches_that_never_meet() -> None:
    """With one lock."""
    first, second = converted("[Timer]\nOnCalendar=3:00\nOnCalendar=5:00\n", "[Service]\nExecStart=/bin/x").watches
    assert (first.name, second.name) == ("x", "x-2")
    assert first.keys["exclusive"] == second.keys["exclusive"] == "x"


def test_a_timer_that_fires_after_boot_only_is_not_imported() -> None:
    """And says why."""
    found = converted("[Timer]\nOnBootSec=5min\n", "[Service]\nExecStart=/bin/x")
    assert found.watches == []
    assert "no equivalent" in found.remarks[0].text
