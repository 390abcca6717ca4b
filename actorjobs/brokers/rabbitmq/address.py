"""Where the broker is: `amqp[s]://user:password@host[:port][,host[:port]...]/vhost?option=value`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from actorjobs.errors import InvalidOption

SCHEMES = {"amqp": 5672, "amqps": 5671}
FILES = ("cafile", "capath", "certfile", "keyfile")
OPTIONS = (*FILES, "no_verify_ssl")
"""What may follow the question mark: files for TLS, and the word that gives up checking the server's certificate."""

HEARTBEAT_SECONDS = 10
"""A dead peer is noticed after three of them. (The driver's own default takes three minutes.)"""

_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One broker, which may be a cluster of several hosts. Its text never shows the password."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    user: str
    password: str = field(repr=False)
    vhost: str
    options: Mapping[str, str]

    def url(self, host: str, port: int) -> str:
        """The address of one host as the driver takes it, password and all."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        options = urlencode({**self.options, "heartbeat": HEARTBEAT_SECONDS})
        return f"{self.scheme}://{login}@{host}:{port}/{quote(self.vhost, safe='')}?{options}"

    @property
    def missing_files(self) -> list[str]:
        """The options that name a file or a folder which is not there."""
        files = [(name, path) for name, path in self.options.items() if name in FILES]
        return [f"{name}={path}" for name, path in files if not Path(path).exists()]

    def __str__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}://{quote(self.user, safe='')}:***@{hosts}/{quote(self.vhost, safe='')}"


def parse_address(text: str) -> Address:
    """The broker at that address; `InvalidOption` for what is none, in words that never quote a password."""
    shape = "amqp://user:password@host:5672,otherhost:5672/vhost"
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise InvalidOption(f"broker address: {error}; it looks like {shape}") from None
    if "@" in f"{parts.path}?{parts.query}#{parts.fragment}" or parts.netloc.count("@") > 1:
        # Split in the wrong place, a part of the password would be taken for something else, and shown.
        raise InvalidOption(
            "broker address: an @ where none is to be; in a password write @ as %40, / as %2F, ? as %3F and # as %23"
        )
    if parts.scheme not in SCHEMES:
        raise InvalidOption(
            f"broker address: its scheme is amqp or amqps, or the word 'embedded'; it looks like {shape}"
        )
    login, _, hosts = parts.netloc.rpartition("@")
    user, has_password, password = login.partition(":")
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in given:
        if name not in OPTIONS:
            raise InvalidOption(f"broker address: an unknown option; there are {', '.join(OPTIONS)}")
    if given.get("no_verify_ssl", "0") not in ("0", "1"):
        raise InvalidOption("broker address: no_verify_ssl is 0 or 1")
    if given and parts.scheme != "amqps":
        raise InvalidOption("broker address: its options are about TLS, so its scheme must be amqps")
    return Address(
        scheme=parts.scheme,
        hosts=tuple(_host(one, SCHEMES[parts.scheme]) for one in hosts.split(",")),
        user=unquote(user) or "guest",
        password=unquote(password) if has_password else "guest",
        vhost=unquote(parts.path[1:]) or "/",
        options=given,
    )


def _host(text: str, default_port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None or not 0 < int(found["port"] or default_port) < 65536:
        raise InvalidOption(
            "broker address: each host is a name or an address, with a port if need be, as in host:5672"
        )
    return found["name"], int(found["port"] or default_port)
