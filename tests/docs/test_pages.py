"""The pages do what they say: every block of commands runs, and every watch.yml is a valid one.

`page.py` says how a page is marked. What it has to find elsewhere here than it says stands below, page by page.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from page import Page
from servers import S3Server, free_ports, git_over_http, program, seaweedfs_argv

from jetwatch.cli.main import jetp

ROOT = Path(__file__).resolve().parents[2]
RUN = [
    ROOT / "README.md",
    *sorted(path for part in ("", "tutorial", "how-to") for path in (ROOT / "docs" / part).glob("*.md")),
    ROOT / "docs/explanation/fleet-load.md",
]
SHOWN = sorted({*RUN, *ROOT.glob("docs/reference/*.md"), *ROOT.glob("docs/explanation/*.md"), *ROOT.glob("*.md")})
Request = pytest.FixtureRequest


@dataclass
class Here:
    """What a page finds here: words of the page that mean another place, and variables."""

    replaced: dict[str, str] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def machine(directory: Path, _: Request) -> Iterator[Here]:
    """The directories of a whole machine, below the page's own."""
    etc = ("/etc/jetwatch", "/var/log/jetwatch", "/var/lib/jetwatch", "/var/lib/prometheus", "/usr/local/bin")
    places = (*etc, "/etc/fstab", "/var/jetp", "/srv", "/opt", "/mnt")
    for place in etc:
        (directory / place[1:]).mkdir(parents=True)
    yield Here({place: f"{directory}{place}" for place in places}, {"JETWATCH_STATE_DIR": str(directory / "state")})


@contextlib.contextmanager
def readme(directory: Path, _: Request) -> Iterator[Here]:
    """A checkout."""
    directory.mkdir()
    (directory / "contrib").symlink_to(ROOT / "contrib")
    yield Here()


@contextlib.contextmanager
def first_agent(directory: Path, _: Request) -> Iterator[Here]:
    """The server of the page on ports that are free, and the console's log in a pipe."""
    weed, *options = seaweedfs_argv(program("weed"), directory, ports := free_ports(10))
    own = [option for option in options[1:] if not option.startswith(("-dir", "-ip", "-s3.config"))]
    try:
        yield Here(
            {
                "weed mini": " ".join([weed, "mini", *own]),
                "127.0.0.1:8333": f"127.0.0.1:{ports[0]}",
                "/tmp/greeting.txt": f"{directory}/greeting.txt",
                "jetp watch": "jetp watch --log-format console",
            }
        )
    finally:
        for left in (path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")):
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def prometheus(directory: Path, request: Request) -> Iterator[Here]:
    """A port that is free."""
    with machine(directory, request) as here:
        here.replaced["127.0.0.1:9753"] = f"127.0.0.1:{free_ports(1)[0]}"
        yield here


PLAYBOOK = """- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.debug: {msg: hello}
"""
PUBLISH = """#!/bin/sh
set -eu
cd "$HOME/site"
git add --all
git -c user.name=me -c user.email=me@example.org commit -qm "Publish"
git push -q "$HOME/git/site.git" HEAD:main
"""


@contextlib.contextmanager
def repository(directory: Path, request: Request) -> Iterator[Here]:
    """A repository with a playbook; what a page puts into `site/`, `publish-site` puts into the repository."""
    program("git")
    with machine(directory, request) as here:
        script = directory / "bin/publish-site"
        script.parent.mkdir()
        script.write_text(PUBLISH)
        script.chmod(0o755)
        make = "mkdir -p git site && git init -q --bare -b main git/site.git && git init -q -b main site"
        subprocess.run(["sh", "-ec", make], cwd=directory, check=True)
        (directory / "site/pb.yml").write_text(PLAYBOOK)
        plain = {"HOME": str(directory), "GIT_CONFIG_GLOBAL": "/dev/null"}
        subprocess.run([script], env=os.environ | plain, check=True)
        here.replaced["git+https://git.example.org/"] = f"git+file://{directory}/git/"
        yield here


@contextlib.contextmanager
def git_by_http(directory: Path, request: Request) -> Iterator[Here]:
    """The same, from a web server."""
    with repository(directory, request) as here, git_over_http(directory / "git") as base:
        here.replaced["git+https://git.example.org/"] = f"git+{base}/"
        yield here


@contextlib.contextmanager
def pyinfra(directory: Path, request: Request) -> Iterator[Here]:
    """A repository, and pyinfra itself."""
    program("pyinfra")
    with repository(directory, request) as here:
        yield here


@contextlib.contextmanager
def bucket(directory: Path, request: Request) -> Iterator[Here]:
    """A prefix of SeaweedFS with a marker, and rclone that knows it as `releases`."""
    program("rclone")
    server: S3Server = request.getfixturevalue("seaweedfs_server")
    prefix = f"{server.bucket}/{directory.parent.name}/"
    with server.client() as client:
        client.put_object(Bucket=server.bucket, Key=f"{directory.parent.name}/REVISION", Body=b"1")
    with machine(directory, request) as here:
        keys = {"ACCESS_KEY_ID": server.access_key, "SECRET_ACCESS_KEY": server.secret_key}
        remote = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": server.endpoint, **keys}
        here.environ |= {f"RCLONE_CONFIG_RELEASES_{name}": value for name, value in remote.items()}
        here.replaced |= {
            "s3://releases/web/": f"s3://{prefix}",
            "releases:releases/web/": f"releases:{prefix}",
            "https://s3.example.org": server.endpoint,
            "https://minio.example.org": server.endpoint,
            **dict.fromkeys(("AKIAIOSFODNN7EXAMPLE", "jetwatch-web"), server.access_key),
            **dict.fromkeys(("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "A-LONG-SECRET"), server.secret_key),
        }
        yield here


@contextlib.contextmanager
def receiving(answer: bytes) -> Iterator[tuple[str, list[str]]]:
    """A server that takes what is posted to it: its address, and the bodies that came."""
    came: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", came
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def splunk(directory: Path, request: Request) -> Iterator[Here]:
    """A server that is shaped like the collector, and gets the end of the run."""
    with machine(directory, request) as here, receiving(b'{"text":"Success","code":0}') as (url, came):
        here.replaced["https://splunk.example.org:8088"] = url
        yield here
        assert '"event":"run_finished"' in "".join(came)


@contextlib.contextmanager
def paging(directory: Path, request: Request) -> Iterator[Here]:
    """A server that is shaped like PagerDuty, and gets JSON."""
    told = b'{"status":"success","message":"Event processed","dedup_key":"web1/web"}'
    with machine(directory, request) as here, receiving(told) as (url, came):
        here.replaced["https://events.pagerduty.com"] = url
        yield here
        assert [json.loads(body)["event_action"] for body in came] == ["trigger"]


Maker = Callable[[Path, Request], contextlib.AbstractContextManager[Here]]
HERE: Mapping[str, Maker] = {
    "README.md": readme,
    "docs/tutorial/first-agent.md": first_agent,
    "docs/how-to/content-from-git.md": git_by_http,
    "docs/how-to/content-from-minio.md": bucket,
    "docs/how-to/content-from-s3.md": bucket,
    "docs/how-to/debug.md": repository,
    "docs/how-to/from-ansible-pull.md": repository,
    "docs/how-to/init-and-completion.md": repository,
    "docs/how-to/run-a-script.md": repository,
    "docs/how-to/run-ansible.md": repository,
    "docs/how-to/run-pyinfra.md": pyinfra,
    "docs/how-to/prometheus.md": prometheus,
    "docs/how-to/splunk.md": splunk,
    "docs/how-to/windows-and-paging.md": paging,
}


def named(path: Path) -> str:
    """A page's name in this file and in the report."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", RUN, ids=named)
def test_every_block_runs_or_says_why_not(path: Path) -> None:
    """Commands are `sh`, what they print is `text`, and what is left out has its reason, which is printed."""
    page = Page(path)
    print(*page.left_out(), sep="\n")
    assert page.problems() == []


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory with a short name, because servers hold sockets below it."""
    with tempfile.TemporaryDirectory(prefix="jw-page-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", [path for path in RUN if any(block.runs for block in Page(path).blocks)], ids=named)
def test_the_commands_of_a_page_run_in_their_order(path: Path, temporary: Path, request: Request) -> None:
    """Each succeeds, and what the page shows of their output comes out."""
    directory = temporary / "page"
    with HERE.get(named(path), machine)(directory, request) as here:
        Page(path).run(directory, here.replaced, here.environ)


WATCH = 'watches:\n  web: {schedule: "@daily", splay: 1h, jet_command: "true"}\n'
"""What makes a configuration of one that shows keys of the agent only."""


def configurations() -> dict[str, str]:
    """Every watch.yml that a page shows, by its place. A block of YAML is one unless its title names another file."""
    found = {}
    for path in SHOWN:
        for block in Page(path).blocks:
            if block.kind in ("yaml", "yml") and "watch" in (block.title or "watch"):
                whole = re.search(r"^(jet_command|watches):", block.text, re.MULTILINE)
                found[f"{named(path)}:{block.line}"] = block.text if whole else block.text + WATCH
    return found


CONFIGURATIONS = configurations()


@pytest.mark.parametrize("place", CONFIGURATIONS)
def test_a_configuration_that_is_shown_is_valid(place: str, tmp_path: Path) -> None:
    """`jetp check-config` takes it as it stands; what only some machines have is a warning."""
    config = tmp_path / "watch.yml"
    config.touch(mode=0o600)
    config.write_text(CONFIGURATIONS[place])
    done = CliRunner().invoke(jetp, ["check-config", str(config)])
    assert done.exit_code == 0, done.output


def test_the_configurations_are_found() -> None:
    """A test that looks for them has found some."""
    assert len(CONFIGURATIONS) > 10
