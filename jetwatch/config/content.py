"""`content`: a URL, or a mapping with `url` and options → `Content`, and the command that fetches it.

An option that the URL's kind has no use for is a problem, not a silence. Credentials are secrets: they stand in no
repr, no command and no journal, and reach the fetch through its environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from jetwatch import interpreter, locator
from jetwatch.config.nodes import Mapping, Node, Notes, Scalar
from jetwatch.config.scalars import Believed, Boolean, Integer, Kind, Location, Number, Size, Text
from jetwatch.config.tables import Key, Table, object_schema, read_keys
from jetwatch.config.times import Duration
from jetwatch.content_records import SECRETS_VARIABLE, Content, ContentKind, Limits

if TYPE_CHECKING:
    from jetwatch.records import Command

SECRETS = ("access_key_id", "secret_access_key", "session_token", "username", "password", "bearer_token")
OPTIONS_VARIABLE = "JETWATCH_CONTENT_OPTIONS"
INHERITED = ("AWS_*", "*_proxy", "*_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSH_AUTH_SOCK")
"""What the agent's environment says of credentials and of the way out counts for a look and a fetch as well, but is not
given to another account."""

_HIDDEN = "***"

_S3 = frozenset({ContentKind.BUCKET, ContentKind.OBJECT})
_PATHS = frozenset({ContentKind.DIRECTORY, ContentKind.FILE})
_LISTED = frozenset({ContentKind.BUCKET, ContentKind.DIRECTORY})
_HTTP = frozenset({ContentKind.HTTP})
_GIT = frozenset({ContentKind.GIT})
_ALL = frozenset(ContentKind)

_USED_BY = {
    "marker": _LISTED,
    "settle": _LISTED | {ContentKind.FILE},
    "checksum": _PATHS,
    "sha256": _HTTP | {ContentKind.OBJECT, ContentKind.FILE},
    "endpoint": _S3,
    "region": _S3,
    "path_style": _S3,
    "anonymous": _S3,
    "profile": _S3,
    "access_key_id": _S3,
    "secret_access_key": _S3,
    "session_token": _S3,
    "ca_file": _S3 | _HTTP | _GIT,
    "username": _HTTP | _GIT,
    "password": _HTTP | _GIT,
    "bearer_token": _HTTP | _GIT,
    "submodules": _GIT,
    "verify": _GIT,
    "ssh_key": _GIT,
    "known_hosts": _GIT,
    "insecure": _S3 | _HTTP | _GIT,
    "limits": _ALL,
}

_PARTNERS = {
    "access_key_id": "secret_access_key",
    "secret_access_key": "access_key_id",
    "session_token": "access_key_id",
}
"""Credentials that are worth nothing alone."""

_EXCLUSIVE = (
    ("anonymous", frozenset({"profile", *_PARTNERS}), "it means that no credentials are sent"),
    ("profile", frozenset(_PARTNERS), "credentials come from the one or the other"),
    ("bearer_token", frozenset({"username", "password"}), "only one of them can be sent"),
)
_SSH = frozenset({"ssh_key", "known_hosts"})
_USELESS = {
    "https": frozenset({"insecure"}),
    "git+https": _SSH | {"insecure"},
    "git+http": _SSH | {"ca_file"},
    "git+ssh": frozenset({"ca_file", "password", "bearer_token", "insecure"}),
    "git+file": _SSH | {"ca_file", "username", "password", "bearer_token", "insecure"},
}
"""What a kind has a use for in general, and not over this way of travelling."""

LIMITS = Table(
    (
        Key("bytes", Size(), "Bytes in all.", into="total_bytes", record=Limits),
        Key("entries", Integer(1, 100_000_000), "Files and directories.", record=Limits),
        Key("depth", Integer(1, 1000), "Directories inside each other.", record=Limits),
        Key("ratio", Number(1, 1_000_000), "Unpacked to packed, beyond the first 64 MiB.", record=Limits),
        Key(
            "min_speed",
            Size(),
            "Bytes a second, over 5 min: a fetch that is slower is given up. 0: as slow as it likes.",
            into="min_speed_bytes_s",
            record=Limits,
        ),
    ),
    Limits,
)


class Proof(Struct, frozen=True):
    """What content from git has to prove. The names are those of `Content`."""

    allowed_signers: Any = None
    descends_from: str | None = None
    signed_tag: bool = False


class Verify(Table, frozen=True):
    """What a commit has to prove. Without signers there is no proof."""

    def read(self, node: Node, notes: Notes) -> Any:
        """The proof. Nothing to verify is a slip, not a wish."""
        problems_before = len(notes.problems)
        proof = super().read(node, notes)
        if proof is None or proof.allowed_signers is None:
            if len(notes.problems) == problems_before:
                notes.expected(node, "a mapping with `allowed_signers`")
            return None
        return proof

    def show(self, value: Proof) -> dict[str, Any]:
        """As it was written."""
        held = ((key, getattr(value, key.field)) for key in self.keys)
        return {key.name: key.kind.show(entry) for key, entry in held if entry}

    write = show


VERIFY = Verify(
    (
        Key("allowed_signers", Location(), "Commits must be signed by one of these (ssh-keygen(1)).", record=Proof),
        Key(
            "descends_from",
            Text("a commit id in full", r"[0-9a-f]{40}|[0-9a-f]{64}"),
            "Every revision must have this commit among its ancestors, or be it.",
            record=Proof,
        ),
        Key("signed_tag", Boolean(), "The ref is a tag, which must be signed by its name.", record=Proof),
    ),
    Proof,
)

_TEXT = Text("text")
KEYS = (
    Key("url", _TEXT, "Where the content is. Required."),
    Key("marker", _TEXT, "A key (or file) that the publisher writes last: it alone is looked at.", record=Content),
    Key("settle", Duration(), "How long a new listing must stay the same.", into="settle_s", record=Content),
    Key("checksum", Boolean(), "Look at bytes, not at sizes and times.", record=Content),
    Key("sha256", Text("64 hexadecimal digits", r"[0-9a-f]{64}"), "The archive's digest.", record=Content),
    Key("endpoint", _TEXT, "The server of an S3 that is not Amazon's.", record=Content),
    Key("region", _TEXT, "The bucket's region.", record=Content),
    Key("path_style", Boolean(), "The bucket stands in the path, not in the host's name.", record=Content),
    Key("anonymous", Boolean(), "Send no credentials.", record=Content),
    Key("profile", _TEXT, "A profile of the AWS configuration (needs the extra `s3`).", record=Content),
    Key("ca_file", Believed(), "The only certificates that are trusted, instead of the system's.", record=Content),
    Key("submodules", Boolean(), "Fetch submodules too.", record=Content),
    Key("verify", VERIFY, "What a commit has to prove.", into="allowed_signers", record=Content),
    Key("ssh_key", Location(), "The private key for git over ssh.", record=Content),
    Key("known_hosts", Location(), "The host keys for git over ssh.", record=Content),
    Key("insecure", Boolean(), "Take plain http from another machine, unproven as it is.", record=Content),
    Key("limits", LIMITS, "What a fetch may cost.", record=Content),
    *(Key(name, _TEXT, "A credential, for the look and for the fetch.") for name in SECRETS),
)
"""The options of a content source."""


class Source(Kind, frozen=True):
    """A content source."""

    what = "a URL, or a mapping with `url` and options"

    def read(self, node: Node, notes: Notes) -> Content | None:
        """The source, its options known to fit its kind."""
        if isinstance(node, Scalar):
            content = self._content(node, node.text, {}, notes)
            if content is not None:
                _refuse_unworkable(lambda _: node, content, notes)
                _refuse_unproven(lambda _: node, content, notes)
            return content
        if not isinstance(node, Mapping):
            notes.expected(node, self.what)
            return None
        values = read_keys(node, KEYS, notes)
        url = values.pop("url", None)
        if url is None:
            notes.problem(node, "`url` is missing: where the content is")
            return None
        content = self._content(node.entries["url"], url, values, notes)
        if content is not None:
            _refuse_unused(node, content.kind, notes)
            _refuse_unworkable(lambda name: node.entries.get(name, node.entries["url"]), content, notes)
            _refuse_unproven(lambda name: node.entries.get(name, node.entries["url"]), content, notes)
        return content

    def _content(self, node: Node, url: str, values: dict[str, Any], notes: Notes) -> Content | None:
        try:
            found = locator.parse(url)
        except ValueError as error:
            notes.problem(node, str(error))
            return None
        proof = values.pop("allowed_signers", None)
        values |= asdict(proof) if proof is not None else {}
        secrets = {**found.secrets, **{name: values.pop(name) for name in SECRETS if name in values}}
        paths = {
            name: str(values[name]) for name in ("ca_file", "allowed_signers", "ssh_key", "known_hosts") & values.keys()
        }
        return Content(
            url=found.url, kind=found.kind, ref=found.ref, subdir=found.subdir, secrets=secrets, **{**values, **paths}
        )

    def show(self, value: Content) -> dict[str, Any]:
        """The options that are not as they would be, secrets hidden."""
        held = {key.name: getattr(value, key.field, None) for key in KEYS}
        if value.allowed_signers is not None:
            held["verify"] = Proof(value.allowed_signers, value.descends_from, value.signed_tag)
        defaults = {key.name: key.default for key in KEYS}
        options = {name: entry for name, entry in held.items() if entry != defaults[name]}
        shown = {key.name: key.kind.show(options[key.name]) for key in KEYS if key.name in options}
        return {**shown, "url": full_url(value), **dict.fromkeys(value.secrets, _HIDDEN)}

    def schema(self) -> dict[str, Any]:
        """Both forms."""
        table = object_schema(KEYS) | {"required": ["url"]}
        return {"anyOf": [{"type": "string"}, table]}


def _refuse_unused(node: Mapping, kind: ContentKind, notes: Notes) -> None:
    for name, option in node.entries.items():
        if name in _USED_BY and kind not in _USED_BY[name]:
            notes.problem(option, f"a source of this kind ({kind.value}) has no use for `{name}`")


def _refuse_unworkable(place: Callable[[str], Node], content: Content, notes: Notes) -> None:
    """Options that cannot work with each other, or over this way of travelling, on any machine."""
    scheme = content.url.partition("://")[0]
    given = {*content.secrets, *(name for name in _USED_BY if getattr(content, name, None))}
    for name in sorted(given & _USELESS.get(scheme, frozenset())):
        notes.problem(place(name), f"`{name}` has no use over {scheme}://")
    for one, others, reason in _EXCLUSIVE:
        for other in sorted(given & others if one in given else ()):
            notes.problem(place(one), f"`{one}` and `{other}` exclude each other: {reason}")
    for name, partner in _PARTNERS.items():
        if name in given and partner not in given:
            notes.problem(place(name), f"`{name}` cannot work without `{partner}`")
    for name in sorted(given & {"password", "bearer_token"} if scheme == "git+http" else ()):
        notes.problem(place(name), "credentials would travel in the open: write git+https://")
    for name in sorted(given & {"password", "bearer_token"} if scheme == "http" else ()):
        if locator.is_in_the_open(content.url):
            notes.problem(place(name), "credentials would travel in the open: write https://")
    if content.signed_tag and not names_a_tag(content.ref):
        notes.problem(place("verify"), "`signed_tag` needs the name of a tag after `@` in the URL, such as @v1")
    if content.allowed_signers is not None and content.descends_from is None:
        notes.warning(
            place("verify"),
            "the first run believes whatever one of these keys signed, of any repository"
            + ("" if content.signed_tag else ", branch")
            + " and age: `descends_from` names a commit that it must come after",
        )
    if scheme == "git+https" and "username" in given and not given & {"password", "bearer_token"}:
        notes.warning(place("username"), "a user without a password is not sent; a token goes in `password`")


def _refuse_unproven(place: Callable[[str], Node], content: Content, notes: Notes) -> None:
    """Plain http: who is on the way decides what comes, unless a digest or a signature does."""
    road, name = (content.endpoint or "", "endpoint") if content.kind in _S3 else (content.url, "url")
    scheme = road.partition("://")[0].lower()
    if scheme not in ("http", "git+http") or content.is_proven:
        return
    better = {
        ContentKind.BUCKET: "use https://",
        ContentKind.OBJECT: "use https://, or give the archive's `sha256`",
        ContentKind.HTTP: "use https://, or give the archive's `sha256`",
        ContentKind.GIT: "use git+https://, or give `verify`",
    }[content.kind]
    if not locator.is_in_the_open(road):
        notes.warning(
            place(name), f"{scheme}://: any account of this machine may answer at that port when its server does not"
        )
    elif content.insecure:
        notes.warning(
            place("insecure"), f"{scheme}:// is not protected on its way: whoever is on it decides what comes; {better}"
        )
    else:
        notes.problem(
            place(name), f"{scheme}:// is not protected on its way: {better}; `insecure: true` takes it as it is"
        )


def names_a_tag(ref: str | None) -> bool:
    """Whether this can be the name of a tag: it is no HEAD, no commit, no ref of another kind."""
    if ref is None or ref == "HEAD" or re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", ref):
        return False
    return not ref.startswith("refs/") or ref.startswith("refs/tags/")


def full_url(content: Content) -> str:
    """The URL as it was written, without user info."""
    ref = f"@{content.ref}" if content.ref else ""
    subdir = f"#{content.subdir}" if content.subdir else ""
    return f"{content.url}{ref}{subdir}"


def fetch_command(content: Content, template: Command) -> tuple[Command, dict[str, str]]:
    """The download step of a watch with this content, and the secret part of its environment."""
    plain = Content(url=content.url, kind=content.kind)
    options = {
        field: getattr(content, field)
        for field in content.__struct_fields__
        if field not in ("url", "kind", "ref", "subdir", "secrets", "limits")
        and getattr(content, field) != getattr(plain, field)
    }
    if content.limits != Limits():
        options["limits"] = asdict(content.limits)
    words = interpreter.jetp(
        "fetch",
        full_url(content),
        "{{ download_path }}",
        "--revision={{ revision }}",
        "--cache={{ cache_path }}",
        f"--deadline={template.timeout_s:g}",
    )
    env = {**template.env, **interpreter.ENVIRONMENT, OPTIONS_VARIABLE: json.dumps(options)}
    secrets = {SECRETS_VARIABLE: json.dumps(dict(content.secrets))} if content.secrets else {}
    # Each of them by itself too: what stands alone in the environment is masked by itself where it is told.
    secrets |= {f"JETWATCH_CONTENT_{name.upper()}": value for name, value in content.secrets.items()}
    inherits = INHERITED if template.user is None else ()
    return replace(template, words=words, shell=None, env=env, inherits=inherits), secrets
