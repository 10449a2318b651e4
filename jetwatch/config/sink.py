"""The key `log.http`: where history is posted. A token is named by its place, never written down."""

from __future__ import annotations

from jetwatch.config.model import HttpSettings, SinkFormat
from jetwatch.config.scalars import Believed, Choice, Text
from jetwatch.config.tables import Key, Table
from jetwatch.config.times import Duration
from jetwatch.locator import is_loopback

_URL = r"https?://(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?(?:/[!-~]*)?"


def _objection(sink: HttpSettings) -> str:
    host = sink.url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    name = host.partition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0]
    if not sink.url:
        return "`url` is missing: where the history is posted"
    if sink.url.startswith("http:") and not is_loopback(name):
        return "http:// is not protected on its way: use https://, or an address of this machine"
    if sink.token_file is not None and sink.token_env is not None:
        return "`token_file` and `token_env` are two places for one token; give one"
    if sink.format is SinkFormat.HEC and sink.token_file is None and sink.token_env is None:
        return "HEC takes nothing without a token: give `token_file` or `token_env`"
    return (
        "" if sink.format is SinkFormat.HEC or sink.index is None else "`index` means something to `format: hec` only"
    )


HTTP = Table(
    (
        Key(
            "url",
            Text("an https:// URL without user info, such as `https://splunk:8088/services/collector/event`", _URL),
            "Where batches of events are posted. Required.",
            record=HttpSettings,
            default_text="none",
        ),
        Key(
            "format",
            Choice(SinkFormat),
            "`ndjson`: one JSON object a line. `hec`: for Splunk's HTTP Event Collector.",
            record=HttpSettings,
        ),
        Key("token_file", Believed(), "A file with the token, read for each batch.", record=HttpSettings),
        Key(
            "token_env",
            Text("the name of a variable", r"[A-Za-z_][A-Za-z0-9_]{0,127}"),
            "The variable of the agent's environment with the token.",
            record=HttpSettings,
        ),
        Key("ca_file", Believed(), "The CA of the server, where it is a private one.", record=HttpSettings),
        Key("index", Text("the name of an index", r"[A-Za-z0-9_-]{1,80}"), "Splunk's index.", record=HttpSettings),
        Key(
            "timeout",
            Duration(0.1, 300),
            "How long the server may be silent.",
            into="timeout_s",
            record=HttpSettings,
        ),
    ),
    HttpSettings,
    objection=_objection,
)
