"""Opens a bucket: endpoint, credentials and timeouts of a `Content`, and what a server's refusal means.

No request is repeated here: a backoff is the caller's, who knows how often it was asked before. Whatever a server or
a library says is cut down to a status and an error code before anybody sees it: their texts can carry credentials.
A server that leads to another host is not followed: neither credentials nor belief go there. With `ca_file` only what
is in it is believed. Plain http is taken from this machine, or where the content is proven otherwise, or `insecure`.
Where obstore's own chain (variables, web identity, container and instance roles) has no credentials, the files of the
AWS command line (profiles, SSO) are read by boto3, which is imported in that case only.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jetwatch.content.source import Content, ContentError, ContentRetry, ContentStalled
from jetwatch.errors import NotTrusted
from jetwatch.locator import is_in_the_open, is_loopback
from jetwatch.trust import Accounts, require

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential, S3Store

CONNECT_S = 10.0
READ_S = 30.0
CREDENTIALS_KEPT = timedelta(minutes=10)
"""How long a profile's credentials are used before boto3 is asked for them again; it renews them itself in time."""

BUSY_CODES = frozenset({"SlowDown", "ServiceUnavailable", "TooManyRequests", "RequestLimitExceeded", "Throttling"})
PASSING_CODES = frozenset({"RequestTimeout", "InternalError", "OperationAborted"})
ADVICE = {
    "NoSuchBucket": "there is no such bucket: look at the URL, and at `endpoint` and `region`",
    "InvalidAccessKeyId": "the server does not know this access key: look at the credentials and at `endpoint`",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the session token has expired: new credentials are needed",
    "InvalidToken": "the session token is not valid: new credentials are needed",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "PermanentRedirect": "the bucket is elsewhere: set `region` and `endpoint`",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set `region`",
    "AccessDenied": "these credentials may not read it",
    "AllAccessDisabled": "the bucket is closed",
}
NO_CREDENTIALS = (
    "no credentials: give `access_key_id` and `secret_access_key`, or `profile`, or `anonymous: true`, or set "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (this machine has no role that could stand in)"
)
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
FILES = ("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")
HANDED_OVER = frozenset({*ENDPOINTS, *REGIONS, *KEYS, *FILES, "AWS_EC2_METADATA_DISABLED"})
"""What `open_store` takes from the `env` that it is given. All other variables obstore reads in the process's own."""
ELSEWHERE = (
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
CREDENTIAL_URLS = (
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
    "AWS_ENDPOINT_URL_STS",
    "AWS_STS_ENDPOINT",
)


NOWHERE = "255.255.255.255:1"
"""No connection to it can be made. obstore follows redirects and cannot be told not to; it is told that this is the
proxy for every host but those that it has business with."""
METADATA_HOSTS = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254")


def split_url(url: str) -> tuple[str, str]:
    """Return bucket and key (or prefix) of s3://bucket/key. Raises ContentStalled."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}", bucket):
        raise ContentStalled(f"expected s3://bucket/prefix/ or s3://bucket/key, found {url!r}")
    return bucket, key


def needs_boto3(content: Content, env: Mapping[str, str]) -> bool:
    """Whether its credentials can only come from the files of the AWS command line, which boto3 (large) reads."""
    if content.anonymous or "access_key_id" in content.secrets:
        return False
    if content.profile:
        return True
    if "AWS_ACCESS_KEY_ID" in env or any(name in env for name in ELSEWHERE):
        return False
    return "AWS_PROFILE" in env or any(_is_there(path) for path in aws_files(env))


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # somebody else's, a loop of links, no path at all: nobody here can read it
        return False


def aws_files(env: Mapping[str, str]) -> list[Path]:
    """The files of the AWS command line: credentials, then configuration."""
    home = Path(env.get("HOME", "/nonexistent"))
    return [
        Path(env.get("AWS_SHARED_CREDENTIALS_FILE", home / ".aws/credentials")),
        Path(env.get("AWS_CONFIG_FILE", home / ".aws/config")),
    ]


def open_store(content: Content, *, request_s: float, env: Mapping[str, str] | None = None) -> S3Store:
    """Return the bucket; nothing is asked of it yet. One request may take `request_s`. Raises ContentStalled."""
    env = os.environ if env is None else env
    try:
        from obstore.store import S3Store
    except ImportError as missing:
        raise ContentStalled("s3:// needs obstore: install jetwatch with the extra `s3`") from missing
    bucket, _ = split_url(content.url)
    endpoint = content.endpoint or next((env[name] for name in ENDPOINTS if env.get(name)), "")
    config = _config(content, bucket, endpoint)
    url = config.get("aws_endpoint_url_s3", "")
    if is_in_the_open(url) and not (content.is_proven or content.insecure):
        raise ContentStalled(
            f"s3://{bucket}: {url} is not protected on its way: use https://, or an archive with `sha256`, "
            "or say `insecure: true`"
        )
    provider, region = _credentials(content, env)
    region = next((env[name] for name in REGIONS if env.get(name)), region)
    if region and "region" not in config:
        config["region"] = region
    by_chain = provider is None and not content.anonymous
    client = _client_options(content, url, request_s)
    client |= _way(url, _credential_hosts(env, config.get("region", "")) if by_chain else ())
    try:
        return S3Store(
            bucket,
            config=config,
            client_options=cast("ClientConfig", client),
            retry_config={"max_retries": 0},
            credential_provider=provider,
        )
    except Exception as error:
        raise ContentStalled(f"s3://{bucket}: the options do not make a client ({_first_line(error)})") from error


def _config(content: Content, bucket: str, endpoint: str) -> S3Config:
    config: S3Config = {"virtual_hosted_style_request": not content.path_style}
    if content.region:
        config["region"] = content.region
    if content.anonymous:
        config["skip_signature"] = True
    if endpoint:
        parts = _split_endpoint(endpoint)
        host = parts.netloc if content.path_style else f"{bucket}.{parts.netloc}"
        config["aws_endpoint_url_s3"] = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
    return config


def _split_endpoint(endpoint: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(endpoint)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    # obstore ends its thread on an address it cannot read, so only plain ones are handed to it.
    if (
        not usable
        or "@" in endpoint
        or not re.fullmatch(r"[\x21-\x7e]+", endpoint)
        or set('"<>\\^`{|}?#') & set(endpoint)
    ):
        raise ContentStalled("`endpoint` must be http://host:port or https://host:port, without a user or a query")
    return parts


def _client_options(content: Content, url: str, request_s: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "allow_http": url.startswith("http://"),
        "allow_invalid_certificates": False,  # whatever the environment says
        "connect_timeout": timedelta(seconds=min(CONNECT_S, request_s)),
        "read_timeout": timedelta(seconds=min(READ_S, request_s)),
        "timeout": timedelta(seconds=request_s),
        "user_agent": "jetwatch",
    }
    if content.ca_file:
        try:
            known = Path(content.ca_file).read_bytes()
        except OSError as error:
            raise ContentStalled(f"ca_file {content.ca_file}: {error.strerror}") from error
        if b"-----BEGIN CERTIFICATE-----" not in known:
            raise ContentStalled(f"ca_file {content.ca_file}: no certificate in it")
        options |= {"root_certificate": known, "disable_system_certificates": True}
    return options


def _way(url: str, credential_hosts: Sequence[str]) -> dict[str, Any]:
    """Which hosts may be asked: the endpoint's, and those that give credentials. A proxy of the environment decides it
    by itself; what may only come from this machine does not go by one.
    """
    host = urllib.parse.urlsplit(url).hostname
    is_own = url.startswith("http:") and is_loopback(host or "")
    if not is_own and _has_proxy(url or "https://s3.amazonaws.com"):
        return {}
    # Without an endpoint it is Amazon's own, whose name depends on the region, and who gives credentials, too.
    hosts = (host or "amazonaws.com", *credential_hosts)
    return {"proxy_url": f"http://{NOWHERE}", "proxy_excludes": ",".join(hosts)}


def _has_proxy(url: str) -> bool:
    """Whether this process's environment has a proxy for it; a look is taken where that is the environment at hand."""
    if not any(name.lower().endswith("_proxy") and value for name, value in os.environ.items()):
        return False
    from urllib.request import getproxies, proxy_bypass  # not loaded for nothing

    parts = urllib.parse.urlsplit(url)
    return bool({parts.scheme, "all"} & getproxies().keys()) and not proxy_bypass(parts.hostname or "")


def _credential_hosts(env: Mapping[str, str], region: str) -> tuple[str, ...]:
    """Who gives credentials to the roles of machines, containers and clusters."""
    named = [urllib.parse.urlsplit(env.get(name, "")).hostname for name in CREDENTIAL_URLS]
    by_region = [f"sts.{region}.amazonaws.com"] if region else []
    return (*METADATA_HOSTS, "sts.amazonaws.com", *by_region, *(host for host in named if host))


def _credentials(content: Content, env: Mapping[str, str]) -> tuple[Callable[[], S3Credential] | None, str | None]:
    """What gives credentials (None: obstore's own chain), and the region that a profile names."""
    secrets = content.secrets
    if content.anonymous:
        return None, None
    if "access_key_id" in secrets:
        return _given(*(secrets.get(name) for name in ("access_key_id", "secret_access_key", "session_token"))), None
    if env.get("AWS_ACCESS_KEY_ID"):
        return _given(*(env.get(name) for name in KEYS)), None
    if needs_boto3(content, env):
        return _profile_credentials(content.profile)
    no_role = env.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    if no_role and not any(name in env for name in ELSEWHERE):
        raise ContentStalled(NO_CREDENTIALS)
    return None, None


def _given(key: str | None, secret: str | None, token: str | None) -> Callable[[], S3Credential]:
    """Not by configuration: obstore would mix it with what its process has in the environment."""
    credential: S3Credential = {
        "access_key_id": key or "",
        "secret_access_key": secret or "",
        "token": token or None,
        "expires_at": None,
    }
    return lambda: credential


def _profile_credentials(profile: str | None) -> tuple[Callable[[], S3Credential], str | None]:
    try:
        import boto3  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]
    except ImportError as missing:
        raise ContentStalled("profiles and SSO need boto3: install jetwatch with the extra `s3`") from missing
    for path in filter(_is_there, aws_files(os.environ)):  # a profile may name a program to be run
        try:
            require(path, Accounts.own())
        except NotTrusted as error:
            raise ContentStalled(f"credentials of profile {profile or 'default'!r}: {error}") from error
    try:
        session = boto3.Session(profile_name=profile)
        found = session.get_credentials()
        if found is None:
            raise ContentStalled(f"profile {profile!r} has no credentials" if profile else NO_CREDENTIALS)
        found.get_frozen_credentials()
    except BotoCoreError as error:
        raise ContentStalled(f"credentials of profile {profile or 'default'!r}: {_first_line(error)}") from error

    def provide() -> S3Credential:
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": str(frozen.access_key),
            "secret_access_key": str(frozen.secret_key),
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_KEPT,
        }

    return provide, session.region_name


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def refusal(error: Exception, what: str) -> ContentError:
    """Turn an error of obstore into ours; `what` names the bucket, prefix or key that was asked for."""
    if isinstance(error, ValueError):
        return ContentStalled(f"{what}: no part of a key or prefix may be empty, `.` or `..`")
    text = str(error)
    asked = re.search(r"Error performing [A-Z]+ (\S+) in ", text)
    status = re.search(r"non-2xx status code: (\d{3})", text)
    if asked and _is_metadata(asked[1]):
        if status and status[1].startswith("5"):
            return ContentRetry(f"{what}: the machine's role gave no credentials (HTTP {status[1]})")
        return ContentStalled(f"{what}: {NO_CREDENTIALS}")
    if type(error).__name__ == "UnauthenticatedError" and status is None:
        return ContentStalled(f"{what}: credentials could not be had: sign in again, or look at the profile")
    if status:
        code = re.search(r"<Code>\s*([A-Za-z0-9._-]{1,64})\s*</Code>", text)
        return of_status(int(status[1]), code[1] if code else "", what)
    return _of_connection(text, what)


def _is_metadata(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    return host in METADATA_HOSTS or host.startswith("sts.")


def of_status(status: int, code: str, what: str) -> ContentError:
    """What an HTTP status and the server's own code for the error mean for the caller."""
    told = f"HTTP {status} {code}".rstrip()
    if status in {429, 503} or code in BUSY_CODES:
        return ContentRetry(f"{what}: the server is busy and asks for fewer requests ({told})")
    if status >= 500 or status == 408 or code in PASSING_CODES:
        return ContentRetry(f"{what}: the server failed ({told})")
    if code in ADVICE:
        return ContentStalled(f"{what}: {ADVICE[code]} ({told})")
    if status in {401, 403}:
        return ContentStalled(f"{what}: access denied; look at the credentials and at the bucket's policy ({told})")
    return ContentStalled(f"{what}: the server refused the request ({told})")


REASONS = (
    (r"ConnectionRefused|Connection refused", "nobody listens there (connection refused)"),
    (r"dns error|failed to lookup", "the name of the server cannot be resolved"),
    (r"TimedOut|kind: Timeout|operation timed out", "no answer in time"),
    (r"IncompleteBody|UnexpectedEof|IncompleteMessage", "the connection was closed in the middle of an answer"),
    (r"ConnectionReset|BrokenPipe|ConnectionAborted", "the connection was reset"),
    (r"ListResponse|InvalidListResponse|Parse\(|quick_xml|DeError", "the answer is none of an S3 server"),
)


def _of_connection(text: str, what: str) -> ContentError:
    certificate = re.search(r"invalid peer certificate: (\w+)|InvalidCertificate\(\s*(\w+)", text)
    if certificate:
        named = certificate[1] or certificate[2]
        return ContentStalled(
            f"{what}: the server's certificate is not trusted ({named}); a private CA goes in `ca_file`"
        )
    if NOWHERE in text or "BadScheme" in text or "TooManyRedirects" in text:
        return ContentStalled(
            f"{what}: the server leads to another address, and that is not followed: look at `endpoint` and `region`"
        )
    for pattern, reason in REASONS:
        if re.search(pattern, text):
            return ContentRetry(f"{what}: {reason}")
    return ContentRetry(f"{what}: the request failed on the way")


def failures() -> tuple[type[Exception], ...]:
    """What obstore raises, for an `except` that `refusal` follows."""
    from obstore.exceptions import BaseError

    return (BaseError, OSError, ValueError)


def is_absent(error: Exception) -> bool:
    """Whether the server said that there is no such object (and not: no such bucket)."""
    return isinstance(error, FileNotFoundError) and "<Code>NoSuchBucket<" not in str(error)
