"""Certificates for nodes of the tests' own, made with the `openssl` command."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


def has_openssl() -> bool:
    return shutil.which("openssl") is not None


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority that nobody knows, with its files in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = self._made("authority", "-x509", "-subj", "/CN=tests", "-addext", "keyUsage=critical,keyCertSign")

    @property
    def file(self) -> Path:
        """What a client is given to trust."""
        return self._own.certificate

    def issue(self, host: str) -> Pair:
        """A certificate for a server of that name or address."""
        kind = "IP" if host.replace(".", "").isdigit() else "DNS"
        authority = ("-CA", str(self._own.certificate), "-CAkey", str(self._own.key))
        names = ("-addext", f"subjectAltName={kind}:{host}", "-addext", "basicConstraints=critical,CA:FALSE")
        return self._made(host, "-x509", *authority, "-subj", f"/CN={host}", *names)

    def _made(self, name: str, *options: str) -> Pair:
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        files = ("-keyout", str(pair.key), "-out", str(pair.certificate))
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        subprocess.run(["openssl", "req", *options, *curve, "-days", "2", *files], check=True, capture_output=True)
        return pair
