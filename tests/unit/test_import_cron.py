"""A crontab, line by line: what cron understands is what the watch says."""

from __future__ import annotations

import pytest
import yaml

from jetwatch.importing import from_cron, naming, watch_file
from jetwatch.importing.crontab import Comment, Job, Line, Setting, Unreadable, has_user_column, lines
from jetwatch.importing.watch_file import Imported

HOMES = {"root": "/root", "web": "/srv/web"}


def only(text: str, *, user_column: bool = False) -> Line:
    """The one line of this text, read."""
    (found,) = lines(text, user_column=user_column)
    return found


def converted(text: str, *, owner: str | None = "root", user_column: bool = False) -> watch_file.Import:
    """What a crontab becomes."""
    return from_cron.convert(lines(text, user_column=user_column), owner=owner, home_of=HOMES.get)


def watch_of(text: str, **more: object) -> Imported:
    """The one watch that this crontab becomes."""
    (watch,) = converted(text, **more).watches  # type: ignore[arg-type]
    return watch


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", Comment(1, "")),
        ("  # at night ", Comment(1, "at night")),
        ("A=b", Setting(1, "A", "b")),
        ("A = b c ", Setting(1, "A", "b c")),
        ('A = " b "', Setting(1, "A", " b ")),
        ("'A'='b'", Setting(1, "A", "b")),
        ("A=", Setting(1, "A", "")),
        ("A=b # no comment", Setting(1, "A", "b # no comment")),
        ("0 3 * * * x", Job(1, "0 3 * * * x", "0 3 * * *", None, "x")),
        ("0\t3  * * *\tx  y\r", Job(1, "0\t3  * * *\tx  y", "0 3 * * *", None, "x  y")),
        ("@daily A=1 x", Job(1, "@daily A=1 x", "@daily", None, "A=1 x")),
        ("* * * * * A=1 x", Job(1, "* * * * * A=1 x", "* * * * *", None, "A=1 x")),
        ("-0 3 * * * x", Job(1, "-0 3 * * * x", "0 3 * * *", None, "x")),
        (r"@daily date +\%F", Job(1, r"@daily date +\%F", "@daily", None, "date +%F")),
        (r"@daily x%a\%b%c", Job(1, r"@daily x%a\%b%c", "@daily", None, "x", "a%b\nc")),
        ("@daily x%", Job(1, "@daily x%", "@daily", None, "x", "")),
    ],
)
def test_a_line_is_what_cron_takes_it_for(text: str, found: Line) -> None:
    """Comments, settings, five fields, nicknames, per cent signs."""
    assert only(text) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [("oops", "five fields"), ("0 3 * *", "five fields"), ("0 3 * * *", "no command"), ("@daily", "no command")],
)
def test_a_line_that_cron_would_refuse_is_unreadable(text: str, reason: str) -> None:
    """With a reason."""
    found = only(text)
    assert isinstance(found, Unreadable)
    assert reason in found.reason


def test_the_sixth_field_of_a_system_crontab_is_the_user() -> None:
    """And it has to look like an account."""
    job = only("0 3 * * * web x y", user_column=True)
    assert isinstance(job, Job)
    assert (job.user, job.command) == ("web", "x y")
    assert isinstance(only("0 3 * * * /bin/x y", user_column=True), Unreadable)
    assert isinstance(only("0 3 * * * web", user_column=True), Unreadable)


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("0 3 * * * x", "/etc/crontab", True),
        ("0 3 * * * x", "/etc/cron.d/x", True),
        ("A=b\n0 3 * * * root x\n@daily web y", "-", True),
        ("0 3 * * * root x\n@daily y z", "-", False),
        ("@daily web", "-", False),
        ("# nothing", "-", False),
    ],
)
def test_the_user_column_is_found_out(text: str, path: str, expected: bool) -> None:
    """By the place, else by every job."""
    assert has_user_column(text, path, HOMES.__contains__) is expected


def test_a_setting_holds_for_the_jobs_below_it() -> None:
    """And not for those above."""
    found = converted("A=1\n@daily x\nA=2\nCRON_TZ=UTC\nRANDOM_DELAY=6\n@daily y")
    first, second = found.watches
    assert first.keys["env"] == {"A": "1"}
    assert "timezone" not in first.keys
    assert "splay" not in first.keys
    assert second.keys["env"] == {"A": "2"}
    assert (second.keys["timezone"], second.keys["splay"]) == ("UTC", "6m")


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("@daily x | y", {"shell": "x | y"}),
        ("@daily x '{{.Name}}'", {"run": ["/bin/sh", "-c", "x '{{ '{{' }}.Name}}'"]}),
        ("SHELL=/bin/bash\n@daily x ${#y}", {"run": ["/bin/bash", "-c", "x ${{ '{#' }}y}"]}),
        ("@daily x%a%b", {"shell": "{ x\n} <<'END_OF_INPUT'\na\nb\nEND_OF_INPUT"}),
        ("@daily x%END_OF_INPUT", {"shell": "{ x\n} <<'END_OF_INPUT_'\nEND_OF_INPUT\nEND_OF_INPUT_"}),
    ],
)
def test_the_command_is_given_to_the_shell_that_cron_gives_it_to(text: str, command: object) -> None:
    """Nothing in it is a template."""
    assert watch_of(text).keys["jet_command"] == command


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("MAILTO=ops", 1, "hooks"),
        ("LOGNAME=x", 1, "account"),
        ("A-B=1", 1, "no name"),
        ("CRON_TZ=Nowhere", 1, "does not know"),
        ("RANDOM_DELAY=x", 1, "minutes"),
        ("\n@reboot x", 2, "@reboot"),
        ("#\n0~59 * * * * x", 2, "splay"),
        ("0 3 30 2 * x", 1, "0 3 30 2 *"),
        ("@daily x%y", 1, "here-document"),
        ("oops", 1, "five fields"),
    ],
)
def test_what_has_no_equivalent_is_remarked_with_its_line(text: str, line: int, said: str) -> None:
    """And nothing else is."""
    (remark,) = converted(text).remarks
    assert remark.line == line
    assert said in remark.text


def test_an_empty_mailto_needs_no_remark() -> None:
    """It asks for what is the case here."""
    assert converted("MAILTO=\n@daily x").remarks == []


def test_a_crontab_without_a_known_owner_says_so() -> None:
    """A root agent would run it as root."""
    watch = watch_of("@daily x", owner=None)
    assert "user" not in watch.keys
    assert "--user" in watch.remarks[0].text


def test_a_job_starts_in_the_home_directory() -> None:
    """That of the account, or HOME."""
    assert watch_of("@daily web x", user_column=True).keys["cwd"] == "/srv/web"
    assert watch_of("HOME=/opt\n@daily x").keys["cwd"] == "/opt"


def test_comments_keep_their_places() -> None:
    """Above their job, or in a paragraph of their own."""
    written = watch_file.text(converted("# one\n\n# two\n@daily x\n# end"), ["Head"], from_cron.DEFAULTS)
    assert written.startswith("# Head\n")
    assert "  # one\n\n  # two\n  x:\n" in written
    assert written.endswith("  # end\n")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("cd / && run-parts --report /etc/cron.daily", "run-parts-cron-daily"),
        ("test -x /usr/sbin/anacron || ( cd / && run-parts /etc/cron.daily )", "run-parts-cron-daily"),
        ("/usr/local/bin/backup.sh --full >/dev/null 2>&1", "backup"),
        ("make.sh --since yesterday", "make"),
        ("A=1 nice -n 10 /opt/x/Report.py", "report"),
        ('mail -s "it is" done', "mail"),
        ("[ -d /x ]", "job"),
        ("über", "ber"),
        ("x" * 100, "x" * 40),
    ],
)
def test_a_name_is_made_of_the_command(command: str, name: str) -> None:
    """The program and what it works on, as a watch may be called."""
    assert naming.stem(command) == name


def test_a_name_that_comes_again_is_counted() -> None:
    """No two watches have the same."""
    names = naming.Names()
    assert [names.of(command) for command in ("x", "x", "x-2", "x")] == ["x", "x-2", "x-2-2", "x-3"]


@pytest.mark.parametrize(
    "text", ["yes", "1e3", "0x1f", "~", "a: b", "a #b", "- a", "it's", "\\", "é", "\x01", "", " a", "{a"]
)
def test_a_scalar_is_read_back_as_it_was(text: str) -> None:
    """By a YAML reader."""
    assert yaml.safe_load(f"a: {watch_file.scalar(text)}") == {"a": text}
