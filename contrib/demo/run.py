"""The demo: a real S3 server, real content, `jetp watch`, and a look at what happened.

Everything lives in one temporary directory and on loopback ports that are free, and all of it is gone at the end, also
after a failure and after Ctrl-C. Start it with `make demo`.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

DEMO = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent  # jetp, weed and ansible-playbook are installed beside this Python
WITHIN_S = 180.0  # the whole story takes about 15 s; slow machines get their time
SERVER_TRIES = 3  # a port that was free a moment ago can be taken
STOP_WITHIN_S = 20.0
TAIL_LINES = 40


class DemoError(Exception):
    """The demo did not go as it should; the sentence says where."""


def main() -> int:
    """Tell the story and clean up; 0 when it came to its end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # TERM cleans up as Ctrl-C does
    lines: list[str] = []
    try:
        story(lines)
    except DemoError as error:
        print(f"\nThe demo failed: {error}\n\nThe end of the agent's log:", file=sys.stderr)
        print(*lines[-TAIL_LINES:], sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The agent and the server are stopped.", file=sys.stderr)
        return 130
    print("\nDone. The agent and the server are stopped, and the temporary directory is gone.")
    return 0


def story(lines: list[str]) -> None:
    """Do what the demo shows; `lines` collects the agent's log. Everything is cleaned up at the end."""
    with contextlib.ExitStack() as stack:
        directory = tempfile.TemporaryDirectory(prefix="jetwatch-demo-", ignore_cleanup_errors=True)
        work = Path(stack.enter_context(directory))
        try:
            settings = start_server(stack, work)
            publish(settings)
            prepare(work, settings)
            for act in ("watch.yml", "content.yml"):
                play(write_config(work, act, settings), work, lines)
        finally:
            # Cleaning up takes seconds and has an end; a second Ctrl-C must not leave it half done.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def play(config: Path, work: Path, lines: list[str]) -> None:
    """One act: an agent with this configuration works until it has nothing more to do."""
    with running_agent(config, work) as (agent, incoming):
        follow(incoming, lines)
        look_around(work)
        stop(agent)


def say(text: str) -> None:
    """Begin a paragraph of the story."""
    print(f"\n== {text}", flush=True)


def start_server(stack: contextlib.ExitStack, work: Path) -> dict[str, str]:
    """Start SeaweedFS; return the environment with which it is reached. It runs until the stack is closed."""
    for attempt in range(1, SERVER_TRIES + 1):
        directory = work / f"s3-{attempt}"
        directory.mkdir()
        ports = free_ports(10)
        settings = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": secrets.token_hex(10),
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
        }
        server = stack.enter_context(seaweedfs(directory, ports, settings))
        if is_ready(server, settings):
            say(f"A real S3 server, SeaweedFS, listens on {settings['AWS_ENDPOINT_URL']}")
            return settings
    raise DemoError(f"SeaweedFS did not start:\n{(directory / 'log').read_text(errors='replace')}")


def free_ports(count: int) -> list[int]:
    """Return loopback ports on which nobody listens."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def seaweedfs(directory: Path, ports: list[int], settings: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run SeaweedFS with credentials made for this demo, every listener on loopback."""
    keys = {"accessKey": settings["AWS_ACCESS_KEY_ID"], "secretKey": settings["AWS_SECRET_ACCESS_KEY"]}
    identity = {"name": "demo", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
    (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
    parts = [f"-{part}.port{kind}" for part in ("s3", "master", "volume", "filer", "admin") for kind in ("", ".grpc")]
    argv = [
        BIN / "weed",
        "mini",
        f"-dir={directory}",
        f"-s3.config={directory / 's3.json'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *(f"{part}={port}" for part, port in zip(parts, ports, strict=True)),
        f"-s3.localSocket={directory / 's3.sock'}",
        f"-filer.localSocket={directory / 'filer.sock'}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-webdav=false",
        "-admin.ui=false",
        "-master.telemetry=false",
    ]
    env = {"HOME": str(directory), "PATH": os.environ["PATH"]}
    with (directory / "log").open("wb") as log:
        server = subprocess.Popen(argv, cwd=directory, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield server
    finally:
        end(server, signal.SIGTERM)
        for port in ports:  # it names some sockets by port, always in /tmp, and can leave them there
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
                left.unlink(missing_ok=True)


def is_ready(server: subprocess.Popen[bytes], settings: dict[str, str]) -> bool:
    """Wait until the bucket can be made; False when the server ended or takes too long."""
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + 30
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with contextlib.closing(s3_client(settings)) as client:
                client.create_bucket(Bucket="content")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return True
    return False


def s3_client(settings: dict[str, str]) -> Any:
    """Return a client for the demo's server."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings["AWS_ENDPOINT_URL"],
        region_name=settings["AWS_DEFAULT_REGION"],
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        config=Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1}),
    )


def publish(settings: dict[str, str]) -> None:
    """Put the playbook and its role into the bucket."""
    content = DEMO / "content"
    files = sorted(path for path in content.rglob("*") if path.is_file())
    with contextlib.closing(s3_client(settings)) as client:
        for path in files:
            client.put_object(Bucket="content", Key=f"site/{path.relative_to(content)}", Body=path.read_bytes())
    say(f"Published to s3://content/site/: {', '.join(str(path.relative_to(content)) for path in files)}")


def prepare(work: Path, settings: dict[str, str]) -> None:
    """Make what the configurations name: the scripts, the machine's directory, the file with the credentials."""
    (work / "contrib").symlink_to(DEMO.parent)
    (work / "machine").mkdir()
    env_file = work / "s3.env"
    env_file.touch(mode=0o600)
    env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def write_config(work: Path, name: str, settings: dict[str, str]) -> Path:
    """Write and show one configuration, its credentials as stars, on a machine where nothing was applied yet."""
    for path in (work / "machine").iterdir():
        path.unlink()
    template = string.Template((DEMO / name).read_text())
    config = work / name
    config.touch(mode=0o600)
    config.write_text(template.substitute(settings, work=work))
    say(f"The agent's configuration, {name}:")
    shown = template.substitute({key: "***" if "KEY" in key else value for key, value in settings.items()}, work=work)
    print(*(f"   {line}" for line in shown.splitlines() if not line.startswith("#")), sep="\n")
    return config


def environment(work: Path) -> dict[str, str]:
    """Return the environment for jetp: what is installed beside this Python, and the system's own programs."""
    return os.environ | {"PATH": f"{BIN}:{os.defpath}", "JETWATCH_STATE_DIR": str(work / "state")}


@contextlib.contextmanager
def running_agent(config: Path, work: Path) -> Iterator[tuple[subprocess.Popen[str], queue.Queue[str]]]:
    """Run `jetp watch`; yields the process and the queue that its log lines come into ("" at the end)."""
    argv = [
        "watch",
        "--watch-config",
        config,
        "--state-dir",
        work / "state",
        "--log-format",
        "json",
        "--log-level",
        "debug",
    ]
    say(f"jetp {' '.join(map(str, argv))}")
    agent = subprocess.Popen(
        [BIN / "jetp", *argv],
        env=environment(work),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C comes to us, and we stop it in good order
    )
    incoming: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=read_lines, args=(agent.stdout, incoming), daemon=True)
    reader.start()
    try:
        yield agent, incoming
    finally:
        # After a failure a play may be going on, and TERM alone would let it live: INT and TERM together cancel it.
        end(agent, signal.SIGINT, signal.SIGTERM)
        reader.join()


def read_lines(output: TextIO, incoming: queue.Queue[str]) -> None:
    """Pass on every line of the agent, and "" after the last."""
    with output:
        for line in output:
            incoming.put(line.rstrip("\n") or " ")
    incoming.put("")


def follow(incoming: queue.Queue[str], lines: list[str]) -> None:
    """Tell each event in a short line, until one run ended ok and a later check said not due."""
    deadline = time.monotonic() + WITHIN_S
    applied = False
    while True:
        try:
            line = incoming.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise DemoError(f"after {WITHIN_S:g} s there was no run that ended ok and a check not due") from None
        if not line:
            raise DemoError("the agent ended by itself")
        lines.append(line)
        event = parsed(line)
        tell(event)
        if event.get("event") == "run_finished":
            applied = event["outcome"] == "ok"
            if not applied:
                raise DemoError(f"the run ended with {event['outcome']} in {event.get('failed_step')}")
        if event.get("event") == "check_finished":
            if event["result"] == "error":
                raise DemoError(f"the check failed: {event.get('output_tail', event.get('reason'))}")
            if applied and event["result"] == "not_due":
                return


def parsed(line: str) -> dict[str, Any]:
    """Read one log line; what is no JSON object is a complaint of the interpreter, and has no fields."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def tell(event: dict[str, Any]) -> None:
    """Print one short line for the events that matter here."""
    match event.get("event"):
        case "check_finished":
            what = f"check     {event['result'].replace('_', ' ')}, the bucket is at {event.get('revision', '?')[:12]}"
        case "run_started":
            what = f"run       {event['play_uuid']} begins in a fresh directory"
        case "step_finished":
            how = "ok" if event["ok"] else "failed"
            what = f"{event['step']:9} {how}, {event.get('duration_s', 0):.1f} s"
        case "run_finished":
            what = f"run       ended {event['outcome']}, {event['duration_s']:.1f} s in all"
        case _:
            return
    print(f"   {what}", flush=True)


def look_around(work: Path) -> None:
    """Show what the playbook and the hook wrote, and what jetp remembers."""
    say("What the playbook and the hook wrote:")
    for path in sorted((work / "machine").iterdir()):
        print(f"   {path.name}:", *path.read_text().splitlines(), sep="\n      ")
    if not (work / "machine" / "welcome.txt").exists():
        raise DemoError("the playbook wrote nothing")
    for command in ("runs", "show"):
        say(f"jetp {command}")
        argv = [BIN / "jetp", command]
        done = subprocess.run(argv, env=environment(work), capture_output=True, text=True, timeout=30, check=False)
        print(*(f"   {line}" for line in done.stdout.splitlines()), sep="\n", flush=True)
        if done.returncode != 0:
            raise DemoError(f"jetp {command} ended with {done.returncode}: {done.stderr}")


def stop(agent: subprocess.Popen[str]) -> None:
    """Ask the agent to stop, as a service manager would."""
    say("TERM to the agent")
    end(agent, signal.SIGTERM)
    if agent.returncode != 0:
        raise DemoError(f"the agent ended with {agent.returncode}, expected 0")


def end(process: subprocess.Popen[Any], *signals: signal.Signals) -> None:
    """Send signals to a process that is still there, and wait for its end; KILL if it does not come."""
    for number in signals:
        if process.poll() is None:
            process.send_signal(number)
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    missing = [name for name in ("jetp", "weed", "ansible-playbook") if shutil.which(name, path=str(BIN)) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} not found in {BIN}: start the demo with `make demo`")
    sys.exit(main())
