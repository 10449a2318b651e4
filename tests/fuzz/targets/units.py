"""A systemd timer and its service that somebody else wrote → watch.yml, loaded back as what was meant."""

from __future__ import annotations

from fuzz.target import Target
from fuzz.targets.crontabs import as_text, loads_back
from jetwatch.importing import from_timer, unit

BETWEEN = "\n%%\n"


def one_input(data: bytes) -> None:
    """The timer, a line `%%`, the service."""
    text = as_text(data)
    if text is None:
        return
    timer, _, service = text.partition(BETWEEN)
    moments = unit.read("report.timer", timer)
    from_timer.service_name(moments)
    found = from_timer.convert(moments, unit.read("report@a.service", service), home_of=lambda name: f"/home/{name}")
    loads_back(found, from_timer.DEFAULTS)


TARGET = Target(
    "units",
    "an imported timer loads back as what was meant, and no text of it becomes a key",
    one_input,
    words=(
        *(
            b"[Timer]\n",
            b"[Service]\n",
            b"[Unit]\n",
            b"OnCalendar=",
            b"OnUnitActiveSec=",
            b"RandomizedDelaySec=",
            b"daily",
        ),
        *(
            b"ExecStart=",
            b"ExecStartPre=-",
            b"Environment=",
            b"EnvironmentFile=-",
            b"User=",
            b"WorkingDirectory=~",
            b"Unit=",
        ),
        *(
            b"TimeoutStartSec=",
            b"SuccessExitStatus=",
            b"Description=",
            b"Type=oneshot\n",
            b"\\x0a",
            b"\\u2028",
            b"\\n",
            b"\\;",
        ),
        *(
            "\u2028    on_ok: {shell: id}".encode(),
            "\x85".encode(),
            b"\r",
            b"%i",
            b"%%",
            b"%H",
            b"$$",
            b"${A}",
            b"$A",
            b"{{",
        ),
        *(
            b"infinity",
            b"1y",
            b"99999999999999999999d",
            b"*-*-* 25:00",
            b"Mon..Fri *-*-* 10:00:00",
            b" ; ",
            b"\\\n",
            b"'",
            b'"',
        ),
    ),
)
