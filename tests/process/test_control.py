"""The control socket against callers of every kind: slow, huge, garbled, gone, too many, and of another user."""

from __future__ import annotations

import json
import os
import resource
import select
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetwatch.control.client import call
from jetwatch.control.protocol import (
    LINE_LIMIT_BYTES,
    Request,
    Response,
    Verb,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
)
from jetwatch.control.server import CONNECTION_LIMIT, REQUEST_TIMEOUT_S, Reply, Server
from jetwatch.errors import NoAgent, NotPermitted, StateDirError, UsageError

NOBODY = 65534
PING = encode_request(Request(Verb.PING, by="me"))


class Time:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.seconds


class Desk:
    """A server in this thread, which keeps what was asked and answers when told to."""

    def __init__(self, path: Path, *, allowed_uids: set[int] | None = None) -> None:
        self.time = Time()
        self.asked: list[tuple[Request, Reply]] = []
        self.errors: list[Exception] = []
        self.server = Server(
            path,
            lambda *asked: self.asked.append(asked),
            allowed_uids=allowed_uids,
            monotonic=self.time,
            on_error=self.errors.append,
        )

    def serve(self) -> None:
        """Wait until there is something to do, and do all of it."""
        assert select.select([self.server], [], [], 10)[0], "nothing came"
        while select.select([self.server], [], [], 0)[0]:
            self.server.serve_ready()

    def visit(self, data: bytes = b"") -> socket.socket:
        """A caller that has sent this much."""
        caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        caller.settimeout(10)
        caller.connect(str(self.server.path))
        caller.sendall(data)
        self.serve()
        return caller

    @property
    def open_connections(self) -> int:
        """How many callers are being served."""
        return len(self.server._connections)


def answer(caller: socket.socket) -> Response:
    """The one line that a caller gets, up to the hang-up."""
    received = b""
    with caller:
        while part := _receive(caller):
            received += part
    assert received.endswith(b"\n")
    assert received.count(b"\n") == 1
    return decode_response(received)


def _receive(caller: socket.socket) -> bytes:
    try:
        return caller.recv(1 << 20)
    except ConnectionResetError:  # what was sent too much was never read: after the answer this is the hang-up
        return b""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A server of this user."""
    made = Desk(tmp_path / "control.sock")
    yield made
    made.server.close()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[[Callable[[Request, Reply], None]], Path]]:
    """Starts a server in a thread of its own, with this `submit`; returns its path."""
    with ExitStack() as stack:

        def start(submit: Callable[[Request, Reply], None]) -> Path:
            path = tmp_path / "control.sock"
            server = Server(path, submit)
            stop = os.eventfd(0)

            def serve() -> None:
                while stop not in select.select([server, stop], [], [], server.next_deadline_s())[0]:
                    server.serve_ready()
                server.close()

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(os.close, stop)
            stack.callback(thread.join)
            stack.callback(os.eventfd_write, stop, 1)
            return path

        yield start


# -- asking and answering


def test_a_request_reaches_the_agent_and_its_answer_the_caller(
    serving: Callable[[Callable[[Request, Reply], None]], Path],
) -> None:
    """Every field arrives as it was sent; the answer may come from another thread."""
    sent = Request(Verb.SUSPEND, watch="web", by="ann", reason="disk \u2028 swap\n", for_s=7200.0)

    def submit(request: Request, reply: Reply) -> None:
        same = request == sent
        threading.Thread(target=reply, args=(Response(same, 0, ["done"], {"n": 1}),)).start()

    assert call(serving(submit), sent, 10) == Response(True, 0, ["done"], {"n": 1})


def test_a_request_may_come_byte_by_byte(desk: Desk) -> None:
    """What counts is the newline."""
    caller = desk.visit()
    for index in range(len(PING)):
        caller.sendall(PING[index : index + 1])
        desk.serve()
    (request, reply) = desk.asked[0]
    assert request == Request(Verb.PING, by="me")
    reply(Response(True))
    desk.serve()
    assert answer(caller).ok
    assert desk.open_connections == 0


def test_a_caller_that_ends_its_side_is_answered_all_the_same(desk: Desk) -> None:
    """A half-closed connection is no hang-up: what `nc` does after its input."""
    caller = desk.visit(PING)
    caller.shutdown(socket.SHUT_WR)
    desk.server.serve_ready()
    desk.asked[0][1](Response(True, 0, ["here"]))
    desk.serve()
    assert answer(caller).lines == ["here"]


def test_a_second_answer_is_ignored(desk: Desk) -> None:
    """One request has one answer."""
    caller = desk.visit(PING)
    desk.asked[0][1](Response(True, 0, ["first"]))
    desk.asked[0][1](Response(True, 0, ["second"]))
    desk.serve()
    assert answer(caller).lines == ["first"]


def test_an_answer_after_the_end_goes_nowhere(desk: Desk) -> None:
    """A reply may outlive the server."""
    caller = desk.visit(PING)
    desk.server.close()
    desk.asked[0][1](Response(True))
    assert caller.recv(1) == b""
    caller.close()


def test_an_answer_that_is_too_long_says_so() -> None:
    """It is cut between lines, and fits the limit."""
    line = encode_response(Response(True, 0, ["x" * 100] * 10_000))
    assert len(line) <= LINE_LIMIT_BYTES
    assert "more than an answer can hold" in decode_response(line).lines[-1]


@pytest.mark.parametrize("line", [b"", b"{}", b"\xff", b'{"ok": true, "data": ' + b'{"a": ' * 10_000])
def test_what_is_no_answer_is_a_value_error(line: bytes) -> None:
    """Torn, of somebody else, or nested without end: who answers may be no agent."""
    with pytest.raises(ValueError, match=r".+"):
        decode_response(line)


# -- bad callers


BAD = {
    "no json": b"hello\n",
    "not utf-8": b'{"verb": "\xff"}\n',
    "no object": b"[1]\n",
    "empty": b"\n",
    "no verb": b"{}\n",
    "unknown verb": b'{"verb": "status"}\n',
    "unknown field": b'{"verb": "ping", "sudo": true}\n',
    "wrong type": b'{"verb": "ping", "force": "yes"}\n',
    "no number": b'{"verb": "suspend", "for_s": NaN}\n',
    "negative": b'{"verb": "suspend", "for_s": -1}\n',
    "eternal": b'{"verb": "suspend", "for_s": 1e300}\n',
    "two at once": PING + PING,
    "deep": b"[" * 60_000 + b"\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_what_is_no_request_is_answered_with_what_is_wrong(desk: Desk, data: bytes) -> None:
    """Nothing reaches the agent; the sentence says why; the exit code is that of usage."""
    caller = desk.visit(data)
    said = answer(caller)
    assert (said.ok, said.exit_code, len(said.lines)) == (False, 2, 1)
    assert said.lines[0]
    assert desk.asked == []
    assert desk.open_connections == 0


JSON = st.recursive(st.none() | st.text() | st.floats(), st.lists).map(lambda value: json.dumps(value).encode())


@given(st.binary(max_size=200) | JSON)
def test_nothing_but_a_request_is_one(data: bytes) -> None:
    """Bytes that are no request are a UsageError and nothing else."""
    with pytest.raises(UsageError, match="request"):
        decode_request(data)


def test_a_line_without_an_end_is_refused_at_the_limit(desk: Desk) -> None:
    """No more than 64 KiB are kept of anybody."""
    caller = desk.visit()
    caller.setblocking(False)
    try:
        while True:
            caller.send(b"x" * 8192)
            desk.serve()
    except (BrokenPipeError, ConnectionResetError):
        pass
    caller.settimeout(10)
    assert "at most" in answer(caller).lines[0]
    assert desk.open_connections == 0


def test_a_slow_caller_is_closed_at_its_deadline(desk: Desk) -> None:
    """Five seconds for a request, counted from the call; a caller that waits for its answer has no deadline."""
    assert desk.server.next_deadline_s() is None
    slow = desk.visit(PING[:5])
    patient = desk.visit(PING)
    assert desk.server.next_deadline_s() == REQUEST_TIMEOUT_S
    desk.time.seconds += 4.5
    slow.sendall(b"x")
    desk.serve()
    assert desk.server.next_deadline_s() == pytest.approx(0.5)
    desk.time.seconds += 0.5
    desk.server.serve_ready()
    assert "within 5 s" in answer(slow).lines[0]
    assert desk.open_connections == 1
    assert desk.server.next_deadline_s() is None
    patient.close()


def test_a_caller_that_hangs_up_is_forgotten(desk: Desk) -> None:
    """Before its request, in the middle of it, or while its answer is awaited: nothing is left of it."""
    for sent in (b"", PING[:5], PING):
        desk.visit(sent).close()
        desk.serve()
        assert desk.open_connections == 0
    (_, reply) = desk.asked[0]
    reply(Response(True))
    desk.serve()


def test_a_caller_that_does_not_read_is_closed(desk: Desk) -> None:
    """An answer that nobody takes is not kept for ever."""
    caller = desk.visit(PING)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for connection in desk.server._connections.values():
        connection.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    desk.asked[0][1](Response(True, 0, ["x" * 1000] * 30))
    desk.serve()
    assert desk.open_connections == 1
    assert desk.server.next_deadline_s() is not None
    desk.time.seconds += 60
    desk.server.serve_ready()
    assert desk.open_connections == 0
    caller.close()


def test_more_callers_than_there_is_room_for_are_told_to_wait(desk: Desk) -> None:
    """Of 40 callers 32 are served, 8 hear so at once, and room that becomes free is used."""
    callers = [desk.visit() for _ in range(40)]
    refused = callers[CONNECTION_LIMIT:]
    assert [answer(caller).exit_code for caller in refused] == [75] * 8
    assert desk.open_connections == CONNECTION_LIMIT
    for caller in callers[:CONNECTION_LIMIT]:
        caller.sendall(PING)
    desk.serve()
    assert len(desk.asked) == CONNECTION_LIMIT
    callers[0].close()
    desk.serve()
    late = desk.visit(PING)
    assert len(desk.asked) == CONNECTION_LIMIT + 1
    for caller in (late, *callers[1:CONNECTION_LIMIT]):
        caller.close()


def test_an_agent_without_a_free_descriptor_rests_and_comes_back(desk: Desk) -> None:
    """A call that cannot be taken now is taken a second later; meanwhile nothing spins."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.settimeout(10)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        caller.connect(str(desk.server.path))
        desk.serve()
        assert select.select([desk.server], [], [], 0)[0] == []
        assert desk.server.next_deadline_s() == 1.0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    desk.time.seconds += 1.0
    desk.server.serve_ready()
    caller.sendall(PING)
    desk.serve()
    assert len(desk.asked) == 1
    caller.close()


def test_another_user_is_refused(tmp_path: Path) -> None:
    """Who calls is asked of the kernel: a uid that is not allowed gets 77."""
    desk = Desk(tmp_path / "control.sock", allowed_uids={NOBODY})
    try:
        said = answer(desk.visit())
        assert (said.ok, said.exit_code) == (False, 77)
        assert f"uid {os.getuid()} may not" in said.lines[0]
    finally:
        desk.server.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_modes_keep_other_users_out(tmp_path: Path) -> None:
    """Another user cannot even connect, and is told so in a sentence."""
    room = tmp_path / "room"
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/") and "pytest" in str(folder):
            folder.chmod(0o755)
    desk = Desk(room / "control.sock")
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setuid(NOBODY)
        try:
            call(room / "control.sock", Request(Verb.PING), 1)
        except NotPermitted:
            os.write(write_fd, b"refused")
        finally:
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as source:
        assert source.read() == b"refused"
    os.waitpid(pid, 0)
    desk.server.close()


# -- the file


def test_the_socket_is_private_from_its_first_moment(tmp_path: Path) -> None:
    """Mode 0600 in a directory of 0700, whatever the umask is, and the umask is as before."""
    before = os.umask(0)
    try:
        desk = Desk(tmp_path / "new" / "control.sock")
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(desk.server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(desk.server.path.parent.stat().st_mode) == 0o700
    desk.server.close()
    assert not desk.server.path.exists()


def test_a_path_may_be_longer_than_an_address(
    tmp_path: Path, serving: Callable[[Callable[[Request, Reply], None]], Path]
) -> None:
    """Beyond 107 bytes both sides go through the directory's descriptor."""
    path = tmp_path / ("d" * 120) / "control.sock"
    desk = Desk(path)
    with ExitStack() as stack:
        stack.callback(desk.server.close)
        answers: list[Response] = []
        caller = threading.Thread(target=lambda: answers.append(call(path, Request(Verb.PING), 10)))
        caller.start()
        while not desk.asked:
            desk.serve()
        desk.asked[0][1](Response(True, 0, ["far"]))
        desk.serve()
        caller.join()
    assert answers[0].lines == ["far"]


def test_a_dead_agents_socket_is_replaced(tmp_path: Path) -> None:
    """A socket file that nobody listens on is in nobody's way; any other file is left as it is."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with pytest.raises(NoAgent):
        call(path, Request(Verb.PING), 1)
    Desk(path).server.close()
    path.write_text("precious")
    with pytest.raises(StateDirError, match="no socket"):
        Desk(path)
    assert path.read_text() == "precious"


def test_closing_leaves_the_socket_of_the_next_agent(tmp_path: Path) -> None:
    """What is removed at the end is our own socket, not one that took its name."""
    path = tmp_path / "control.sock"
    first = Desk(path)
    second = Desk(path)
    first.server.close()
    assert path.exists()
    second.server.close()
    assert not path.exists()


# -- the caller's side


def test_a_caller_without_an_agent_is_told_how_to_start_one(tmp_path: Path) -> None:
    """No file: NoAgent, with a sentence."""
    with pytest.raises(NoAgent, match="jetp watch --watch-config"):
        call(tmp_path / "control.sock", Request(Verb.PING), 1)


def test_an_agent_that_does_not_answer_is_not_waited_for(
    serving: Callable[[Callable[[Request, Reply], None]], Path],
) -> None:
    """After the timeout: NoAgent, with a sentence."""
    path = serving(lambda _request, _reply: None)
    with pytest.raises(NoAgent, match="did not answer in time"):
        call(path, Request(Verb.PING), 0.05)


def test_an_agent_that_ends_before_it_answers_is_no_agent(tmp_path: Path) -> None:
    """A hang-up without an answer: NoAgent, with a sentence."""
    desk = Desk(tmp_path / "control.sock")
    errors: list[NoAgent] = []

    def ask() -> None:
        try:
            call(desk.server.path, Request(Verb.PING), None)
        except NoAgent as error:
            errors.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    while not desk.asked:
        desk.serve()
    desk.server.close()
    caller.join()
    assert "ended before it answered" in str(errors[0])


def test_a_request_that_is_too_long_is_not_sent() -> None:
    """The limit is told before anybody is called."""
    with pytest.raises(UsageError, match="shorten the reason"):
        encode_request(Request(Verb.SUSPEND, reason="x" * LINE_LIMIT_BYTES))


def test_one_caller_with_whom_something_unforeseen_goes_wrong_is_hung_up_on(desk: Desk) -> None:
    """It is told, and whoever calls beside it and after it is answered."""
    beside = desk.visit()
    submit = desk.server._submit

    def faulty(request: Request, reply: Reply) -> None:
        if request.by == "odd":
            raise RecursionError(request.by)
        submit(request, reply)

    desk.server._submit = faulty
    odd = desk.visit(encode_request(Request(Verb.PING, by="odd")))
    assert _receive(odd) == b""
    odd.close()
    assert [type(error) for error in desk.errors] == [RecursionError]
    beside.sendall(PING)
    desk.serve()
    ((_, reply),) = desk.asked
    reply(Response(ok=True, lines=["pid 1"]))
    desk.serve()
    assert answer(beside).lines == ["pid 1"]


# -- sockets of another account

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory like /tmp, and beside it one of another account."""
    with TemporaryDirectory(prefix="jetwatch-test-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        for name in ("shared", "theirs", "ours"):
            (root / name).mkdir()
        (root / "shared").chmod(0o1777)
        os.chown(root / "theirs", NOBODY, NOBODY)
        yield root


@pytest.fixture
def impostor(shared: Path) -> Iterator[socket.socket]:
    """Another account's socket in the shared directory, with that account listening."""
    os.seteuid(NOBODY)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        listener.bind(str(shared / "shared/impostor"))
        listener.listen()
    finally:
        os.seteuid(0)
    with listener:
        yield listener


def heard(listener: socket.socket) -> bytes:
    """All that callers have said so far."""
    said = b""
    while True:
        try:
            caller, _ = listener.accept()
        except BlockingIOError:
            return said
        with caller:
            caller.setblocking(False)
            while True:
                try:
                    part = caller.recv(1000)
                except BlockingIOError:
                    break
                if not part:
                    break
                said += part


@as_root
@pytest.mark.parametrize("name", ["shared/impostor", "shared/adopted", "ours/link"])
def test_a_socket_of_another_account_is_asked_nothing(shared: Path, impostor: socket.socket, name: str) -> None:
    """By its owner; by who listens, where the file was given to root; over a link. It never hears a word."""
    (shared / "ours/link").symlink_to(shared / "shared/impostor")
    if name == "shared/adopted":
        (shared / "shared/impostor").rename(shared / name)
        os.chown(shared / name, 0, 0)
    with pytest.raises(NoAgent, match=f"nobody was asked at .*uid {NOBODY}"):
        call(shared / name, Request(Verb.PING), 5)
    assert heard(impostor) == b""


@as_root
@pytest.mark.parametrize("name", ["shared/link", "theirs/link", "theirs/control.sock"])
def test_an_agent_is_not_asked_at_a_place_that_another_account_chose(shared: Path, name: str) -> None:
    """It may be another one of ours, which was not meant."""
    desk = Desk(shared / "ours/control.sock")
    try:
        for link in ("shared/link", "theirs/link"):
            (shared / link).symlink_to(shared / "ours/control.sock")
            os.chown(shared / link, NOBODY, NOBODY, follow_symlinks=False)
        os.link(shared / "ours/control.sock", shared / "theirs/control.sock")
        with pytest.raises(NoAgent, match="nobody was asked at"):
            call(shared / name, Request(Verb.PING), 5)
        assert not select.select([desk.server], [], [], 0)[0]
    finally:
        desk.server.close()


@as_root
@pytest.mark.parametrize("name", ["theirs/control.sock", "theirs/new/control.sock", "shared/link/control.sock"])
def test_no_socket_is_made_where_another_account_could_replace_it(shared: Path, name: str) -> None:
    """Nor a directory for it."""
    (shared / "shared/link").symlink_to(shared / "ours")
    os.chown(shared / "shared/link", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(StateDirError, match=f"cannot be made: .*belongs to uid {NOBODY}"):
        Desk(shared / name)
    assert not [*(shared / "theirs").iterdir(), *(shared / "ours").iterdir()]


@as_root
def test_a_socket_where_everybody_may_write_is_ours(shared: Path) -> None:
    """Others can neither replace nor remove it; however many may call, its mode says nothing of whose it is."""
    desk = Desk(shared / "shared/control.sock")
    try:
        desk.server.path.chmod(0o777)
        caller = threading.Thread(target=call, args=(desk.server.path, Request(Verb.PING), 10))
        caller.start()
        desk.serve()
        while not desk.asked:
            desk.serve()
        desk.asked[0][1](Response(ok=True))
        desk.serve()
        caller.join(10)
        assert not caller.is_alive()
    finally:
        desk.server.close()
