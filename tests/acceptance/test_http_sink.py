"""History over HTTP: a receiver shaped like Splunk's collector that fails, is slow, drops answers, and returns."""

from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from agent_process import AgentProcess, Site, until
from web_server import make_authority

TOKEN = "canary-5f0c1d2e-token"


class Receiver:
    """Takes batches on a port of its own. `mode`: ok, down (503), mute (no answer), gone (kept, answer dropped)."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.mode = "ok"
        self.events: list[dict[str, Any]] = []
        self.refused = 0
        self.headers: list[dict[str, str]] = []
        self._release = threading.Event()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.headers.append(dict(self.headers))
                mode = receiver.mode
                if mode in ("ok", "gone"):
                    receiver.events += [json.loads(line) for line in body.splitlines()]
                else:
                    receiver.refused += 1
                if mode == "mute":
                    receiver._release.wait(60)
                if mode in ("mute", "gone"):
                    self.close_connection = True
                    return
                answer = b'{"text":"Success","code":0}' if mode == "ok" else b'{"text":"Server is busy","code":9}'
                self.send_response(200 if mode == "ok" else 503)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}/services/collector/event"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """Give the port back."""
        self._release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that works."""
    made = Receiver()
    yield made
    made.close()


def works(site: Site, receiver: Receiver, **http: Any) -> AgentProcess:
    """An agent that runs every second and sends what it does as HEC wants it."""
    token = site.root / "token"
    token.write_text(f"{TOKEN}\n")
    target = {"url": receiver.url, "format": "hec", "token_file": str(token), "index": "ops", "timeout": 1, **http}
    return site.ready(
        {"check_command": site.check(0), "jet_command": "true", "check_interval": 1, "log": {"http": target}}
    )


def history(site: Site) -> dict[int, dict[str, Any]]:
    """Everything that the journal has told, by seq, as the agents of this site wrote it to standard output."""
    return {line["seq"]: line for agent in site.agents for line in agent.lines if "seq" in line}


def test_hec_gets_every_event_in_its_envelope(site: Site, receiver: Receiver) -> None:
    """The line as it was logged, an id, the time, the index, the token in its header and nowhere else."""
    agent = works(site, receiver)
    agent.wait_for("run_finished", nth=2)
    assert agent.stop() == 0
    known = history(site)
    until(lambda: len(receiver.events) >= 4)
    for envelope in receiver.events:
        event = dict(envelope["event"])
        origin, _, seq = event.pop("id").rpartition(":")
        assert event == known[int(seq)]
        assert origin == (site.state / "id").read_text().strip()
        assert (envelope["index"], envelope["sourcetype"], envelope["host"]) == ("ops", "jetwatch", event["host"])
        assert f"{envelope['time']:.6f}"[-7:] == event["timestamp"][-8:-1]
    assert {sent["Authorization"] for sent in receiver.headers} == {f"Splunk {TOKEN}"}
    found = subprocess.run(["grep", "-rlaF", TOKEN, site.state], capture_output=True, text=True, check=False)
    assert found.stdout == ""
    assert TOKEN not in agent.story()


def test_nothing_is_lost_while_the_receiver_fails_and_the_agent_is_killed(site: Site, receiver: Receiver) -> None:
    """Down, mute, taking without an answer, a kill in each; then all is there, and the same id is the same event."""
    receiver.mode = "down"
    for mode in ("down", "mute", "gone"):
        agent = works(site, receiver)
        receiver.mode = mode
        agent.wait_for("run_finished", nth=2)
        agent.wait_for("sink_failed")
        agent.kill9()
    receiver.mode = "ok"
    agent = works(site, receiver)
    agent.wait_for("run_finished", nth=1)
    site.answer(1)
    last = max(history(site))
    until(lambda: any(each["event"]["seq"] >= last for each in receiver.events), within_s=60)
    assert agent.stop() == 0
    events: dict[str, dict[str, Any]] = {}
    for envelope in receiver.events:
        event = envelope["event"]
        assert events.setdefault(event["id"], event) == event
    seqs = sorted(event["seq"] for event in events.values())
    assert seqs == list(range(1, seqs[-1] + 1))
    assert len(receiver.events) > len(events)  # some came twice, as they may
    assert receiver.refused > 0
    assert not [line for each in site.agents for line in each.told("sink_lost")]


def test_a_receiver_is_trusted_by_its_certificate(site: Site) -> None:
    """Nothing, the token least of all, goes to one that nobody vouches for; `ca_file` names who does."""
    authority = make_authority(site.root / "authority")
    receiver = Receiver(authority.context)
    try:
        agent = works(site, receiver)
        assert "certificate" in agent.wait_for("sink_failed")["reason"].lower()
        assert agent.stop() == 0
        assert receiver.headers == []
        agent = works(site, receiver, ca_file=str(authority.ca_file))
        until(lambda: len(receiver.events) >= 4)
        assert agent.stop() == 0
        assert {sent["Authorization"] for sent in receiver.headers} == {f"Splunk {TOKEN}"}
    finally:
        receiver.close()


def test_a_slow_receiver_holds_up_no_run_and_no_end(site: Site, receiver: Receiver) -> None:
    """Runs go on beside it, and the agent ends within its time."""
    receiver.mode = "mute"
    agent = works(site, receiver, timeout=60)
    until(lambda: receiver.refused)
    agent.wait_for("run_finished", nth=3)
    assert agent.stop(within_s=20) == 0


def test_once_sends_its_history_before_it_ends(site: Site, receiver: Receiver) -> None:
    """The next turn may be a day away. As one JSON object a line, with a bearer token from a variable."""
    target = {"url": receiver.url, "token_env": "SINK_TOKEN"}
    site.environ["SINK_TOKEN"] = TOKEN
    config = {
        "check_command": site.check(0),
        "jet_command": site.shell("env > seen; true"),
        "log": {"http": target},
    }
    site.once(config)
    assert [event["event"] for event in receiver.events] == [
        "run_started",
        "step_started",
        "step_finished",
        "run_finished",
    ]
    assert {sent["Authorization"] for sent in receiver.headers} == {f"Bearer {TOKEN}"}
    assert TOKEN not in site.read("seen")  # a command's environment is its own


def test_a_receiver_that_is_not_there_fails_no_run(site: Site, receiver: Receiver) -> None:
    """The history stays, and is sent by the next."""
    receiver.mode = "down"
    config = {"check_command": site.check(0), "jet_command": "true", "log": {"http": {"url": receiver.url}}}
    site.once(config)
    assert receiver.events == []
    receiver.mode = "ok"
    site.once(config)
    assert [event["seq"] for event in receiver.events] == list(range(1, 9))


def test_a_token_that_cannot_be_read_is_told_and_read_again(site: Site, receiver: Receiver) -> None:
    """Rotating it needs no restart."""
    token = site.root / "token.new"
    agent = works(site, receiver, token_file=str(token))
    failed = agent.wait_for("sink_failed")
    assert "token.new" in failed["reason"]
    token.write_text(TOKEN)
    agent.wait_for("sink_resumed")
    until(lambda: receiver.events)
