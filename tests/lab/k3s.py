#!/usr/bin/python3
"""k3s as the lab plays it: a stand-in, not k3s. It sits on a real etcd, or on a real SQLite file in kine's schema.

It keeps k3s's files, config keys, messages and exit statuses where i12e meets them. What it is not: there are no
containers, no kubelet, no Kubernetes API server. Values in the datastore are JSON (the real ones are protobuf, but for
custom resources). The API on port 6443 has the paths and the shapes of Kubernetes, as far as this file's own kubectl
uses them, with discovery and lists in pieces; `/v1-k3s/...` and `/db/...` are ours, named as k3s names the like.
Messages are quoted from k3s where they are known (time is played faster: see the constants below).

    k3s server [--cluster-init] [--server URL] [--cluster-reset [--cluster-reset-restore-path FILE]] ...
    k3s agent --server URL --token TOKEN ...
    k3s kubectl get|delete|apply|create|cordon|uncordon|drain|label|annotate|version ...
    k3s etcd-snapshot save|ls|delete|prune        k3s token rotate|generate        k3s --version

It needs Debian's etcd-server, etcd-client, python3-cryptography, python3-nacl and python3-yaml, and nothing else: one
file.
I12E_ROOT puts all its files below a folder, and what k3s binds to 127.0.0.1 on the node's own address: several hosts on
one machine, each with a loopback address of its own. Faults are files of that name in /lab or
/run/i12e-lab-faults: k3s_never_ready, slow_start and api_slow (their content: seconds), snapshot_lies, migration_fails,
volumes_hang.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn, Protocol

VERSION = "v1.35.4+k3s1"  # the lab rewrites this line to play another version
WHAT = "a stand-in of the i12e lab, not k3s"

# k3s's own times are in brackets.
TICK = 0.5  # of all loops
HEARTBEAT = 1.0  # of a node [10 s]
GRACE = 6.0  # without a heartbeat until a node is NotReady [40 s]
MEMBER_TEST = 1.0  # between two looks at the etcd membership [5 s]
LEARNER_STALL = 300.0  # until a learner that does not catch up is evicted [300 s]
RETRY = 2.0  # of an agent that no server takes [5 s]
CLOCK_SKEW = 3  # seconds by which a file may differ from the datastore's time [3]
KEPT_BACKUPS = 5  # of moved etcd data [5]

Json = dict[str, Any]


# What k3s says


class Fatal(Exception):
    """k3s ends with status 1, its text the last message."""


def log(message: str, level: str = "info") -> None:
    """Say it as k3s's logger does, on standard error."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with contextlib.suppress(OSError):
        print(f"time={json.dumps(now)} level={level} msg={json.dumps(message)}", file=sys.stderr, flush=True)


def stamp(when: float | None = None) -> str:
    """The time as Kubernetes writes it."""
    moment = dt.datetime.fromtimestamp(time.time() if when is None else when, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds_of(text: str) -> float:
    """The seconds since 1970 of a time as Kubernetes writes it."""
    return dt.datetime.fromisoformat(text).timestamp()


# Where things are

ROOT = os.environ.get("I12E_ROOT", "")
ETC = Path(f"{ROOT}/etc/rancher")
KUBECONFIG = ETC / "k3s/k3s.yaml"


def fault(name: str) -> str | None:
    """The content of a fault's file if the lab has it on ("" when it is empty), else None."""
    for folder in (f"{ROOT}/lab", f"{ROOT}/run/i12e-lab-faults"):
        try:
            return Path(folder, name).read_text().strip()
        except OSError:
            continue
    return None


def write(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Write a whole file, by rename, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)
        new.chmod(mode)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def folder(path: Path, mode: int = 0o755) -> Path:
    """Make a folder with its parents."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path


# Settings: config.yaml, config.yaml.d, the command line

SERVER_FLAGS = {
    "agent-token", "agent-token-file", "advertise-address", "bind-address", "cluster-cidr", "cluster-dns",
    "cluster-domain", "cluster-init", "cluster-reset", "cluster-reset-restore-path", "config", "data-dir",
    "datastore-endpoint", "debug", "disable", "disable-agent", "disable-apiserver", "disable-cloud-controller",
    "disable-controller-manager", "disable-helm-controller", "disable-kube-proxy", "disable-network-policy",
    "disable-scheduler", "egress-selector-mode", "embedded-registry", "etcd-arg", "etcd-disable-snapshots",
    "etcd-expose-metrics", "etcd-snapshot-compress", "etcd-snapshot-dir", "etcd-snapshot-name",
    "etcd-snapshot-retention", "etcd-snapshot-schedule-cron", "etcd-s3", "flannel-backend", "flannel-external-ip",
    "flannel-iface", "flannel-ipv6-masq", "helm-job-image", "https-listen-port", "kube-apiserver-arg",
    "kube-controller-manager-arg", "kube-scheduler-arg", "kubelet-arg", "kube-proxy-arg", "node-external-ip",
    "node-ip", "node-label", "node-name", "node-taint", "protect-kernel-defaults", "resolv-conf",
    "secrets-encryption", "secrets-encryption-provider", "selinux", "server", "service-cidr",
    "service-node-port-range", "servicelb-namespace", "supervisor-metrics", "system-default-registry", "tls-san",
    "tls-san-security", "token", "token-file", "with-node-id", "write-kubeconfig", "write-kubeconfig-mode",
    "write-kubeconfig-group", "write-kubeconfig-name", "private-registry", "pause-image", "snapshotter",
    "prefer-bundled-bin", "default-local-storage-path", "docker", "rootless", "log", "v",
}  # fmt: skip
SWITCHES = {
    "cluster-init", "cluster-reset", "debug", "disable-agent", "disable-apiserver", "disable-cloud-controller",
    "disable-controller-manager", "disable-helm-controller", "disable-kube-proxy", "disable-network-policy",
    "disable-scheduler", "embedded-registry", "etcd-disable-snapshots", "etcd-expose-metrics",
    "etcd-snapshot-compress", "etcd-s3", "flannel-external-ip", "flannel-ipv6-masq", "protect-kernel-defaults",
    "secrets-encryption", "selinux", "tls-san-security", "with-node-id", "docker", "rootless", "prefer-bundled-bin",
}  # fmt: skip
CRITICAL = {  # what must be the same on all servers, and its default
    "cluster-cidr": "10.42.0.0/16", "service-cidr": "10.43.0.0/16", "cluster-dns": "",
    "cluster-domain": "cluster.local",
    "disable-cloud-controller": "", "disable-helm-controller": "", "disable-network-policy": "",
    "egress-selector-mode": "agent", "embedded-registry": "", "flannel-backend": "vxlan", "flannel-external-ip": "",
    "flannel-ipv6-masq": "", "secrets-encryption": "", "secrets-encryption-provider": "",
}  # fmt: skip


def as_list(value: Any) -> list[str]:
    """A setting that may be given once, often, or not at all, as texts."""
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return [as_text(item) for item in value]
    return [as_text(value)]


def as_text(value: Any) -> str:
    """A setting as k3s would have read it from the command line."""
    if isinstance(value, bool):
        return "true" if value else ""
    return "" if value is None else str(value)


def merge_settings(settings: Json, more: Mapping[str, Any], where: str) -> None:
    """Given the settings of one more file, let them win; a key that ends in + adds to what is there."""
    for key, value in more.items():
        name = str(key).removesuffix("+")
        if str(key).endswith("+"):
            settings[name] = as_list(settings.get(name)) + as_list(value)
        else:
            settings[name] = value
        if name not in SERVER_FLAGS:
            log(f"Unknown flag --{name} found in {where}, skipping", "warning")


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; Fatal if it cannot be parsed."""
    import yaml

    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise Fatal(f"{path}: {error}") from error


def parse_flags(arguments: Sequence[str], more: AbstractSet[str] = frozenset()) -> Json:
    """Given k3s's command line after its subcommand, return its settings; Fatal for a flag that k3s does not know."""
    given: Json = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or name not in SERVER_FLAGS | more:
            print(f"Incorrect Usage: flag provided but not defined: -{name}", file=sys.stderr)
            raise Fatal(f"flag provided but not defined: -{name}")
        if name in SWITCHES:
            given[name] = value not in ("false", "0") if equals else True
        elif not equals and not rest:
            raise Fatal(f"flag needs an argument: -{name}")
        else:
            given[name] = [*as_list(given.get(name)), value if equals else rest.pop(0)]
    return {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in given.items()}


def read_settings(arguments: Sequence[str], more: AbstractSet[str] = frozenset()) -> Json:
    """The settings of config.yaml, then of config.yaml.d/*.yaml in their order, then of the command line."""
    given = parse_flags(arguments, more)
    main = Path(as_text(given.get("config")) or os.environ.get("K3S_CONFIG_FILE") or ETC / "k3s/config.yaml")
    settings: Json = {}
    drop_ins = sorted(path for path in main.with_name(main.name + ".d").glob("*") if path.suffix in (".yaml", ".yml"))
    for path in [main, *drop_ins]:
        if not path.is_file():
            continue
        content = read_yaml(path)
        if content is not None and not isinstance(content, dict):
            raise Fatal(f"failed to read {path}: it is no map of settings")
        merge_settings(settings, content or {}, str(path))
    for variable, name in (("K3S_TOKEN", "token"), ("K3S_URL", "server")):
        if os.environ.get(variable):
            settings.setdefault(name, os.environ[variable])
    return settings | given


@dataclass
class Host:
    """This host's settings, and its places."""

    settings: Json

    @property
    def data(self) -> Path:
        chosen = as_text(self.settings.get("data-dir"))
        return Path(chosen) if chosen else Path(f"{ROOT}/var/lib/rancher/k3s")

    @property
    def server(self) -> Path:
        return self.data / "server"

    @property
    def agent(self) -> Path:
        return self.data / "agent"

    @property
    def tls(self) -> Path:
        return self.server / "tls"

    @property
    def db(self) -> Path:
        return self.server / "db"

    @property
    def etcd(self) -> Path:
        return self.db / "etcd"

    @property
    def snapshots(self) -> Path:
        chosen = as_text(self.settings.get("etcd-snapshot-dir"))
        return Path(chosen) if chosen else self.db / "snapshots"

    @property
    def storage(self) -> Path:
        return self.data / "storage"

    @property
    def name(self) -> str:
        return (as_text(self.settings.get("node-name")) or socket.gethostname()).lower()

    @property
    def address(self) -> str:
        given = as_list(self.settings.get("node-ip"))
        return given[0].split(",")[0] if given else own_address()

    @property
    def loopback(self) -> str:
        """What is 127.0.0.1 for k3s; with I12E_ROOT hosts share one machine, and have their own address for it."""
        return self.address if ROOT else "127.0.0.1"

    def text(self, name: str, default: str = "") -> str:
        return as_text(self.settings.get(name)) or default

    def secret(self, name: str) -> str:
        """A token that is given as it is or by a file."""
        path = self.text(f"{name}-file")
        return Path(path).read_text().strip() if path else self.text(name)


def own_address() -> str:
    """The address by which this host would reach the world."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def url_host(address: str) -> str:
    """An address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


# Tokens and the bootstrap row


@dataclass(frozen=True)
class Token:
    """A token as k3s reads it: K10<hash of the CA>::<user>:<password>, or the password alone."""

    password: str
    user: str = ""
    ca_hash: str = ""

    @classmethod
    def parse(cls, text: str) -> Token:
        if not text.startswith("K10"):
            return cls(text)
        ca_hash, colons, credentials = text[3:].partition("::")
        user, colon, password = credentials.partition(":")
        if not colons or not colon or not password:
            raise Fatal(
                "failed to normalize server token; must be in format K10<CA-HASH>::<USERNAME>:<PASSWORD> or <PASSWORD>"
            )
        return cls(password, user, ca_hash)

    def check_ca(self, ca: bytes) -> None:
        found = hashlib.sha256(ca).hexdigest()
        if self.ca_hash and self.ca_hash != found:
            raise Fatal(f"token CA hash does not match the Cluster CA certificate hash: {self.ca_hash} != {found}")


def bootstrap_key(password: str) -> str:
    """The name of the row that holds the cluster's CAs."""
    return "/bootstrap/" + hashlib.sha256(password.encode()).hexdigest()[:12]


def seal(password: str, plain: bytes) -> bytes:
    """k3s's encryption of the bootstrap row, to the letter."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt = secrets.token_hex(8).encode()
    key = hashlib.pbkdf2_hmac("sha1", password.encode(), salt, 4096, 32)
    nonce = secrets.token_bytes(12)
    return salt + b":" + base64.b64encode(nonce + AESGCM(key).encrypt(nonce, plain, None))


def unseal(password: str, sealed: bytes) -> bytes:
    """The other way round; Fatal if the password is another one."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, _, text = sealed.partition(b":")
    key = hashlib.pbkdf2_hmac("sha1", password.encode(), salt, 4096, 32)
    raw = base64.b64decode(text)
    try:
        return bytes(AESGCM(key).decrypt(raw[:12], raw[12:], None))
    except InvalidTag as error:
        raise Fatal("cipher: message authentication failed") from error


BOOTSTRAP_FILES = {
    "ServerCA": "tls/server-ca.crt", "ServerCAKey": "tls/server-ca.key",
    "ClientCA": "tls/client-ca.crt", "ClientCAKey": "tls/client-ca.key",
    "RequestHeaderCA": "tls/request-header-ca.crt", "RequestHeaderCAKey": "tls/request-header-ca.key",
    "ETCDServerCA": "tls/etcd/server-ca.crt", "ETCDServerCAKey": "tls/etcd/server-ca.key",
    "ETCDPeerCA": "tls/etcd/peer-ca.crt", "ETCDPeerCAKey": "tls/etcd/peer-ca.key",
    "ServiceKey": "tls/service.key", "PasswdFile": "cred/passwd", "IPSECKey": "cred/ipsec.psk",
    "EncryptionConfig": "cred/encryption-config.json", "EncryptionHash": "cred/encryption-state.json",
}  # fmt: skip


def read_bootstrap(host: Host) -> Json:
    """The bootstrap data of this host's files: name -> time and content."""
    found: Json = {}
    for name, relative in BOOTSTRAP_FILES.items():
        path = host.server / relative
        if path.is_file():
            content = base64.b64encode(path.read_bytes()).decode()
            found[name] = {"Timestamp": stamp(path.stat().st_mtime), "Content": content}
    return found


def write_bootstrap(host: Host, data: Json) -> None:
    """Write the cluster's bootstrap data to this host's files, with the times that they had."""
    for name, entry in data.items():
        if name not in BOOTSTRAP_FILES:
            continue
        path = host.server / BOOTSTRAP_FILES[name]
        write(path, base64.b64decode(entry["Content"]))
        when = seconds_of(entry["Timestamp"])
        os.utime(path, (when, when))
    (host.server / "tls").chmod(0o700)


def reconcile_bootstrap(host: Host, data: Json, replace: bool) -> None:
    """Bring files and datastore in line: the datastore wins, but files that are newer than it are Fatal.

    replace: a cluster-reset takes the datastore's, whatever the times say.
    """
    log("Reconciling bootstrap data between datastore and disk")
    newer: list[str] = []
    older = False
    for name, entry in data.items():
        path = host.server / BOOTSTRAP_FILES.get(name, "")
        if not path.is_file():
            older = True
        elif path.read_bytes() != base64.b64decode(entry["Content"]):
            log(f"{path} is out of sync with datastore", "warning")
            late = path.stat().st_mtime - seconds_of(entry["Timestamp"]) >= CLOCK_SKEW
            newer, older = ([*newer, str(path)], older) if late else (newer, True)
    if newer and not replace:
        raise Fatal(
            f"{', '.join(newer)} newer than datastore and could cause a cluster outage. "
            "Remove the file(s) from disk and restart to be recreated from datastore."
        )
    if older or newer:
        log("Updating bootstrap data on disk from datastore")
        write_bootstrap(host, data)


# Certificates


def new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.TraditionalOpenSSL, form.NoEncryption()))


def certificate(names: tuple[str, str], key: Any, issuer: tuple[Any, Any] | None, hosts: Iterable[str] = ()) -> Any:
    """Given (common name, organisation), a key, and its CA's (certificate, key) or None to be a CA, return it."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, names[0])]
    if names[1]:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, names[1]))
    subject = x509.Name(attributes)
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # hosts' clocks differ
        .not_valid_after(now + dt.timedelta(days=365 if issuer else 3650))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(True, False, True, False, False, issuer is None, False, False, False), True)
    )
    if issuer:
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        sans: list[Any] = []
        for name in dict.fromkeys(hosts):
            try:
                sans.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                sans.append(x509.DNSName(name))
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256())


def cert_pem(cert: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return bytes(cert.public_bytes(form.Encoding.PEM))


def load_ca(path: Path) -> tuple[Any, Any]:
    """A CA's certificate and key, PATH.crt and PATH.key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    cert = x509.load_pem_x509_certificate(path.with_suffix(".crt").read_bytes())
    return cert, load_pem_private_key(path.with_suffix(".key").read_bytes(), None)


def make_cas(host: Host) -> None:
    """Make each CA that is not there: a cluster is founded."""
    folder(host.tls, 0o700)
    folder(host.tls / "etcd", 0o755)
    for name in ("server", "client", "request-header", "etcd/server", "etcd/peer"):
        path = host.tls / f"{name}-ca"
        if path.with_suffix(".crt").exists() and path.with_suffix(".key").exists():
            continue
        key = new_key()
        title = "k3s-" + name if "/" not in name else name.replace("/", "-")
        write(path.with_suffix(".key"), key_pem(key))
        write(path.with_suffix(".crt"), cert_pem(certificate((f"{title}-ca@{int(time.time())}", ""), key, None)), 0o644)
    if not (host.tls / "service.key").exists():
        write(host.tls / "service.key", key_pem(new_key()))
    if not (host.server / "cred/ipsec.psk").exists():
        write(host.server / "cred/ipsec.psk", secrets.token_hex(48))
    make_encryption(host)


def make_encryption(host: Host) -> None:
    """The key of secrets-encryption, if it is wanted and not there."""
    path = host.server / "cred/encryption-config.json"
    if not host.text("secrets-encryption") or path.exists():
        return
    provider = host.text("secrets-encryption-provider", "aescbc")
    key = {"name": f"{provider}key", "secret": base64.b64encode(secrets.token_bytes(32)).decode()}
    config = {
        "kind": "EncryptionConfiguration",
        "apiVersion": "apiserver.config.k8s.io/v1",
        "resources": [{"resources": ["secrets"], "providers": [{provider: {"keys": [key]}}, {"identity": {}}]}],
    }
    text = json.dumps(config)
    write(path, text)
    write(host.server / "cred/encryption-state.json", "start-" + hashlib.sha256(text.encode()).hexdigest())


def issue(host: Host, ca: str, leaf: str, names: tuple[str, str], hosts: Iterable[str] = ()) -> None:
    """Issue tls/LEAF.crt and .key by tls/CA."""
    key = new_key()
    issuer = load_ca(host.tls / ca)
    chain = cert_pem(certificate(names, key, issuer, hosts)) + cert_pem(issuer[0])
    write(host.tls / f"{leaf}.key", key_pem(key))
    write(host.tls / f"{leaf}.crt", chain, 0o644)


def issue_leaves(host: Host) -> None:
    """All certificates that this server shows, anew."""
    own = ["localhost", "127.0.0.1", "::1", host.loopback, host.address, host.name]
    inside = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    sans = [san for item in as_list(host.settings.get("tls-san")) for san in item.split(",") if san]
    issue(host, "server-ca", "serving-kube-apiserver", ("kube-apiserver", ""), [*own, *inside, "10.43.0.1", *sans])
    issue(host, "client-ca", "client-admin", ("system:admin", "system:masters"))
    issue(host, "client-ca", "client-k3s-controller", ("system:k3s-controller", ""))
    issue(host, "etcd/server-ca", "etcd/client", ("etcd-client", ""))
    issue(host, "etcd/server-ca", "etcd/server-client", ("etcd-server", ""), [*own, "kine.sock"])
    issue(host, "etcd/peer-ca", "etcd/peer-server-client", ("etcd-peer", ""), own)


def client_context(ca: Path | None, cert: Path | None = None, ca_data: str | None = None) -> ssl.SSLContext:
    """TLS to a server that CA (a file or its text) vouches for, showing CERT.crt and CERT.key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=str(ca) if ca else None, cadata=ca_data)
    if cert:
        context.load_cert_chain(cert.with_suffix(".crt"), cert.with_suffix(".key"))
    return context


# The datastore: etcd, or SQLite in kine's schema


class StoreError(Exception):
    """The datastore does not do it: no quorum, no disk, not there."""


class Compacted(StoreError):
    """A revision is wanted that the datastore has no longer."""


@dataclass(frozen=True)
class Row:
    """A key's value, and the revision that last changed it."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True)
class Page:
    """Rows by key, the revision of which they are, and how many there are behind them."""

    rows: list[Row]
    revision: int
    more: int


class Store(Protocol):
    """What the API needs of a datastore. All raise StoreError."""

    def page(self, prefix: str, start: str = "", limit: int = 0, revision: int = 0) -> Page:
        """The rows below a prefix from a key on, all or so many, as they are or were at a revision; Compacted."""

    def below(self, prefix: str) -> list[Row]:
        """All rows below a prefix, by key."""

    def get(self, key: str) -> Row | None: ...

    def create(self, key: str, value: bytes) -> int | None:
        """Write a new key and return its revision, None if it is there."""

    def update(self, key: str, value: bytes, revision: int) -> int | None:
        """Write a key that has that revision; None if it has another one."""

    def delete(self, key: str, revision: int | None = None) -> bool:
        """Delete a key, if it has that revision."""

    def check(self) -> None:
        """Return if the datastore answers within two seconds."""


def text64(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def after(prefix: str) -> str:
    """The first key that has no such prefix any more."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


class Etcd:
    """etcd's API, as its gateway gives it by HTTP. A connection a thread."""

    PAGE = 200

    def __init__(self, address: str, context: ssl.SSLContext | None, port: int = 2379) -> None:
        self.address, self.port, self.context = address, port, context
        self.local = threading.local()

    def connection(self, limit: float) -> http.client.HTTPConnection:
        made: http.client.HTTPConnection | None = getattr(self.local, "connection", None)
        if made is None:
            if self.context:
                made = http.client.HTTPSConnection(self.address, self.port, timeout=limit, context=self.context)
            else:
                made = http.client.HTTPConnection(self.address, self.port, timeout=limit)
            self.local.connection = made
        made.timeout = limit
        if made.sock:
            made.sock.settimeout(limit)
        return made

    def call(self, path: str, body: Json | None = None, limit: float = 8.0) -> Json:
        """POST to etcd's gateway; StoreError with etcd's words."""
        data = json.dumps(body or {}).encode()
        for attempt in (0, 1):
            connection = self.connection(limit)
            kept = connection.sock is not None
            try:
                connection.request("POST", f"/v3/{path}", data, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if attempt or not kept or isinstance(error, TimeoutError):  # a kept connection may have been closed
                    raise StoreError(f"etcd at {self.address}: {error}") from error
        try:
            found: Json = json.loads(content)
        except ValueError as error:
            raise StoreError(f"etcd at {self.address}: {content[:200]!r}") from error
        if answer.status != 200:
            said = str(found.get("error") or found.get("message") or found)
            raise Compacted(said) if "has been compacted" in said else StoreError(said)
        return found

    def rows(self, answer: Json) -> list[Row]:
        return [
            Row(base64.b64decode(kv["key"]).decode(), base64.b64decode(kv.get("value", "")), int(kv["mod_revision"]))
            for kv in answer.get("kvs", [])
        ]

    def page(self, prefix: str, start: str = "", limit: int = 0, revision: int = 0) -> Page:
        found: list[Row] = []
        start = start or prefix
        while True:  # a few at a time: the gateway takes no answer above 4 MB from etcd
            size = min(self.PAGE, limit - len(found)) if limit else self.PAGE
            body = {"key": text64(start), "range_end": text64(after(prefix)), "limit": size, "revision": str(revision)}
            answer = self.call("kv/range", body)
            revision = revision or int(answer["header"]["revision"])
            rows = self.rows(answer)
            found += rows
            more = int(answer.get("count", "0")) - len(rows)
            if more <= 0 or (limit and len(found) >= limit):
                return Page(found, revision, max(0, more))
            start = rows[-1].key + "\0"

    def below(self, prefix: str) -> list[Row]:
        return self.page(prefix).rows

    def get(self, key: str) -> Row | None:
        found = self.rows(self.call("kv/range", {"key": text64(key)}))
        return found[0] if found else None

    def transaction(self, key: str, compare: Json, request: Json) -> Json:
        compare = {"key": text64(key), "result": "EQUAL", **compare}
        return self.call("kv/txn", {"compare": [compare], "success": [request]})

    def create(self, key: str, value: bytes) -> int | None:
        return self.update(key, value, 0)

    def update(self, key: str, value: bytes, revision: int) -> int | None:
        put = {"request_put": {"key": text64(key), "value": text64(value)}}
        answer = self.transaction(key, {"target": "MOD", "mod_revision": str(revision)}, put)
        return int(answer["header"]["revision"]) if answer.get("succeeded") else None

    def delete(self, key: str, revision: int | None = None) -> bool:
        compare: Json = {"target": "MOD", "mod_revision": str(revision)}
        if revision is None:
            compare = {"target": "VERSION", "result": "GREATER", "version": "0"}
        return bool(self.transaction(key, compare, {"request_delete_range": {"key": text64(key)}}).get("succeeded"))

    def put(self, key: str, value: bytes) -> None:
        self.call("kv/put", {"key": text64(key), "value": text64(value)})

    def check(self) -> None:
        self.call("kv/range", {"key": text64("/registry/health")}, limit=2)

    def members(self) -> list[Json]:
        return list(self.call("cluster/member/list").get("members", []))

    def status(self) -> Json:
        return self.call("maintenance/status", limit=3)

    def leads(self) -> bool:
        status = self.status()
        return bool(status.get("leader", "0") == status["header"]["member_id"])

    def close(self) -> None:
        made = getattr(self.local, "connection", None)
        if made:
            made.close()


KINE = """
CREATE TABLE IF NOT EXISTS kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER, created INTEGER, deleted INTEGER,
 create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB, old_value BLOB);
CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name);
CREATE INDEX IF NOT EXISTS kine_name_id_index ON kine (name,id);
CREATE INDEX IF NOT EXISTS kine_id_deleted_index ON kine (id,deleted);
CREATE INDEX IF NOT EXISTS kine_prev_revision_index ON kine (prev_revision);
CREATE UNIQUE INDEX IF NOT EXISTS kine_name_prev_revision_uindex ON kine (name, prev_revision);
"""
LAST = "SELECT id, deleted, create_revision, value FROM kine WHERE name = ? ORDER BY id DESC LIMIT 1"
LIVE = """FROM kine k JOIN (SELECT MAX(id) AS id FROM kine WHERE name >= ? AND name < ? AND id <= ? GROUP BY name) last
 ON k.id = last.id WHERE k.deleted = 0"""
ADD = """INSERT INTO kine(name, created, deleted, create_revision, prev_revision, lease, value, old_value)
 VALUES (?, ?, ?, ?, ?, 0, ?, ?)"""


class Sqlite:
    """A SQLite file in kine's schema: each change is a row, the last one of a name is its state.

    WAL, as kine has it: what was written lately is in state.db-wal and not in state.db.
    """

    COMPACT_EVERY = 1000

    def __init__(self, path: Path) -> None:
        import sqlite3

        self.errors = sqlite3.Error
        self.lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.executescript(KINE)
        except self.errors as error:
            raise Fatal(f"building kine: {error}") from error
        self.changes = 0
        self.create("compact_rev_key", b"")
        self.create("/registry/health", b'{"health":"true"}')

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Any]:
        with self.lock:
            try:
                self.db.execute("BEGIN IMMEDIATE")
                yield self.db
                self.db.execute("COMMIT")
            except self.errors as error:
                with contextlib.suppress(self.errors):
                    self.db.execute("ROLLBACK")
                raise StoreError(str(error)) from error
        self.changes += 1
        if self.changes % self.COMPACT_EVERY == 0:
            self.compact()

    def compact(self) -> None:
        """Drop what was overwritten, or deleted, more than a thousand changes ago."""
        with self.transaction() as db:
            (newest,) = db.execute("SELECT MAX(id) FROM kine").fetchone()
            old = newest - self.COMPACT_EVERY
            db.execute(
                "DELETE FROM kine WHERE id <= ? AND (deleted = 1 OR id IN (SELECT prev_revision FROM kine"
                " WHERE name != 'compact_rev_key' AND prev_revision != 0 AND id <= ?)) AND name != 'compact_rev_key'",
                (old, old),
            )
            db.execute("UPDATE kine SET prev_revision = ? WHERE name = 'compact_rev_key'", (max(0, old),))

    def page(self, prefix: str, start: str = "", limit: int = 0, revision: int = 0) -> Page:
        with self.lock:
            try:
                ((newest, compacted),) = self.db.execute(
                    "SELECT MAX(id), (SELECT prev_revision FROM kine WHERE name = 'compact_rev_key') FROM kine"
                ).fetchall()
                if revision and revision < compacted:
                    raise Compacted("etcdserver: mvcc: required revision has been compacted")
                place = (start or prefix, after(prefix), revision or newest)
                rows = self.db.execute(
                    f"SELECT k.name, k.value, k.id {LIVE} ORDER BY k.name LIMIT ?", (*place, limit or -1)
                ).fetchall()
                full = limit and len(rows) == limit
                count = self.db.execute(f"SELECT COUNT(*) {LIVE}", place).fetchone()[0] if full else len(rows)
            except self.errors as error:
                raise StoreError(str(error)) from error
        found = [Row(name, bytes(value or b""), number) for name, value, number in rows]
        return Page(found, place[2], count - len(found))

    def below(self, prefix: str) -> list[Row]:
        return self.page(prefix).rows

    def get(self, key: str) -> Row | None:
        with self.lock:
            try:
                last = self.db.execute(LAST, (key,)).fetchone()
            except self.errors as error:
                raise StoreError(str(error)) from error
        return Row(key, bytes(last[3] or b""), last[0]) if last and not last[1] else None

    def create(self, key: str, value: bytes) -> int | None:
        with self.transaction() as db:
            last = db.execute(LAST, (key,)).fetchone()
            if last and not last[1]:
                return None
            return int(db.execute(ADD, (key, 1, 0, 0, last[0] if last else 0, value, None)).lastrowid)

    def update(self, key: str, value: bytes, revision: int) -> int | None:
        with self.transaction() as db:
            last = db.execute(LAST, (key,)).fetchone()
            if not last or last[1] or last[0] != revision:
                return None
            return int(db.execute(ADD, (key, 0, 0, last[2] or last[0], last[0], value, last[3])).lastrowid)

    def delete(self, key: str, revision: int | None = None) -> bool:
        with self.transaction() as db:
            last = db.execute(LAST, (key,)).fetchone()
            if not last or last[1] or revision not in (None, last[0]):
                return False
            db.execute(ADD, (key, 0, 1, last[2] or last[0], last[0], last[3], last[3]))
            return True

    def check(self) -> None:
        self.get("/registry/health")

    def close(self) -> None:
        with self.lock:
            self.db.close()


# The API: the paths of Kubernetes over the datastore


@dataclass(frozen=True)
class Resource:
    """A kind as kubectl and the API name it."""

    plural: str
    kind: str
    version: str
    namespaced: bool = True
    short: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        return self.version.rpartition("/")[0]

    @property
    def title(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "", name: str = "") -> str:
        base = f"/apis/{self.version}" if self.group else f"/api/{self.version}"
        where = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        return f"{base}{where}/{self.plural}" + (f"/{urllib.parse.quote(name)}" if name else "")


RESOURCES = [
    Resource("nodes", "Node", "v1", False, ("no",)),
    Resource("pods", "Pod", "v1", True, ("po",)),
    Resource("namespaces", "Namespace", "v1", False, ("ns",)),
    Resource("secrets", "Secret", "v1"),
    Resource("configmaps", "ConfigMap", "v1", True, ("cm",)),
    Resource("services", "Service", "v1", True, ("svc",)),
    Resource("endpoints", "Endpoints", "v1", True, ("ep",)),
    Resource("serviceaccounts", "ServiceAccount", "v1", True, ("sa",)),
    Resource("events", "Event", "v1", True, ("ev",)),
    Resource("replicationcontrollers", "ReplicationController", "v1", True, ("rc",)),
    Resource("componentstatuses", "ComponentStatus", "v1", False, ("cs",)),
    Resource("persistentvolumes", "PersistentVolume", "v1", False, ("pv",)),
    Resource("persistentvolumeclaims", "PersistentVolumeClaim", "v1", True, ("pvc",)),
    Resource("deployments", "Deployment", "apps/v1", True, ("deploy",)),
    Resource("replicasets", "ReplicaSet", "apps/v1", True, ("rs",)),
    Resource("statefulsets", "StatefulSet", "apps/v1", True, ("sts",)),
    Resource("daemonsets", "DaemonSet", "apps/v1", True, ("ds",)),
    Resource("jobs", "Job", "batch/v1"),
    Resource("cronjobs", "CronJob", "batch/v1", True, ("cj",)),
    Resource("leases", "Lease", "coordination.k8s.io/v1"),
    Resource("poddisruptionbudgets", "PodDisruptionBudget", "policy/v1", True, ("pdb",)),
    Resource("storageclasses", "StorageClass", "storage.k8s.io/v1", False, ("sc",)),
    Resource("ingresses", "Ingress", "networking.k8s.io/v1", True, ("ing",)),
    Resource("networkpolicies", "NetworkPolicy", "networking.k8s.io/v1", True, ("netpol",)),
    Resource("priorityclasses", "PriorityClass", "scheduling.k8s.io/v1", False, ("pc",)),
    Resource("roles", "Role", "rbac.authorization.k8s.io/v1"),
    Resource("rolebindings", "RoleBinding", "rbac.authorization.k8s.io/v1"),
    Resource("clusterroles", "ClusterRole", "rbac.authorization.k8s.io/v1", False),
    Resource("clusterrolebindings", "ClusterRoleBinding", "rbac.authorization.k8s.io/v1", False),
    Resource("customresourcedefinitions", "CustomResourceDefinition", "apiextensions.k8s.io/v1", False, ("crd",)),
    Resource("apiservices", "APIService", "apiregistration.k8s.io/v1", False),
    Resource("events", "Event", "events.k8s.io/v1", True, ("ev",)),
    Resource("nodes", "NodeMetrics", "metrics.k8s.io/v1beta1", False),
    Resource("pods", "PodMetrics", "metrics.k8s.io/v1beta1"),
    Resource("addons", "Addon", "k3s.cattle.io/v1"),
    Resource("etcdsnapshotfiles", "ETCDSnapshotFile", "k3s.cattle.io/v1", False),
    Resource("helmcharts", "HelmChart", "helm.cattle.io/v1"),
    Resource("helmchartconfigs", "HelmChartConfig", "helm.cattle.io/v1"),
]
BY_PLURAL = {resource.plural: resource for resource in reversed(RESOURCES)}  # the first of a name is what it means
BY_TITLE = {resource.title: resource for resource in RESOURCES}
NODES, PODS, SECRETS = BY_PLURAL["nodes"], BY_PLURAL["pods"], BY_PLURAL["secrets"]
STORED_AS = {  # where Kubernetes keeps them under another name
    "nodes": "minions", "services": "services/specs", "endpoints": "services/endpoints",
    "replicationcontrollers": "controllers", "ingresses.networking.k8s.io": "ingress",
    "apiservices.apiregistration.k8s.io": "apiregistration.k8s.io/apiservices",
    "customresourcedefinitions.apiextensions.k8s.io": "apiextensions.k8s.io/customresourcedefinitions",
}  # fmt: skip
NOT_STORED = {"componentstatuses", "nodes.metrics.k8s.io", "pods.metrics.k8s.io"}  # what a list of them shows is made
CUSTOM = [resource for resource in RESOURCES if resource.group.endswith(".cattle.io")]  # k3s's own, by definitions
SUBRESOURCES = (  # and what cannot be listed, as discovery names them: (name, namespaced, kind, verbs)
    ("bindings", True, "Binding", ("create",)), ("namespaces/finalize", False, "Namespace", ("update",)),
    ("namespaces/status", False, "Namespace", ("get", "patch", "update")),
    ("nodes/status", False, "Node", ("get", "patch", "update")),
    ("pods/eviction", True, "Eviction", ("create",)), ("pods/log", True, "Pod", ("get",)),
    ("pods/status", True, "Pod", ("get", "patch", "update")),
)  # fmt: skip
VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


def definition(resource: Resource) -> Json:
    """The CustomResourceDefinition by which a cluster has a resource."""
    names = {
        "plural": resource.plural, "singular": resource.kind.lower(), "kind": resource.kind,
        "listKind": f"{resource.kind}List", "shortNames": list(resource.short),
    }  # fmt: skip
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": resource.version.rpartition("/")[2], "served": True, "storage": True, "schema": schema}
    scope = "Namespaced" if resource.namespaced else "Cluster"
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.title},
        "spec": {"group": resource.group, "names": names, "scope": scope, "versions": [version]},
    }  # fmt: skip


def defined(item: Json) -> Iterator[Resource]:
    """The resources of a CustomResourceDefinition, one a version that is served."""
    spec, names = item["spec"], at(item, "spec.names") or {}
    for version in spec.get("versions") or []:
        if version.get("served", True):
            short = tuple(names.get("shortNames") or ())
            where = f"{spec['group']}/{version['name']}"
            yield Resource(names["plural"], names["kind"], where, spec.get("scope") != "Cluster", short)


class Discovery:
    """What the API says that it has, of a number of resources."""

    def __init__(self, resources: Iterable[Resource]) -> None:
        self.versions: dict[str, list[Resource]] = {}
        for resource in resources:
            self.versions.setdefault(resource.version, []).append(resource)

    @staticmethod
    def meant(path: str) -> bool:
        """Whether a path is /api, /api/v1, /apis, /apis/GROUP or /apis/GROUP/VERSION, and names no resource."""
        parts = path.strip("/").split("/")
        return len(parts) <= {"api": 2, "apis": 3}.get(parts[0], 0)

    def find(self, path: str) -> Json:
        """What such a path answers; ApiError for what is not there."""
        match path.strip("/").split("/"):
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
            case ["api", version] if version in self.versions:
                return self.listed(version)
            case ["apis"]:
                return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [*map(self.group, self.groups())]}
            case ["apis", group] if group in self.groups():
                return {"kind": "APIGroup", "apiVersion": "v1", **self.group(group)}
            case ["apis", group, version] if f"{group}/{version}" in self.versions:
                return self.listed(f"{group}/{version}")
        raise ApiError(404, "NotFound", "the server could not find the requested resource")

    def groups(self) -> list[str]:
        return list(dict.fromkeys(version.partition("/")[0] for version in self.versions if "/" in version))

    def group(self, name: str) -> Json:
        made = [
            {"groupVersion": version, "version": version.partition("/")[2]}
            for version in self.versions
            if version.partition("/")[0] == name
        ]
        return {"name": name, "versions": made, "preferredVersion": made[0]}

    def listed(self, version: str) -> Json:
        resources: list[Json] = []
        for each in self.versions[version]:
            verbs = ["get", "list"] if each.title in NOT_STORED else list(VERBS)
            item: Json = {
                "name": each.plural, "singularName": each.kind.lower(), "namespaced": each.namespaced,
                "kind": each.kind, "verbs": verbs,
            }  # fmt: skip
            resources.append(item | ({"shortNames": list(each.short)} if each.short else {}))
        for name, namespaced, kind, allowed in SUBRESOURCES if version == "v1" else ():
            resources.append(
                {"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": list(allowed)}
            )
        resources.sort(key=lambda item: str(item["name"]))
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


class ApiError(Exception):
    """A Status that says Failure."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message

    def status(self) -> Json:
        return {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
            "reason": self.reason, "code": self.code,
        }  # fmt: skip


UNAVAILABLE = "the server is currently unable to handle the request"


@dataclass(frozen=True)
class Where:
    """What a path of the API names."""

    version: str
    namespace: str
    plural: str
    name: str
    sub: str

    @classmethod
    def parse(cls, path: str) -> Where:
        parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "api" and len(parts) > 2:
            version, rest = parts[1], parts[2:]
        elif parts[0] == "apis" and len(parts) > 3:
            version, rest = "/".join(parts[1:3]), parts[3:]
        else:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
            namespace, rest = rest[1], rest[2:]
        name, sub = [*rest, "", ""][1:3]
        return cls(version, namespace, rest[0], name, sub)

    @property
    def title(self) -> str:
        group = self.version.rpartition("/")[0]
        return f"{self.plural}.{group}" if group else self.plural

    @property
    def prefix(self) -> str:
        group = self.version.rpartition("/")[0]
        known = BY_TITLE.get(self.title)
        built_in = "." not in group or (known is not None and known not in CUSTOM)
        base = STORED_AS.get(self.title) or (self.plural if built_in else f"{group}/{self.plural}")
        return f"/registry/{base}/" + (f"{self.namespace}/" if self.namespace else "")

    @property
    def key(self) -> str:
        return self.prefix + self.name

    def missing(self) -> ApiError:
        return ApiError(404, "NotFound", f'{self.title} "{self.name}" not found')

    def mark(self, revision: int, last: str) -> str:
        """How a list says where it goes on: behind a key, as of a revision."""
        start = last.removeprefix(self.prefix) + "\0"
        text = json.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": start}, separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def marked(self, text: str) -> tuple[str, int]:
        """Where a list goes on: the first key, and the revision."""
        try:
            found = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            return self.prefix + str(found["start"]), int(found["rv"])
        except (ValueError, KeyError, TypeError) as error:
            raise ApiError(400, "BadRequest", f"continue key is not valid: {error}") from error


class Caller(Protocol):
    """The API, in this process or over the network."""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return what it answers; raise ApiError."""


def labels_fit(labels: Mapping[str, str], selector: str) -> bool:
    """Whether labels have all of KEY=VALUE, KEY!=VALUE, KEY, !KEY, that a selector names."""
    for term in filter(None, selector.split(",")):
        key, equals, value = term.replace("==", "=").partition("=")
        if key.startswith("!"):
            fits = key[1:] not in labels
        elif key.endswith("!"):
            fits = labels.get(key[:-1]) != value
        else:
            fits = key in labels and (not equals or labels[key] == value)
        if not fits:
            return False
    return True


def at(value: Any, path: str) -> Any:
    """The value at a.b.c in nested maps, None if there is none."""
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def fields_fit(item: Json, selector: str) -> bool:
    """Whether an object has all of PATH=VALUE, PATH!=VALUE."""
    for term in filter(None, selector.split(",")):
        key, _, value = term.replace("==", "=").partition("=")
        if (str(at(item, key.rstrip("!")) or "") == value) == key.endswith("!"):
            return False
    return True


def merged(base: Any, patch: Any) -> Any:
    """A JSON merge patch: None removes, maps merge, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class Api:
    """The API over a datastore, in this process."""

    def __init__(self, store: Store, cipher: Cipher | None = None) -> None:
        self.store = store
        self.cipher = cipher or Cipher(None)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        place, _, query = path.partition("?")
        if method == "GET" and Discovery.meant(place):
            return self.discovery().find(place)
        where = Where.parse(place)
        try:
            if method == "GET":
                return self.read(where, dict(urllib.parse.parse_qsl(query)))
            if method == "POST":
                return self.evict(where) if where.sub == "eviction" else self.create(where, body)
            if method in ("PUT", "PATCH"):
                return self.change(where, body, patch=method == "PATCH")
            if method == "DELETE":
                return self.delete(where, dict(urllib.parse.parse_qsl(query)) | (body or {}))
        except Compacted as error:
            text = "The provided continue parameter is too old to display a consistent list result."
            raise ApiError(410, "Expired", text) from error
        except StoreError as error:
            raise ApiError(500, "InternalError", str(error)) from error
        raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")

    def discovery(self) -> Discovery:
        """What this API has: its own resources, and those that are defined in the cluster."""
        try:
            found = self.store.below(Where("apiextensions.k8s.io/v1", "", "customresourcedefinitions", "", "").prefix)
        except StoreError as error:
            raise ApiError(503, "ServiceUnavailable", UNAVAILABLE) from error
        own = [each for each in RESOURCES if each not in CUSTOM]
        return Discovery([*own, *(each for row in found for each in defined(json.loads(row.value)))])

    def load(self, where: Where, row: Row) -> Json:
        item: Json = json.loads(self.cipher.open(row.key, row.value))
        item["metadata"]["resourceVersion"] = str(row.revision)
        return item

    def dump(self, where: Where, item: Json) -> bytes:
        item = {**item, "metadata": {k: v for k, v in item["metadata"].items() if k != "resourceVersion"}}
        return self.cipher.seal(where.key, json.dumps(item, separators=(",", ":")).encode())

    def read(self, where: Where, query: Mapping[str, str]) -> Json:
        if where.name:
            row = self.store.get(where.key)
            if not row:
                raise where.missing()
            return self.load(where, row)
        items, meta = self.made(where) if where.title in NOT_STORED else self.listed(where, query)
        kind = BY_TITLE[where.title].kind if where.title in BY_TITLE else ""
        kind = kind or (items[0]["kind"] if items else "")
        return {"apiVersion": where.version, "kind": f"{kind}List", "metadata": meta, "items": items}

    def listed(self, where: Where, query: Mapping[str, str]) -> tuple[list[Json], Json]:
        """The objects of a list, or the next ones of them, and its metadata."""
        limit = int(query.get("limit") or 0)
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        start, revision = where.marked(query["continue"]) if query.get("continue") else ("", 0)
        items: list[Json] = []
        while True:
            page = self.store.page(where.prefix, start, limit - len(items) if limit else 0, revision)
            revision = page.revision
            for row in page.rows:
                item = self.load(where, row)
                if labels_fit(item["metadata"].get("labels") or {}, labels) and fields_fit(item, fields):
                    items.append(item)
            if not page.more or len(items) >= limit:
                break
            start = page.rows[-1].key + "\0"
        meta: Json = {"resourceVersion": str(revision)}
        if page.more:
            meta["continue"] = where.mark(revision, page.rows[-1].key)
            if not labels and not fields:  # else nobody knows
                meta["remainingItemCount"] = page.more
        return items, meta

    def made(self, where: Where) -> tuple[list[Json], Json]:
        """A list of what is in no datastore: the health of components, the metrics of nodes and pods."""
        version, now = where.version, stamp()
        if where.plural == "componentstatuses":
            fine = [{"type": "Healthy", "status": "True", "message": "ok"}]
            names = ("controller-manager", "etcd-0", "scheduler")
            return [
                {"apiVersion": version, "kind": "ComponentStatus", "metadata": {"name": name}, "conditions": fine}
                for name in names
            ], {}
        items: list[Json] = []
        for each in self.read(Where("v1", where.namespace, where.plural, "", ""), {})["items"]:
            meta = {key: each["metadata"][key] for key in ("name", "namespace") if key in each["metadata"]}
            usage = {"cpu": "1m", "memory": "1Mi"}
            what = {"usage": usage} if where.plural == "nodes" else {"containers": [{"name": "c", "usage": usage}]}
            kind = BY_TITLE[where.title].kind
            items.append({"apiVersion": version, "kind": kind, "metadata": meta, "timestamp": now, **what})
        return items, {}

    def create(self, where: Where, body: Json) -> Json:
        item = json.loads(json.dumps(body))
        meta = item.setdefault("metadata", {})
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + secrets.token_hex(3)[:5]
        if not meta.get("name"):
            raise ApiError(422, "Invalid", f"{item.get('kind')} is invalid: metadata.name: Required value")
        where = Where(where.version, where.namespace, where.plural, meta["name"], "")
        if where.namespace:
            if not self.store.get(f"/registry/namespaces/{where.namespace}"):
                raise ApiError(404, "NotFound", f'namespaces "{where.namespace}" not found')
            meta["namespace"] = where.namespace
        if where.plural == "persistentvolumes":
            self.hang()
            item.pop("status", None)  # which is not its maker's to say
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = stamp()
        self.defaults(item)
        revision = self.store.create(where.key, self.dump(where, item))
        if revision is None:
            raise ApiError(409, "AlreadyExists", f'{where.title} "{where.name}" already exists')
        meta["resourceVersion"] = str(revision)
        return dict(item)

    def hang(self) -> None:
        """While the fault volumes_hang is on, no volume is made, and who wants one waits; none is made afterwards."""
        hung = False
        while fault("volumes_hang") is not None:
            hung = True
            time.sleep(0.1)
        if hung:
            raise ApiError(503, "ServiceUnavailable", UNAVAILABLE)

    def defaults(self, item: Json) -> None:
        """What the API server itself adds."""
        kind = item.get("kind")
        if kind == "Namespace":
            item["spec"] = {"finalizers": ["kubernetes"]}
            item["status"] = {"phase": "Active"}
            item["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = item["metadata"]["name"]
        elif kind in ("Pod", "PersistentVolumeClaim", "PersistentVolume"):
            item.setdefault("status", {}).setdefault("phase", "Pending")
        elif kind == "Secret":
            item.setdefault("type", "Opaque")
            for key, value in item.pop("stringData", {}).items():
                item.setdefault("data", {})[key] = text64(value)

    def ends(self, where: Where, item: Json) -> bool:
        """Whether an object that is being deleted has nothing left that holds it. Pods wait for their node."""
        return gone(item) and not item["metadata"].get("finalizers") and where.plural != "pods"

    def changed(self, old: Json, body: Json, patch: bool) -> Json:
        """What an object would be: who it is stays."""
        item: Json = merged(old, body) if patch else json.loads(json.dumps(body))
        for name in ("uid", "creationTimestamp", "name", "namespace", "deletionTimestamp"):
            if name in old["metadata"]:
                item["metadata"][name] = old["metadata"][name]
        affinity = at(old, "spec.nodeAffinity")
        if old.get("kind") == "PersistentVolume" and affinity and at(item, "spec.nodeAffinity") != affinity:
            raise ApiError(
                422, "Invalid", f'PersistentVolume "{old["metadata"]["name"]}" is invalid: spec.nodeAffinity: Invalid '
                "value: field is immutable, except for updating from beta label to GA",
            )  # fmt: skip
        return item

    def change(self, where: Where, body: Json, patch: bool) -> Json:
        for _ in range(20):
            row = self.store.get(where.key)
            if not row:
                raise where.missing()
            old = self.load(where, row)
            wanted = at(body, "metadata.resourceVersion")
            if wanted and wanted != old["metadata"]["resourceVersion"]:
                break
            item = self.changed(old, body, patch)
            if item.get("kind") == "Secret":
                self.defaults(item)
            if self.ends(where, item) and self.store.delete(where.key, row.revision):
                return dict(item)
            if self.dump(where, item) == self.dump(where, old):
                return old
            revision = self.store.update(where.key, self.dump(where, item), row.revision)
            if revision is not None:
                item["metadata"]["resourceVersion"] = str(revision)
                return dict(item)
            if wanted:
                break
        raise ApiError(
            409, "Conflict", f'Operation cannot be fulfilled on {where.title} "{where.name}": the object has been '
            "modified; please apply your changes to the latest version and try again",
        )  # fmt: skip

    def delete(self, where: Where, options: Mapping[str, Any]) -> Json:
        for _ in range(20):
            row = self.store.get(where.key)
            if not row:
                raise where.missing()
            item = self.load(where, row)
            at_once = str(options.get("gracePeriodSeconds", "")) == "0"
            waits = bool(item["metadata"].get("finalizers"))
            if where.plural == "pods":  # the node that runs it confirms
                waits = waits or (bool(at(item, "spec.nodeName")) and not at_once)
            if not waits:
                if where.plural == "namespaces":
                    self.empty(where.name)
                if self.store.delete(where.key, row.revision):
                    return item
            elif item["metadata"].get("deletionTimestamp"):
                return item
            else:
                item["metadata"]["deletionTimestamp"] = stamp()
                if self.store.update(where.key, self.dump(where, item), row.revision):
                    return item
        raise ApiError(409, "Conflict", f'{where.title} "{where.name}" is changed all the time')

    def empty(self, namespace: str) -> None:
        """Delete all that is in a namespace."""
        for row in self.store.below("/registry/"):
            if f"/{namespace}/" in row.key and row.key.count("/") > 3:
                with contextlib.suppress(ValueError, KeyError):
                    if json.loads(self.cipher.open(row.key, row.value))["metadata"].get("namespace") == namespace:
                        self.store.delete(row.key)

    def evict(self, where: Where) -> Json:
        """Delete a pod, unless a PodDisruptionBudget forbids it."""
        pod = self.read(where, {})
        labels = pod["metadata"].get("labels") or {}
        pods = self.read(Where("v1", where.namespace, "pods", "", ""), {})["items"]
        for budget in self.read(Where("policy/v1", where.namespace, "poddisruptionbudgets", "", ""), {})["items"]:
            chosen = at(budget, "spec.selector.matchLabels") or {}
            if not all(labels.get(key) == value for key, value in chosen.items()):
                continue
            fitting = [
                p for p in pods if all((p["metadata"].get("labels") or {}).get(k) == v for k, v in chosen.items())
            ]
            healthy = [p for p in fitting if at(p, "status.phase") == "Running" and not gone(p)]
            if len(healthy) - 1 < needed(budget["spec"], len(fitting)):
                raise ApiError(
                    429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget."
                )
        self.delete(where, {})
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def needed(spec: Json, total: int) -> int:
    """How many pods a disruption budget wants to live, of a total."""

    def number(value: Any) -> int:
        text = str(value)
        return -(-total * int(text[:-1]) // 100) if text.endswith("%") else int(text)

    if "minAvailable" in spec:
        return number(spec["minAvailable"])
    return total - number(spec.get("maxUnavailable", 1))


def gone(item: Json) -> bool:
    return bool(item["metadata"].get("deletionTimestamp"))


class Cipher:
    """secrets-encryption of Secrets, as Kubernetes stores them with aescbc and secretbox."""

    def __init__(self, config: Path | None) -> None:
        self.provider, self.key, self.name = "", b"", ""
        if config and config.exists():
            first = json.loads(config.read_text())["resources"][0]["providers"][0]
            self.provider, details = next(iter(first.items()))
            if self.provider != "identity":
                self.name = details["keys"][0]["name"]
                self.key = base64.b64decode(details["keys"][0]["secret"])

    @property
    def mark(self) -> bytes:
        return f"k8s:enc:{self.provider}:v1:{self.name}:".encode()

    def seal(self, key: str, plain: bytes) -> bytes:
        if not self.key or not key.startswith("/registry/secrets/"):
            return plain
        if self.provider == "aescbc":
            from cryptography.hazmat.primitives.ciphers import Cipher as Block
            from cryptography.hazmat.primitives.ciphers import algorithms, modes

            salt, pad = secrets.token_bytes(16), 16 - len(plain) % 16
            encryptor = Block(algorithms.AES(self.key), modes.CBC(salt)).encryptor()
            return self.mark + salt + bytes(encryptor.update(plain + bytes([pad]) * pad) + encryptor.finalize())
        from nacl.secret import SecretBox

        return self.mark + bytes(SecretBox(self.key).encrypt(plain))  # 24 bytes of nonce, then the box

    def open(self, key: str, value: bytes) -> bytes:
        if not value.startswith(b"k8s:enc:"):
            return value
        if not self.key or not value.startswith(self.mark):
            raise StoreError(f"no matching prefix found: {key} is encrypted with another key")
        body = value[len(self.mark) :]
        if self.provider == "aescbc":
            from cryptography.hazmat.primitives.ciphers import Cipher as Block
            from cryptography.hazmat.primitives.ciphers import algorithms, modes

            decryptor = Block(algorithms.AES(self.key), modes.CBC(body[:16])).decryptor()
            plain = bytes(decryptor.update(body[16:]) + decryptor.finalize())
            return plain[: -plain[-1]]
        from nacl.exceptions import CryptoError
        from nacl.secret import SecretBox

        try:
            return bytes(SecretBox(self.key).decrypt(body))
        except CryptoError as error:
            raise StoreError(f"{key}: output array was not large enough for encryption") from error


# Calling a server over the network


@dataclass
class Link:
    """One connection to a server, made when it is needed and kept."""

    address: str
    port: int
    context: ssl.SSLContext
    authorization: str = ""
    limit: float = 8.0
    connection: http.client.HTTPSConnection | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def to(cls, url: str, context: ssl.SSLContext, user: tuple[str, str] | None = None, limit: float = 8.0) -> Link:
        parts = urllib.parse.urlsplit(url)
        basic = "Basic " + text64(":".join(user)) if user else ""
        return cls(parts.hostname or "", parts.port or 443, context, basic, limit)

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and content; OSError if the server cannot be reached or does not answer."""
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        if self.authorization:
            sent["Authorization"] = self.authorization
        with self.lock:
            for attempt in (0, 1):
                kept = self.connection is not None
                if self.connection is None:
                    self.connection = http.client.HTTPSConnection(
                        self.address, self.port, timeout=self.limit, context=self.context
                    )
                try:
                    self.connection.request(method, path, data, sent)
                    answer = self.connection.getresponse()
                    return answer.status, answer.read()
                except (OSError, http.client.HTTPException) as error:
                    self.connection.close()
                    self.connection = None
                    if attempt or not kept or isinstance(error, TimeoutError):
                        raise error if isinstance(error, OSError) else OSError(str(error) or "EOF") from error
        raise AssertionError

    def call(self, method: str, path: str, body: Any = None) -> Any:
        status, content = self.request(method, path, body)
        return parse_answer(status, content)


def parse_answer(status: int, content: bytes) -> Any:
    """What the API answered; ApiError if it is a failure."""
    try:
        found = json.loads(content)
    except ValueError:
        found = content.decode(errors="replace")
    if status < 400:
        return found
    if isinstance(found, dict) and found.get("kind") == "Status":
        raise ApiError(status, found.get("reason", ""), found.get("message", ""))
    raise ApiError(status, "", str(found).strip())


def insecure_context() -> ssl.SSLContext:
    """To ask for the CA, before it is known."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fetch_ca(url: str, token: Token, limit: float = 8.0) -> bytes:
    """The cluster's CA, checked against the token; OSError if there is no server, Fatal if it is another cluster's."""
    try:
        status, content = Link.to(url, insecure_context(), limit=limit).request("GET", "/cacerts")
    except OSError as error:
        raise OSError(f'failed to get CA certs: Get "{url}/cacerts": {dial_error(url, error)}') from error
    if status != 200:
        raise OSError(f"failed to get CA certs: {url}/cacerts: {status} {http.client.responses.get(status, '')}")
    token.check_ca(content)
    return content


def dial_error(url: str, error: OSError) -> str:
    """An error of a connection in Go's words."""
    parts = urllib.parse.urlsplit(url)
    if isinstance(error, ConnectionRefusedError):
        return f"dial tcp {parts.hostname}:{parts.port or 443}: connect: connection refused"
    if isinstance(error, TimeoutError):
        return "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {error.verify_message}"
    if error.errno:
        return f"dial tcp {parts.hostname}:{parts.port or 443}: connect: {os.strerror(error.errno).lower()}"
    return str(error)


# etcd as a child process


class EtcdProcess:
    """etcd on this host's data, dying with us."""

    REMOVED = (
        "permanently removed from the cluster",
        "the member has been removed",
        "data-dir used by this member must",
    )

    def __init__(self, host: Host, name: str) -> None:
        self.host, self.name = host, name
        self.process: subprocess.Popen[bytes] | None = None
        self.removed = False

    @property
    def peer_url(self) -> str:
        return f"https://{url_host(self.host.address)}:2380"

    def settings(self, cluster: str, state: str, reset: bool) -> Json:
        """etcd's config file."""
        own, loop, tls = url_host(self.host.address), url_host(self.host.loopback), self.host.tls / "etcd"

        def both(port: int) -> str:
            places = [loop] if reset else list(dict.fromkeys((loop, own)))
            return ",".join(f"https://{place}:{port}" for place in places)

        def transport(cert: str, ca: str) -> Json:
            return {
                "cert-file": str(tls / f"{cert}.crt"), "key-file": str(tls / f"{cert}.key"),
                "trusted-ca-file": str(tls / f"{ca}.crt"), "client-cert-auth": True,
            }  # fmt: skip

        made: Json = {
            "name": self.name, "data-dir": str(self.host.etcd), "logger": "zap", "log-level": "warn",
            "log-outputs": ["stderr"], "heartbeat-interval": 100, "election-timeout": 1000, "enable-v2": False,
            "enable-grpc-gateway": True,  # which is off for those who have a config file
            "listen-client-urls": both(2379), "listen-peer-urls": both(2380),
            "listen-metrics-urls": f"http://{loop}:2381", "advertise-client-urls": f"https://{own}:2379",
            "initial-advertise-peer-urls": self.peer_url,
            "client-transport-security": transport("server-client", "server-ca"),
            "peer-transport-security": transport("peer-server-client", "peer-ca"),
            "auto-compaction-mode": "periodic", "auto-compaction-retention": "5m", "quota-backend-bytes": 2 << 30,
        }  # fmt: skip
        if cluster:
            made |= {"initial-cluster": cluster, "initial-cluster-state": state}
        if reset:
            made["force-new-cluster"] = True
        return made

    def start(self, cluster: str = "", state: str = "new", reset: bool = False) -> None:
        """Start it. From the main thread: etcd dies with the thread that started it."""
        folder(self.host.etcd, 0o700)
        config = self.host.etcd / "config"
        write(config, json.dumps(self.settings(cluster or f"{self.name}={self.peer_url}", state, reset), indent=1))
        self.run(config)

    def run(self, config: Path) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "etcd", "--config-file", str(config)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ETCD")}
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )
        threading.Thread(target=self.listen, args=(self.process,), daemon=True).start()

    def listen(self, process: subprocess.Popen[bytes]) -> None:
        """Pass on what etcd says; note that it was removed."""
        assert process.stderr
        for line in process.stderr:
            text = line.decode(errors="replace").rstrip()
            if any(words in text for words in self.REMOVED):
                self.removed = True
            with contextlib.suppress(OSError):
                print(text, file=sys.stderr, flush=True)

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def stop(self) -> None:
        """End it, and wait for that."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def member_name(host: Host, new: bool = False) -> str:
    """This member's name, made at the first call, or when a new one is wanted."""
    path = host.etcd / "name"
    if not new and path.exists():
        return path.read_text().strip()
    name = f"{host.name}-{uuid.uuid4().hex[:8]}"
    folder(host.etcd, 0o700)
    write(path, name)
    return name


def set_aside(host: Host) -> Path:
    """Move etcd's data away, keeping a few of the old ones."""
    target = host.db / f"etcd-old-{int(time.time())}"
    number = 0
    while target.exists():
        number += 1
        target = host.db / f"etcd-old-{int(time.time()) + number}"
    host.etcd.rename(target)
    for old in sorted(host.db.glob("etcd-old-*"))[:-KEPT_BACKUPS]:
        shutil.rmtree(old, ignore_errors=True)
    return target


# Nodes


def node_password() -> str:
    """This host's password, made at the first call."""
    path = ETC / "node/password"
    if not path.exists():
        write(path, secrets.token_hex(16) + "\n")
    return path.read_text().strip()


PASSWORD_REJECTED = (
    f"Node password rejected, duplicate hostname or contents of '{ETC}/node/password' may not match server "
    "node-passwd entry, try enabling a unique node name with the --with-node-id flag"
)


def scrypt(password: str, salt: bytes) -> str:
    """A node password's hash as k3s writes it."""
    made = hashlib.scrypt(password.encode(), salt=salt, n=1 << 15, r=8, p=1, maxmem=1 << 26, dklen=64)
    return f"$1:{salt.hex()}:15:8:1:{base64.b64encode(made).decode().rstrip('=')}"


def password_secret(name: str) -> str:
    return SECRETS.path("kube-system", f"{name}.node-password.k3s".lower())


def ensure_password(api: Caller, name: str, password: str) -> None:
    """Note a new node's password; ApiError 403 if it is known by another one."""
    try:
        secret = api.call("GET", password_secret(name))
    except ApiError as error:
        if error.code != 404:
            raise
        body = {
            "apiVersion": "v1", "kind": "Secret", "immutable": True,
            "metadata": {"name": f"{name}.node-password.k3s".lower(), "namespace": "kube-system"},
            "data": {"hash": text64(scrypt(password, secrets.token_bytes(8)))},
        }  # fmt: skip
        api.call("POST", SECRETS.path("kube-system"), body)
        return
    known = base64.b64decode(secret["data"]["hash"]).decode()
    if scrypt(password, bytes.fromhex(known.split(":")[1])) != known:
        log(f"unable to verify hash for node '{name}': hash does not match", "error")
        raise ApiError(403, "Forbidden", PASSWORD_REJECTED)


def condition(kind: str, status: str, reason: str, message: str) -> Json:
    return {
        "type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": stamp(),
        "lastTransitionTime": stamp(),
    }  # fmt: skip


def with_condition(conditions: Sequence[Json], new: Json) -> list[Json]:
    """Conditions with a new one of its type; unchanged if it says the same."""
    old = next((item for item in conditions if item["type"] == new["type"]), None)
    if old and (old["status"], old["reason"]) == (new["status"], new["reason"]):
        return list(conditions)
    return [item for item in conditions if item["type"] != new["type"]] + [new]


def ready(node: Json) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in at(node, "status.conditions") or [])


def parse_taint(text: str) -> Json:
    """KEY=VALUE:EFFECT or KEY:EFFECT."""
    rest, _, effect = text.rpartition(":")
    key, equals, value = rest.partition("=")
    return {"key": key, "effect": effect, **({"value": value} if equals else {})}


class Kubelet:
    """What a node does: it registers, says that it lives, runs pods (says so), makes local-path folders."""

    def __init__(self, host: Host, api: Caller, role: str, member: str = "") -> None:
        self.host, self.api, self.role, self.member = host, api, role, member
        self.registered = False

    def labels(self) -> dict[str, str]:
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        made = {
            "beta.kubernetes.io/arch": machine, "beta.kubernetes.io/os": "linux", "kubernetes.io/arch": machine,
            "kubernetes.io/hostname": self.host.name, "kubernetes.io/os": "linux",
            "node.kubernetes.io/instance-type": "k3s",
        }  # fmt: skip
        if self.role == "server":
            made["node-role.kubernetes.io/control-plane"] = "true"
            if self.member:
                made["node-role.kubernetes.io/etcd"] = "true"
        return made | self.given_labels()

    def given_labels(self) -> dict[str, str]:
        return {
            label.partition("=")[0]: label.partition("=")[2] for label in as_list(self.host.settings.get("node-label"))
        }

    def annotations(self) -> dict[str, str]:
        made = {"k3s.io/hostname": self.host.name, "k3s.io/internal-ip": self.host.address}
        if self.member:
            made["etcd.k3s.cattle.io/node-name"] = self.member
            made["etcd.k3s.cattle.io/node-address"] = self.host.address
            made["etcd.k3s.cattle.io/local-snapshots-timestamp"] = stamp()
        return made

    def status(self) -> Json:
        """What a node tells of itself, but for its conditions."""
        system = {}
        with contextlib.suppress(OSError):
            lines = Path("/etc/os-release").read_text().splitlines()
            system = {k: v.strip('"') for k, _, v in (line.partition("=") for line in lines)}

        def read(path: str) -> str:
            with contextlib.suppress(OSError):
                return Path(path).read_text().strip()
            return ""

        return {
            "addresses": [
                {"type": "InternalIP", "address": self.host.address}, {"type": "Hostname", "address": self.host.name},
            ],
            "nodeInfo": {
                "kubeletVersion": VERSION, "kubeProxyVersion": VERSION, "osImage": system.get("PRETTY_NAME", "Linux"),
                "kernelVersion": os.uname().release, "architecture": "amd64", "operatingSystem": "linux",
                "containerRuntimeVersion": "none://i12e-lab", "machineID": read(f"{ROOT}/etc/machine-id"),
                "bootID": read("/proc/sys/kernel/random/boot_id"), "systemUUID": "",
            },
            "capacity": {"cpu": str(os.cpu_count()), "pods": "110"},
            "allocatable": {"cpu": str(os.cpu_count()), "pods": "110"},
        }  # fmt: skip

    def register(self) -> None:
        """Make this node, or find it again. k3s sets given labels at each start, and removes none; taints only here."""
        fresh: Json = {
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": self.host.name, "labels": self.labels(), "annotations": self.annotations(),
                "finalizers": ["wrangler.cattle.io/node"]
                + (["wrangler.cattle.io/managed-etcd-controller"] if self.member else []),
            },
            "spec": {"providerID": f"k3s://{self.host.name}"},
            "status": {**self.status(), "conditions": []},
        }  # fmt: skip
        taints = [parse_taint(text) for text in as_list(self.host.settings.get("node-taint"))]
        if taints:
            fresh["spec"]["taints"] = taints
        try:
            self.api.call("POST", NODES.path(), fresh)
            log(f"Successfully registered node {self.host.name}")
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            meta = {key: fresh["metadata"][key] for key in ("labels", "annotations", "finalizers")}
            self.api.call("PATCH", NODES.path("", self.host.name), {"metadata": meta, "status": self.status()})
        self.registered = True

    def beat(self) -> None:
        """One round: ApiError or OSError if no server takes it."""
        if not self.registered:
            self.register()
        path = NODES.path("", self.host.name)
        node = self.api.call("GET", path)  # a node that was deleted stays so until k3s starts again
        self.renew()
        if not ready(node):
            new = condition("Ready", "True", "KubeletReady", "kubelet is posting ready status")
            conditions = with_condition(at(node, "status.conditions") or [], new)
            self.api.call("PATCH", path, {"status": {"conditions": conditions}})
            log(f"Node {self.host.name} is Ready")
        self.run_pods()
        self.keep_volumes()

    def renew(self) -> None:
        leases = BY_PLURAL["leases"]
        spec = {"holderIdentity": self.host.name, "leaseDurationSeconds": 40, "renewTime": str(time.time())}
        try:
            self.api.call("PATCH", leases.path("kube-node-lease", self.host.name), {"spec": spec})
        except ApiError as error:
            if error.code != 404:
                raise
            body = {"apiVersion": leases.version, "kind": "Lease", "metadata": {"name": self.host.name}, "spec": spec}
            self.api.call("POST", leases.path("kube-node-lease"), body)

    def run_pods(self) -> None:
        """Pods of this node run at once, and end at once."""
        for pod in self.api.call("GET", f"{PODS.path()}?fieldSelector=spec.nodeName%3D{self.host.name}")["items"]:
            path = PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"])
            with contextlib.suppress(ApiError):
                if gone(pod):
                    self.api.call("DELETE", path, {"gracePeriodSeconds": 0})
                elif at(pod, "status.phase") == "Pending":
                    running = {"phase": "Running", "hostIP": self.host.address, "startTime": stamp()}
                    self.api.call("PATCH", path, {"status": running})

    def keep_volumes(self) -> None:
        """The folders of local-path volumes on this node: made when they are bound, removed with their volume."""
        for volume in self.api.call("GET", BY_PLURAL["persistentvolumes"].path())["items"]:
            notes = volume["metadata"].get("annotations") or {}
            if notes.get("local.path.provisioner/selected-node") != self.host.name:
                continue
            place = Path(ROOT + (at(volume, "spec.hostPath.path") or ""))
            if gone(volume) and at(volume, "spec.persistentVolumeReclaimPolicy") == "Delete":
                shutil.rmtree(place, ignore_errors=True)
                path = BY_PLURAL["persistentvolumes"].path("", volume["metadata"]["name"])
                with contextlib.suppress(ApiError):
                    self.api.call("PATCH", path, {"metadata": {"finalizers": None}})
            elif not gone(volume) and not place.exists():
                folder(place.parent, 0o701)
                folder(place, 0o777)


# What one server of the cluster does for all: the controllers


class Controllers:
    """Node health, deleted nodes, etcd members, and just enough of workloads that a drain has something to evict."""

    def __init__(self, host: Host, api: Api) -> None:
        self.host, self.api = host, api
        self.seen: dict[str, tuple[str, float]] = {}  # of each node: its last renewal, and when we saw it
        self.progress: dict[str, tuple[int, float]] = {}  # of each learner
        self.led = False

    @property
    def etcd(self) -> Etcd | None:
        return self.api.store if isinstance(self.api.store, Etcd) else None

    def tick(self) -> None:
        """One round, if this server leads."""
        leads = self.etcd.leads() if self.etcd else True
        if leads and not self.led:
            self.seen.clear()  # who has just begun to look knows of no silence
        self.led = leads
        if not leads:
            return
        nodes = self.items("nodes")
        for step in (self.members, self.removals):  # k3s's own
            self.attempt(step, nodes)
        if not self.host.settings.get("disable-controller-manager"):
            self.attempt(self.health, nodes)
            for kind in ("deployments", "statefulsets", "daemonsets"):
                self.attempt(self.workloads, kind, nodes)
            self.attempt(self.volumes, nodes)
        if not self.host.settings.get("disable-scheduler"):
            self.attempt(self.pods)

    def attempt(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except (ApiError, StoreError) as error:
            log(f"controller {step.__name__}: {error}", "debug")

    def items(self, plural: str) -> list[Json]:
        return list(self.api.call("GET", BY_PLURAL[plural].path())["items"])

    # nodes

    def health(self, nodes: Sequence[Json]) -> None:
        """A node without a fresh heartbeat is not ready; what is not ready, or cordoned, is tainted."""
        leases = {lease["metadata"]["name"]: str(at(lease, "spec.renewTime")) for lease in self.items("leases")}
        now = time.monotonic()
        for node in nodes:
            name = node["metadata"]["name"]
            renewal = leases.get(name, "")
            if self.seen.get(name, ("", 0.0))[0] != renewal or name not in self.seen:
                self.seen[name] = (renewal, now)
            silent = now - self.seen[name][1] > GRACE
            conditions = at(node, "status.conditions") or []
            if silent:
                lost = condition("Ready", "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
                conditions = with_condition(conditions, lost)
            taints = self.taints(node, silent)
            changed = conditions != (at(node, "status.conditions") or []) or taints != (at(node, "spec.taints") or [])
            if changed:
                patch = {"spec": {"taints": taints or None}, "status": {"conditions": conditions}}
                version = node["metadata"]["resourceVersion"]
                self.api.call("PATCH", NODES.path("", name), {"metadata": {"resourceVersion": version}, **patch})

    def taints(self, node: Json, silent: bool) -> list[Json]:
        """The taints that a node should have."""
        own = ("node.kubernetes.io/unreachable", "node.kubernetes.io/unschedulable", "node.kubernetes.io/not-ready")
        taints = [taint for taint in at(node, "spec.taints") or [] if taint["key"] not in own]
        if silent:
            taints.append({"key": own[0], "effect": "NoSchedule"})
        elif not ready(node):
            taints.append({"key": own[2], "effect": "NoSchedule"})
        if at(node, "spec.unschedulable"):
            taints.append({"key": own[1], "effect": "NoSchedule"})
        return taints

    def members(self, nodes: Sequence[Json]) -> None:
        """Promote learners, and say on each node what its member is."""
        if not self.etcd:
            return
        members = self.etcd.members()
        for member in members:
            if member.get("isLearner"):
                self.promote(member)
        by_name = {member.get("name"): member for member in members}
        for node in nodes:
            name = (node["metadata"].get("annotations") or {}).get("etcd.k3s.cattle.io/node-name")
            if not name or gone(node):
                continue
            own = by_name.get(name)
            if own is None:
                new = condition("EtcdIsVoter", "False", "MemberNotFound", "Node is not a member of the etcd cluster")
            elif own.get("isLearner"):
                new = condition(
                    "EtcdIsVoter", "False", "MemberIsLearner",
                    "Node has not been promoted to voting member of the etcd cluster",
                )  # fmt: skip
            else:
                new = condition(
                    "EtcdIsVoter", "True", "MemberNotLearner", "Node is a voting member of the etcd cluster"
                )
            old = at(node, "status.conditions") or []
            if with_condition(old, new) != old:
                current = self.api.call("GET", NODES.path("", node["metadata"]["name"]))
                version = current["metadata"]["resourceVersion"]
                patch = {"conditions": with_condition(at(current, "status.conditions") or [], new)}
                body = {"metadata": {"resourceVersion": version}, "status": patch}
                self.api.call("PATCH", NODES.path("", node["metadata"]["name"]), body)

    def promote(self, member: Json) -> None:
        """Make a learner a voter when it has caught up; evict it when it does not for a long time."""
        assert self.etcd
        name = member.get("name") or ""
        if name:
            try:
                self.etcd.call("cluster/member/promote", {"ID": member["ID"]})
                log(f"Promoting learner {name} to etcd voter")
                return
            except StoreError as error:
                log(f"Learner {name} is not promoted yet: {error}", "debug")
        first = self.progress.setdefault(member["ID"], (0, time.monotonic()))[1]
        if time.monotonic() - first > LEARNER_STALL:
            log(f"Removing learner {name} from etcd cluster: it has not caught up", "warning")
            self.etcd.call("cluster/member/remove", {"ID": member["ID"]})

    def removals(self, nodes: Sequence[Json]) -> None:
        """Nodes that were deleted, or marked etcd.k3s.cattle.io/remove: their members go, then they."""
        for node in nodes:
            meta = node["metadata"]
            notes = meta.get("annotations") or {}
            marked = notes.get("etcd.k3s.cattle.io/remove") == "true"
            if not gone(node) and not marked:
                continue
            member = notes.get("etcd.k3s.cattle.io/node-name", "")
            if member and self.etcd and member != notes.get("etcd.k3s.cattle.io/removed-node-name"):
                self.remove_member(member)
            path = NODES.path("", meta["name"])
            if marked and not gone(node):
                removed = {"etcd.k3s.cattle.io/removed-node-name": member, "etcd.k3s.cattle.io/remove": None}
                self.api.call("PATCH", path, {"metadata": {"annotations": removed}})
                continue
            with contextlib.suppress(ApiError):
                self.api.call("DELETE", password_secret(meta["name"]))
            with contextlib.suppress(ApiError):
                self.api.call("DELETE", BY_PLURAL["leases"].path("kube-node-lease", meta["name"]))
            self.api.call("PATCH", path, {"metadata": {"finalizers": None}})

    def remove_member(self, name: str) -> None:
        assert self.etcd
        for member in self.etcd.members():
            if member.get("name") == name:
                log(f"Removing name={name} id={member['ID']} address={member.get('peerURLs')} from etcd")
                self.etcd.call("cluster/member/remove", {"ID": member["ID"]})

    # workloads

    def workloads(self, plural: str, nodes: Sequence[Json]) -> None:
        """Each wanted pod is there, and no other one."""
        for owner in self.items(plural):
            meta = owner["metadata"]
            pods = [
                pod
                for pod in self.api.call("GET", PODS.path(meta["namespace"]))["items"]
                if any(ref.get("uid") == meta["uid"] for ref in pod["metadata"].get("ownerReferences") or [])
            ]
            alive = [pod for pod in pods if not gone(pod)]
            for body in self.wanted(owner, alive, nodes):
                with contextlib.suppress(ApiError):
                    self.api.call("POST", PODS.path(meta["namespace"]), body)
            count = at(owner, "spec.replicas")
            for pod in alive[1 if count is None else count :] if plural != "daemonsets" else []:
                self.api.call("DELETE", PODS.path(meta["namespace"], pod["metadata"]["name"]))

    def wanted(self, owner: Json, alive: Sequence[Json], nodes: Sequence[Json]) -> Iterator[Json]:
        """The pods that a workload lacks."""
        meta, kind = owner["metadata"], owner["kind"]
        template = at(owner, "spec.template") or {}
        controller = {"apiVersion": owner["apiVersion"], "kind": kind, "name": meta["name"], "uid": meta["uid"]}
        if kind == "Deployment":  # a ReplicaSet is between the two; here it is only a name
            controller = {**controller, "kind": "ReplicaSet", "name": f"{meta['name']}-{meta['uid'][:8]}"}
        body: Json = {
            "apiVersion": "v1", "kind": "Pod", "spec": dict(template.get("spec") or {}),
            "metadata": {
                "labels": at(template, "metadata.labels") or {},
                "ownerReferences": [{**controller, "controller": True}],
            },
        }  # fmt: skip
        count = at(owner, "spec.replicas")
        names = {pod["metadata"]["name"] for pod in alive}
        if kind == "DaemonSet":
            held = {at(pod, "spec.nodeName") for pod in alive}
            for node in nodes:
                name = node["metadata"]["name"]
                if name not in held and ready(node) and not gone(node):
                    suffix = hashlib.sha256((meta["uid"] + name).encode()).hexdigest()[:5]
                    named = {**body["metadata"], "name": f"{meta['name']}-{suffix}"}
                    yield {**body, "metadata": named, "spec": {**body["spec"], "nodeName": name}}
            return
        for number in range(1 if count is None else count):
            if kind == "StatefulSet" and f"{meta['name']}-{number}" not in names:
                yield {**body, "metadata": {**body["metadata"], "name": f"{meta['name']}-{number}"}}
            elif kind == "Deployment" and number >= len(alive):
                yield {**body, "metadata": {**body["metadata"], "generateName": f"{controller['name']}-"}}

    def pods(self) -> None:
        """Give pods a node; forget those whose node is gone.

        The nodes are read after the pods: who cordons a node and then makes a pod never sees it there.
        """
        pods, nodes = self.items("pods"), self.items("nodes")
        names = {node["metadata"]["name"] for node in nodes}
        usable = [
            node["metadata"]["name"]
            for node in nodes
            if ready(node) and not gone(node) and not at(node, "spec.unschedulable") and not any(
                taint.get("effect") in ("NoSchedule", "NoExecute") for taint in at(node, "spec.taints") or []
            )
        ]  # fmt: skip
        load = {name: sum(at(pod, "spec.nodeName") == name for pod in pods) for name in usable}
        for pod in pods:
            path = PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"])
            node = at(pod, "spec.nodeName")
            if node and node not in names:
                self.api.call("DELETE", path, {"gracePeriodSeconds": 0})
            elif not node and load:
                chosen = self.claimed(pod, load)
                if chosen in load:
                    load[chosen] += 1
                    self.api.call("PATCH", path, {"spec": {"nodeName": chosen}})

    def claims(self, pod: Json) -> list[str]:
        volumes = at(pod, "spec.volumes") or []
        return [name for name in (at(volume, "persistentVolumeClaim.claimName") for volume in volumes) if name]

    def claimed(self, pod: Json, load: Mapping[str, int]) -> str:
        """The node where a pod has to be because of its volumes, else the one with the fewest pods."""
        for name in self.claims(pod):
            claim = self.api.call("GET", BY_PLURAL["persistentvolumeclaims"].path(pod["metadata"]["namespace"], name))
            volume = at(claim, "spec.volumeName")
            if volume:
                found = self.api.call("GET", BY_PLURAL["persistentvolumes"].path("", volume))
                return str((found["metadata"].get("annotations") or {}).get("local.path.provisioner/selected-node"))
        wanted = at(pod, "spec.nodeSelector") or {}
        return str(wanted.get("kubernetes.io/hostname") or min(load, key=lambda each: load[each]))

    def volumes(self, nodes: Sequence[Json]) -> None:
        """Bind claims of local-path when a pod uses them, on that pod's node."""
        claims = self.items("persistentvolumeclaims")
        used = {}
        for pod in self.items("pods"):
            for name in self.claims(pod):
                used[(pod["metadata"]["namespace"], name)] = at(pod, "spec.nodeName")
        for claim in claims:
            meta = claim["metadata"]
            chosen = (meta.get("annotations") or {}).get("volume.kubernetes.io/selected-node")
            node = chosen or used.get((meta["namespace"], meta["name"]))
            storage_class = at(claim, "spec.storageClassName") or "local-path"
            if node and not at(claim, "spec.volumeName") and storage_class == "local-path" and not gone(claim):
                self.bind(claim, node)
        claimed = {claim["metadata"]["uid"] for claim in claims}
        for volume in self.items("persistentvolumes"):
            own = at(volume, "spec.storageClassName") == "local-path" and at(volume, "spec.claimRef.uid")
            if own and own not in claimed and not gone(volume):
                self.api.call("DELETE", BY_PLURAL["persistentvolumes"].path("", volume["metadata"]["name"]))
        self.bindings(claims, self.items("persistentvolumes"))

    def bindings(self, claims: Sequence[Json], volumes: Sequence[Json]) -> None:
        """A claim and its volume are bound if each names the other; a claim whose volume is not there is lost."""
        there = {volume["metadata"]["name"]: volume for volume in volumes}
        for claim in claims:
            if not at(claim, "spec.volumeName"):
                continue
            volume = there.get(at(claim, "spec.volumeName"))
            if volume and at(volume, "spec.claimRef.uid") == claim["metadata"]["uid"]:
                self.phase(claim, "Bound")
                self.phase(volume, "Bound")
            else:
                self.phase(claim, "Lost")

    def phase(self, item: Json, phase: str) -> None:
        """Have an object in a phase."""
        if at(item, "status.phase") != phase:
            path = resource_of(item).path(item["metadata"].get("namespace", ""), item["metadata"]["name"])
            self.api.call("PATCH", path, {"status": {"phase": phase}})

    def bind(self, claim: Json, node: str) -> None:
        """Make a claim's volume on a node."""
        meta = claim["metadata"]
        name = f"pvc-{meta['uid']}"
        place = f"{str(self.host.storage).removeprefix(ROOT)}/{name}_{meta['namespace']}_{meta['name']}"
        term = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        volume = {
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {
                "name": name, "finalizers": ["kubernetes.io/pv-protection"],
                "annotations": {
                    "local.path.provisioner/selected-node": node,
                    "pv.kubernetes.io/provisioned-by": "rancher.io/local-path",
                },
            },
            "spec": {
                "accessModes": at(claim, "spec.accessModes") or ["ReadWriteOnce"],
                "capacity": at(claim, "spec.resources.requests") or {"storage": "1Gi"},
                "claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": meta["name"],
                    "namespace": meta["namespace"], "uid": meta["uid"],
                },
                "hostPath": {"path": place, "type": "DirectoryOrCreate"},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}},
                "persistentVolumeReclaimPolicy": "Delete", "storageClassName": "local-path", "volumeMode": "Filesystem",
            },
        }  # fmt: skip
        with contextlib.suppress(ApiError):
            self.api.call("POST", BY_PLURAL["persistentvolumes"].path(), volume)
        path = BY_PLURAL["persistentvolumeclaims"].path(meta["namespace"], meta["name"])
        notes = {"volume.kubernetes.io/selected-node": node, "pv.kubernetes.io/bind-completed": "yes"}
        body = {
            "metadata": {"annotations": notes}, "spec": {"volumeName": name, "storageClassName": "local-path"},
            "status": {"phase": "Bound"},
        }  # fmt: skip
        self.api.call("PATCH", path, body)


# Manifests


def documents(text: str) -> list[Json]:
    """All objects of a YAML or JSON text, lists taken apart."""
    import yaml

    found: list[Json] = []
    try:
        parsed: list[Any] = [json.loads(text)]
    except ValueError:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        parsed = list(yaml.load_all(text, loader))  # both are safe ones
    for item in parsed:
        if isinstance(item, dict) and str(item.get("kind", "")).endswith("List") and "items" in item:
            found += item["items"]
        elif item is not None:
            found.append(item)
    return found


def resource_of(item: Json) -> Resource:
    """The resource of an object; kinds that are not known are plural with an s, and namespaced."""
    kind, version = str(item.get("kind", "")), str(item.get("apiVersion", "v1"))
    for resource in RESOURCES:
        if resource.kind == kind and resource.group == version.rpartition("/")[0]:
            return resource
    plural = kind.lower()
    plural = (
        plural[:-1] + "ies" if plural.endswith("y") else plural + ("es" if plural.endswith(("s", "x", "ch")) else "s")
    )
    return Resource(plural, kind, version)


LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def removals(old: Any, new: Any) -> Json:
    """A merge patch that removes what old has and new lacks."""
    patch: Json = {}
    for key, value in (old or {}).items():
        if key not in new:
            patch[key] = None
        elif isinstance(value, dict) and isinstance(new[key], dict):
            below = removals(value, new[key])
            if below:
                patch[key] = below
    return patch


def apply(api: Caller, item: Json, namespace: str = "default") -> str:
    """Create or change an object as kubectl apply does; return created, configured or unchanged."""
    resource = resource_of(item)
    meta = item.get("metadata") or {}
    place = meta.get("namespace") or namespace
    text = json.dumps(item, separators=(",", ":"), sort_keys=True)
    body = {**item, "metadata": {**meta, "annotations": {**(meta.get("annotations") or {}), LAST_APPLIED: text}}}
    try:
        old = api.call("GET", resource.path(place, meta.get("name", "")))
    except ApiError as error:
        if error.code != 404 or "namespaces" in error.message[:11]:
            raise
        api.call("POST", resource.path(place), body)
        return "created"
    last = json.loads((old["metadata"].get("annotations") or {}).get(LAST_APPLIED, "{}"))
    patch = merged(body, {})
    dropped = removals(last, item)
    new = api.call("PATCH", resource.path(place, meta["name"]), merged_patches(dropped, patch))
    return "unchanged" if new["metadata"]["resourceVersion"] == old["metadata"]["resourceVersion"] else "configured"


def merged_patches(first: Json, second: Json) -> Json:
    """Two merge patches as one; None stays."""
    result = dict(first)
    for key, value in second.items():
        both = isinstance(result.get(key), dict) and isinstance(value, dict)
        result[key] = merged_patches(result[key], value) if both else value
    return result


def deployment(name: str, image: str, config: str = "") -> str:
    """A packaged component of k3s, as small as can be."""
    spec = {"containers": [{"name": name, "image": image}]}
    body = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    }  # fmt: skip
    return config + json.dumps(body) + "\n"


LOCAL_PATH = """apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: local-path
  annotations:
    storageclass.kubernetes.io/is-default-class: "true"
provisioner: rancher.io/local-path
volumeBindingMode: WaitForFirstConsumer
reclaimPolicy: Delete
---
"""
PACKAGED = {
    "coredns.yaml": deployment("coredns", "rancher/mirrored-coredns-coredns"),
    "local-storage.yaml": deployment("local-path-provisioner", "rancher/local-path-provisioner", LOCAL_PATH),
    "metrics-server.yaml": deployment("metrics-server", "rancher/mirrored-metrics-server"),
}


class Manifests:
    """server/manifests: applied at the start, and when a file changes. A file that goes removes nothing."""

    def __init__(self, host: Host, api: Caller) -> None:
        self.folder, self.api = host.server / "manifests", api
        self.disabled = {name for item in as_list(host.settings.get("disable")) for name in item.split(",")}
        self.applied: dict[Path, tuple[int, int]] = {}

    def packaged(self) -> None:
        """k3s writes its own anew at each start."""
        folder(self.folder, 0o700)
        for name, text in PACKAGED.items():
            if name.removesuffix(".yaml") not in self.disabled:
                write(self.folder / name, text)

    def tick(self) -> None:
        for path in sorted(self.folder.rglob("*")):
            if path.suffix not in (".yaml", ".yml", ".json") or not path.is_file():
                continue
            if path.with_name(path.name + ".skip").exists() or path.stem in self.disabled:
                continue
            status = path.stat()
            if self.applied.get(path) != (status.st_mtime_ns, status.st_size):
                try:
                    self.deploy(path)
                    self.applied[path] = (status.st_mtime_ns, status.st_size)
                except (ApiError, ValueError, AttributeError) as error:
                    log(f"Failed to process config: failed to process {path}: {error}", "error")

    def deploy(self, path: Path) -> None:
        text = path.read_text()
        import yaml

        try:
            items = documents(text)
        except yaml.YAMLError as error:
            raise ValueError(f"yaml: {error}") from error
        for item in items:
            apply(self.api, item)
        addon = {
            "apiVersion": "k3s.cattle.io/v1", "kind": "Addon",
            "metadata": {"name": path.stem, "namespace": "kube-system"},
            "spec": {"source": str(path), "checksum": hashlib.sha256(text.encode()).hexdigest()},
        }  # fmt: skip
        apply(self.api, addon, "kube-system")


# The server


class Stopped(Exception):
    """SIGTERM came."""


def notify(text: str) -> None:
    """Tell systemd, if it wants to be told."""
    place = os.environ.get("NOTIFY_SOCKET")
    if place:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
            channel.sendto(text.encode(), "\0" + place[1:] if place.startswith("@") else place)


class Running:
    """What servers and agents share: an end by signal, and loops that go on whatever fails in them."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: self.stop.set())

    def pause(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise Stopped

    def loop(self, step: Callable[[], None], every: float) -> None:
        """Run step again and again in a thread; say what it raised, once for each new text."""

        def run() -> None:
            said = ""
            while not self.stop.is_set():
                try:
                    step()
                    said = ""
                except (ApiError, StoreError, OSError) as error:
                    if str(error) != said:
                        said = str(error)
                        log(f"{getattr(step, '__qualname__', 'loop')}: {said}", "error")
                self.stop.wait(every)

        threading.Thread(target=run, daemon=True).start()


PREPARING = "starting kubernetes: preparing server: "


class Server(Running):
    """`k3s server`."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host
        self.reset = bool(host.settings.get("cluster-reset"))
        self.api: Api | None = None
        self.store: Etcd | Sqlite | None = None
        self.etcd: EtcdProcess | None = None
        self.web: Web | None = None
        self.token = Token("")

    # which datastore, and who founded it

    def mode(self) -> str:
        """reset, member, found or join (all etcd), or sqlite; by k3s's rules."""
        there = (self.host.etcd / "member/wal").is_dir()
        url = self.host.text("server")
        if self.reset:
            return "reset"
        if there and (self.host.etcd / "tombstone").exists():
            log("tombstone file has been detected, removing data dir to rejoin the cluster")
            set_aside(self.host)
            return "join" if url else "found"  # k3s#13623
        if there:
            log("Managed etcd cluster bootstrap already complete and initialized")
            return "member"
        if url:
            return "join"
        return "found" if self.host.settings.get("cluster-init") else "sqlite"

    def check_flags(self) -> None:
        """What k3s refuses before it begins."""
        settings = self.host.settings
        restore = self.host.text("cluster-reset-restore-path")
        if restore and not self.reset:
            raise Fatal("invalid flag use; --cluster-reset required with --cluster-reset-restore-path")
        if self.reset and settings.get("server"):
            raise Fatal(
                "cannot perform cluster-reset while server URL is set - remove server from configuration before "
                "resetting"
            )
        token_file = self.host.server / "token"
        if restore and not self.host.secret("token") and not token_file.exists():
            raise Fatal(f"{token_file} does not exist, please pass --token to complete the restoration")

    def read_token(self, mode: str) -> Token:
        text = self.host.secret("token")
        path = self.host.server / "token"
        if not text and path.exists():
            text = path.read_text().strip()
        if not text and mode == "join":
            raise Fatal(f"{PREPARING}K3S_TOKEN is required to join a cluster")
        return Token.parse(text or secrets.token_hex(16))

    def run(self) -> int:
        """Serve until SIGTERM; raise Fatal where k3s would end."""
        log(f"Starting k3s {VERSION} ({WHAT})")
        self.check_flags()
        slow = fault("slow_start")
        if slow is not None:
            self.pause(float(slow or 10))
        folder(self.host.server, 0o700)
        folder(self.host.db, 0o700)
        for name in ("cred", "manifests", "static"):
            folder(self.host.server / name, 0o700)
        mode = self.mode()
        self.token = self.read_token(mode)
        try:
            if mode == "reset":
                return self.reset_cluster()
            getattr(self, mode)()
            self.serve_cluster()
            while True:
                self.watch()
                self.pause(0.2)
        except Stopped:
            return 0
        finally:
            self.end()

    def end(self) -> None:
        self.stop.set()
        if self.web:
            self.web.shutdown()
        if self.etcd:
            self.etcd.stop()
        if isinstance(self.store, Etcd):  # SQLite is left as it is, with its -wal: who copies state.db alone lacks rows
            self.store.close()

    def watch(self) -> None:
        """Fatal when etcd has ended."""
        if not self.etcd or not self.etcd.ended():
            return
        time.sleep(0.2)  # its last words
        if self.etcd.removed:
            write(self.host.etcd / "tombstone", "")
            log("this node has been removed from the cluster please restart k3s to rejoin the cluster")
            raise Fatal("leaderelection lost for k3s")
        assert self.etcd.process
        raise Fatal(f"etcd exited: status {self.etcd.process.returncode}")

    # the five ways to begin

    def sqlite(self) -> None:
        log("Configuring sqlite3 database connection pooling: maxIdleConns=2, maxOpenConns=0, connMaxLifetime=0s")
        self.store = Sqlite(self.host.db / "state.db")
        row = self.bootstrap_row(self.store)
        if row:
            reconcile_bootstrap(self.host, row, replace=False)
        else:
            make_cas(self.host)
            self.save_bootstrap(self.store)
        self.serve_web()

    def found(self) -> None:
        log("Managed etcd cluster initializing")
        make_cas(self.host)
        self.serve_web()
        store = self.start_etcd()
        self.migrate(store)
        self.save_bootstrap(store)

    def member(self) -> None:
        if not (self.host.tls / "etcd/peer-ca.crt").exists():
            self.recover_files()
        self.serve_web()
        store = self.start_etcd()
        row = self.bootstrap_row(store)
        if row:
            reconcile_bootstrap(self.host, row, replace=False)
        else:
            self.save_bootstrap(store)

    def join(self) -> None:
        log("Managed etcd cluster not yet initialized")
        url = self.host.text("server").rstrip("/")
        try:
            ca = fetch_ca(url, self.token)
            link = Link.to(url, client_context(None, ca_data=ca.decode()), ("server", self.token.password))
            data = self.ask(link, url, "/v1-k3s/server-bootstrap")
            self.check_critical(self.ask(link, url, "/v1-k3s/config"))
            members = self.ask(link, url, "/db/info")["members"]
        except OSError as error:
            raise Fatal(f"{PREPARING}failed to validate token: {error}") from error
        write_bootstrap(self.host, data)
        self.serve_web()
        cluster = self.add_member(members)
        log(f"Starting etcd to join cluster with members {cluster}")
        self.start_etcd(",".join(cluster), "existing")

    def ask(self, link: Link, url: str, path: str) -> Any:
        """GET from the server that we join; Fatal with what it says."""
        status, content = link.request("GET", path)
        if status != 200:
            reason = http.client.responses.get(status, "")
            raise Fatal(f"{PREPARING}failed to validate token: {url}{path}: {status} {reason}")
        return json.loads(content)

    def critical(self) -> dict[str, str]:
        """The settings that all servers must share."""
        settings = self.host.settings
        return {name: ",".join(as_list(settings.get(name))) or default for name, default in CRITICAL.items()}

    def check_critical(self, theirs: Json) -> None:
        mine = self.critical()
        differ = [name for name in CRITICAL if theirs["critical"].get(name) != mine[name]]
        if differ:
            for name in differ:
                log(f"{name}: this server has {mine[name]!r}, the cluster {theirs['critical'].get(name)!r}", "error")
            raise Fatal(
                f"{PREPARING}failed to validate server configuration: critical configuration value mismatch between "
                f"servers: {', '.join(differ)}"
            )

    # etcd

    def etcd_context(self) -> ssl.SSLContext:
        return client_context(self.host.tls / "etcd/server-ca.crt", self.host.tls / "etcd/client")

    def add_member(self, members: Sequence[Json]) -> list[str]:
        """Add us to the cluster as a learner; return all members as NAME=URL. Fatal where etcd or k3s refuse."""
        name = member_name(self.host)
        own = EtcdProcess(self.host, name).peer_url
        places = [urllib.parse.urlsplit(url) for member in members for url in member.get("clientURLs", [])]
        said = ""
        while True:
            problem = "no member has an address"
            for place in places:
                remote = Etcd(place.hostname or "", self.etcd_context(), place.port or 2379)
                try:
                    return self.add_member_by(remote, name, own)
                except StoreError as error:
                    problem = str(error)
                    if "too many learner" in problem or "unhealthy cluster" in problem:
                        break
            else:
                raise Fatal(f"etcd cluster join failed: {problem}")
            if problem != said:
                said = problem
                log(f"Waiting for other members to finish joining etcd cluster: {problem}")
            self.pause(TICK)

    def add_member_by(self, remote: Etcd, name: str, own: str) -> list[str]:
        found, known = [], False
        for member in remote.members():
            url = (member.get("peerURLs") or [""])[0]
            called = member.get("name") or (name if url == own else "")
            if called == name and url == own:
                known = True
            elif called.rpartition("-")[0] == self.host.name:
                (self.host.etcd / "name").unlink(missing_ok=True)
                raise Fatal(
                    "etcd cluster join failed: duplicate node name found, please use a unique name for this node"
                )
            found.append(f"{called}={url}")
        if not known:
            log(f"Adding member {name}={own} to etcd cluster {found}")
            remote.call("cluster/member/add", {"peerURLs": [own], "isLearner": True})
            found.append(f"{name}={own}")
        remote.close()
        return found

    def start_etcd(self, cluster: str = "", state: str = "new") -> Etcd:
        """Start etcd on its data and return when this member is a voter and the cluster answers."""
        self.etcd = EtcdProcess(self.host, member_name(self.host))
        self.store = store = Etcd(self.host.loopback, self.etcd_context())
        self.etcd.start(cluster, state)
        said = ""
        since = time.monotonic()
        while True:
            self.watch()
            try:
                self.test_member(store)
                store.check()
                break
            except StoreError as error:
                late = time.monotonic() - since > 2  # it needs a moment to start
                if late and str(error) != said:
                    said = str(error)
                    log(f"Failed to test etcd connection: {said}")
            self.pause(0.1 if not said else MEMBER_TEST)
        log("etcd data store connection OK")
        for alarm in store.call("maintenance/alarm", {"action": "GET"}).get("alarms", []):
            log(f"Alarm on etcd member {alarm.get('memberID')}: {alarm.get('alarm')}, disarming", "warning")
            store.call("maintenance/alarm", {"action": "DEACTIVATE", **alarm})
        return store

    def test_member(self, store: Etcd) -> None:
        """StoreError unless this server is a voting member under its name and address."""
        assert self.etcd
        if store.status().get("isLearner"):
            raise StoreError("this server has not yet been promoted from learner to voting member")
        found = []
        for member in store.members():
            for url in member.get("peerURLs", []):
                if url == self.etcd.peer_url and member.get("name") == self.etcd.name:
                    return
            found.append(f"{member.get('name')}={(member.get('peerURLs') or [''])[0]}")
        expected = f"{self.etcd.name}={self.etcd.peer_url}"
        raise StoreError(
            f"this server is not a member of the etcd cluster. Found [{' '.join(found)}], expect: {expected}"
        )

    def recover_files(self) -> None:
        """Bring the CAs back from etcd's data, by an etcd on a copy of it, as k3s does."""
        log("Starting temporary etcd to reconcile with datastore")
        copy = self.host.db / "etcd-tmp"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.host.etcd, copy)
        loop = url_host(self.host.loopback)
        settings = {
            "name": member_name(self.host), "data-dir": str(copy), "logger": "zap", "log-level": "error",
            "log-outputs": ["stderr"], "force-new-cluster": True, "enable-grpc-gateway": True, "listen-client-urls": f"http://{loop}:2399",
            "advertise-client-urls": f"http://{loop}:2399", "listen-peer-urls": f"http://{loop}:2398",
        }  # fmt: skip
        write(copy / "config", json.dumps(settings))
        process = EtcdProcess(self.host, "")
        process.run(copy / "config")
        try:
            store = Etcd(self.host.loopback, None, 2399)
            while True:
                try:
                    row = self.bootstrap_row(store)
                    break
                except StoreError as error:
                    if process.ended():
                        raise Fatal(f"{PREPARING}failed to reconcile with datastore: etcd ended") from error
                    self.pause(0.1)
            store.close()
        finally:
            process.stop()
            shutil.rmtree(copy, ignore_errors=True)
        if not row:
            raise Fatal(f"{PREPARING}no bootstrap data found")
        reconcile_bootstrap(self.host, row, replace=False)

    def migrate(self, store: Etcd) -> None:
        """Bring SQLite's rows to a new etcd. A failure leaves an etcd that the next start takes for whole."""
        path = self.host.db / "state.db"
        if not path.exists():
            return
        log("Migrating content from sqlite to etcd")
        old = Sqlite(path)
        rows = old.below("/registry/")
        for number, row in enumerate(rows):
            if fault("migration_fails") is not None and number >= len(rows) // 2:
                raise Fatal(f"{PREPARING}failed to migrate content from sqlite to etcd: context deadline exceeded")
            store.put(row.key, row.value)
        old.close()
        path.rename(path.with_name("state.db.migrated"))

    # cluster-reset

    def reset_cluster(self) -> int:
        """Make etcd here a cluster of one, from its own data or from a snapshot; return k3s's exit status."""
        flag = self.host.db / "reset-flag"
        restore = self.host.text("cluster-reset-restore-path")
        if not restore and flag.exists():
            raise Fatal(
                f"{PREPARING}start managed database: Managed etcd cluster membership was previously reset, please "
                "remove the cluster-reset flag and start k3s normally. If you need to perform another cluster reset, "
                f"you must first manually delete the {flag} file"
            )
        make_cas(self.host)
        issue_leaves(self.host)
        if restore:
            self.restore(restore)
        name = member_name(self.host, new=not restore)
        write(flag, "")
        self.etcd = EtcdProcess(self.host, name)
        self.store = store = Etcd(self.host.loopback, self.etcd_context())
        self.etcd.start(reset=True)
        log("Starting etcd to reset the cluster's membership, on the loopback address alone")
        while not self.alone(store):
            self.watch()
            self.pause(0.1)
        row = self.bootstrap_row(store)
        if row:
            reconcile_bootstrap(self.host, row, replace=True)
        issue_leaves(self.host)
        self.write_tokens()
        log(
            "Managed etcd cluster membership has been reset, restart without --cluster-reset flag now. Backup and "
            "delete ${datadir}/server/db on each peer etcd server and rejoin the nodes"
        )
        return 0

    def alone(self, store: Etcd) -> bool:
        """Whether etcd answers with this member alone, under its address."""
        assert self.etcd
        try:
            store.put("k3s/apiaddresses", b"")
            (member,) = store.members()
            if member.get("peerURLs") != [self.etcd.peer_url]:
                store.call("cluster/member/update", {"ID": member["ID"], "peerURLs": [self.etcd.peer_url]})
            self.test_member(store)
        except (StoreError, ValueError):
            return False
        return True

    def restore(self, given: str) -> None:
        """Put a snapshot in the place of etcd's data, which is set aside."""
        path = self.unpack(Path(given))
        if not path.exists():
            raise Fatal(f"{PREPARING}start managed database: etcd: snapshot path does not exist: {path}")
        if path.is_dir():
            raise Fatal(
                f"{PREPARING}start managed database: etcd: snapshot path must be a file, not a directory: {path}"
            )
        if self.host.etcd.exists():
            log(f"Pre-restore etcd database moved to {set_aside(self.host)}")
        name = f"{self.host.name}-{uuid.uuid4().hex[:8]}"
        peer = EtcdProcess(self.host, name).peer_url
        try:
            etcdctl(
                self.host, "snapshot", "restore", str(path), f"--name={name}", f"--initial-cluster={name}={peer}",
                f"--initial-advertise-peer-urls={peer}", f"--data-dir={self.host.etcd}", online=False,
            )  # fmt: skip
        except StoreError as error:
            raise Fatal(f"{PREPARING}start managed database: {error}") from error
        write(self.host.etcd / "name", name)

    def unpack(self, path: Path) -> Path:
        """A .zip's snapshot beside it. k3s before v1.37.1 looks for an absolute path below its folder (k3s#14526)."""
        if path.suffix != ".zip":
            return path
        import zipfile

        broken = version_number(VERSION) < (1, 37, 1) and path.is_absolute()
        place = Path(f"{self.host.snapshots}/{path}") if broken or not path.is_absolute() else path
        try:
            with zipfile.ZipFile(place) as archive:
                return Path(archive.extract(archive.namelist()[0], self.host.snapshots))
        except (OSError, zipfile.BadZipFile) as error:
            why = str(error.strerror if isinstance(error, OSError) else error).lower()
            raise Fatal(f"{PREPARING}start managed database: open {place}: {why}") from error

    # the bootstrap row

    def bootstrap_row(self, store: Store) -> Json | None:
        """The cluster's bootstrap data; Fatal if it is sealed by another token."""
        rows = store.below("/bootstrap/")
        if not rows:
            return None
        for row in rows:
            if row.key == bootstrap_key(self.token.password):
                found: Json = json.loads(unseal(self.token.password, row.value))
                found.pop("PasswdFile", None)  # each server writes its own
                return found
        raise Fatal(f"{PREPARING}bootstrap data already found and encrypted with different token")

    def save_bootstrap(self, store: Store) -> None:
        if self.bootstrap_row(store) is None:
            data = seal(self.token.password, json.dumps(read_bootstrap(self.host)).encode())
            store.create(bootstrap_key(self.token.password), data)

    # what it serves

    def serve_web(self) -> None:
        """Write what follows from the CAs, and open port 6443."""
        issue_leaves(self.host)
        self.write_tokens()
        self.write_kubeconfigs()
        self.web = Web(self)
        threading.Thread(target=self.web.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    @property
    def agent_password(self) -> str:
        return Token.parse(self.host.secret("agent-token") or self.token.password).password

    def write_tokens(self) -> None:
        server = self.host.server
        mark = "K10" + hashlib.sha256((self.host.tls / "server-ca.crt").read_bytes()).hexdigest()
        write(server / "token", f"{mark}::server:{self.token.password}\n")
        links = ["node-token"]
        if self.agent_password == self.token.password:
            links.append("agent-token")
        else:
            (server / "agent-token").unlink(missing_ok=True)
            write(server / "agent-token", f"{mark}::node:{self.agent_password}\n")
        for name in links:
            (server / name).unlink(missing_ok=True)
            (server / name).symlink_to("token" if ROOT else server / "token")
        users = f"{self.agent_password},node,node,k3s:agent\n{self.token.password},server,server,k3s:server\n"
        if not (server / "cred/passwd").exists() or (server / "cred/passwd").read_text() != users:
            write(server / "cred/passwd", users)

    def write_kubeconfigs(self) -> None:
        tls = self.host.tls

        def data(path: str) -> str:
            return base64.b64encode((tls / path).read_bytes()).decode()

        text = (
            "apiVersion: v1\nclusters:\n- cluster:\n"
            f"    certificate-authority-data: {data('server-ca.crt')}\n"
            f"    server: https://{url_host(self.host.loopback)}:6443\n  name: default\n"
            "contexts:\n- context:\n    cluster: default\n    user: default\n  name: default\n"
            "current-context: default\nkind: Config\npreferences: {}\nusers:\n- name: default\n  user:\n"
            f"    client-certificate-data: {data('client-admin.crt')}\n"
            f"    client-key-data: {data('client-admin.key')}\n"
        )
        mode = int(self.host.text("write-kubeconfig-mode", "600"), 8)
        write(Path(self.host.text("write-kubeconfig") or KUBECONFIG), text, mode)
        write(self.host.server / "cred/admin.kubeconfig", text)

    def serve_cluster(self) -> None:
        """Open the API, and do all that a running server does."""
        assert self.store
        self.api = Api(self.store, Cipher(self.host.server / "cred/encryption-config.json"))
        self.until(self.first_objects)
        if (self.host.db / "reset-flag").exists():  # the password in a restored snapshot may be another one
            if not self.host.settings.get("disable-agent"):  # k3s waits for the node's name, which only its agent says
                with contextlib.suppress(ApiError):
                    self.api.call("DELETE", password_secret(self.host.name))
            (self.host.db / "reset-flag").unlink()
        manifests = Manifests(self.host, self.api)
        manifests.packaged()
        folder(self.host.storage, 0o701)
        self.loop(manifests.tick, 1.0)
        self.loop(Controllers(self.host, self.api).tick, TICK)
        if not self.host.settings.get("disable-agent"):
            kubelet = Kubelet(self.host, self.api, "server", self.etcd.name if self.etcd else "")
            self.loop(lambda: self.keep_node(kubelet), HEARTBEAT)
        if self.etcd and not self.host.settings.get("etcd-disable-snapshots"):
            with contextlib.suppress(ApiError, StoreError):
                list_snapshots(self)
        while fault("k3s_never_ready") is not None:
            self.watch()
            self.pause(TICK)
        log("k3s is up and running")
        notify("READY=1")

    def until(self, step: Callable[[], None]) -> None:
        """Try until the datastore takes it."""
        while True:
            try:
                return step()
            except (ApiError, StoreError) as error:
                log(f"Waiting for the datastore: {error}")
                self.watch()
                self.pause(TICK)

    def first_objects(self) -> None:
        assert self.api
        for name in ("kube-system", "default", "kube-public", "kube-node-lease"):
            try:
                self.api.call("GET", BY_PLURAL["namespaces"].path("", name))
            except ApiError as error:
                if error.code != 404:
                    raise
                body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                with contextlib.suppress(ApiError):
                    self.api.call("POST", BY_PLURAL["namespaces"].path(), body)
        for resource in CUSTOM:
            body = definition(resource)
            try:
                self.api.call("POST", BY_PLURAL["customresourcedefinitions"].path(), body)
            except ApiError as error:
                if error.code != 409:
                    raise

    def keep_node(self, kubelet: Kubelet) -> None:
        """One heartbeat of this server's own node, once its password was taken."""
        assert self.api
        if fault("k3s_never_ready") is not None:
            return
        if not kubelet.registered:
            try:
                ensure_password(self.api, self.host.name, node_password())
            except ApiError as error:
                raise ApiError(
                    error.code, "", f"Waiting to retrieve agent configuration; server is not ready: {error}"
                ) from error
        kubelet.beat()

    # answers

    def health(self) -> None:
        """ApiError unless the API works."""
        if not self.api or fault("k3s_never_ready") is not None:
            raise ApiError(500, "InternalError", health_text("[-]poststarthook/start-k3s failed: reason withheld"))
        try:
            self.api.store.check()
        except StoreError as error:
            raise ApiError(500, "InternalError", health_text("[-]etcd failed: reason withheld")) from error

    def servers(self) -> list[str]:
        """The URLs of all servers that have a node."""
        assert self.api
        nodes = self.api.call("GET", f"{NODES.path()}?labelSelector=node-role.kubernetes.io/control-plane")["items"]
        return [f"{url_host(node_address(node))}:6443" for node in nodes if node_address(node) != "<none>"]

    def info(self) -> Json:
        if not isinstance(self.store, Etcd):
            raise ApiError(400, "BadRequest", "etcd datastore disabled")
        try:
            return {"members": self.store.members()}
        except StoreError as error:
            raise ApiError(503, "ServiceUnavailable", str(error)) from error

    def admit(self, name: str, password: str) -> str:
        """Check a node's password and return its certificate, key and the CA that vouches for them."""
        if not self.api:
            raise ApiError(503, "ServiceUnavailable", UNAVAILABLE)
        ensure_password(self.api, name, password)
        key = new_key()
        issuer = load_ca(self.host.tls / "client-ca")
        cert = certificate((f"system:node:{name}", "system:nodes"), key, issuer)
        return (cert_pem(cert) + key_pem(key)).decode()


def health_text(failed: str) -> str:
    checks = "\\n".join(("[+]ping ok", "[+]log ok", failed, "readyz check failed"))
    return f'an error on the server ("{checks}") has prevented the request from succeeding'


class Web(ThreadingHTTPServer):
    """Port 6443."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, server: Server) -> None:
        self.k3s = server
        tls = server.host.tls
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(tls / "serving-kube-apiserver.crt", tls / "serving-kube-apiserver.key")
        self.context.load_verify_locations(tls / "client-ca.crt")
        self.context.verify_mode = ssl.CERT_OPTIONAL
        port = int(server.host.text("https-listen-port", "6443"))
        place = server.host.address if ROOT else "::"
        self.address_family = socket.AF_INET6 if ":" in place else socket.AF_INET
        for left in range(50, -1, -1):  # one that was killed may hold the port for a moment
            try:
                super().__init__((place, port), Answer)
                return
            except OSError as error:
                if not left:
                    raise Fatal(f"listen tcp :{port}: {error.strerror}") from error
                server.pause(0.1)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a slow handshake holds nobody up."""
        request.settimeout(60)
        try:
            with self.context.wrap_socket(request, server_side=True) as wrapped:
                Answer(wrapped, client_address, self)
        except (OSError, ValueError):
            return

    def handle_error(self, request: Any, client_address: Any) -> None:
        log(f"http: {client_address[0]}: {sys.exc_info()[1]}", "debug")


class Answer(BaseHTTPRequestHandler):
    """One connection to port 6443."""

    protocol_version = "HTTP/1.1"
    server: Web

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Silent, as k3s is."""

    def user(self) -> str:
        """Who asks: admin, node, server, agent (by password), or nobody."""
        cert: Any = self.connection.getpeercert()
        if cert:
            subject = {key: value for part in cert["subject"] for key, value in part}
            return "node" if subject.get("organizationName") == "system:nodes" else "admin"
        kind, _, credentials = self.headers.get("Authorization", "").partition(" ")
        if kind != "Basic":
            return ""
        try:
            name, _, password = base64.b64decode(credentials).decode().partition(":")
        except ValueError:
            return ""
        k3s = self.server.k3s
        if secrets.compare_digest(password.encode(), k3s.token.password.encode()):
            return "server"
        if name == "node" and secrets.compare_digest(password.encode(), k3s.agent_password.encode()):
            return "agent"
        return ""

    def reply(self, status: int, content: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        try:
            body = json.loads(data) if data else None
            self.reply(200, self.find(self.path, body))
        except ApiError as error:
            self.reply(error.code, error.status())
        except ValueError as error:
            self.reply(400, ApiError(400, "BadRequest", str(error)).status())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815  # the base class's names

    def find(self, path: str, body: Any) -> Any:
        k3s = self.server.k3s
        place = path.partition("?")[0]
        if place == "/cacerts":
            return (k3s.host.tls / "server-ca.crt").read_text()
        if place == "/ping":
            return "pong"
        user = self.user()
        if place.startswith(("/v1-k3s/", "/db/")):
            return self.find_own(place, body, user)
        if user not in ("admin", "node"):
            raise ApiError(401, "Unauthorized", "Unauthorized")
        if place in ("/readyz", "/healthz", "/livez"):
            k3s.health()
            return "ok"
        if place == "/version":
            parts = VERSION.lstrip("v").split(".")
            return {"major": parts[0], "minor": parts[1], "gitVersion": VERSION, "platform": f"linux/amd64, {WHAT}"}
        if not k3s.api:
            raise ApiError(503, "ServiceUnavailable", UNAVAILABLE)
        slow = fault("api_slow")
        if slow is not None:
            time.sleep(float(slow or 1))
        return k3s.api.call(self.command, path, body)

    def find_own(self, place: str, body: Any, user: str) -> Any:
        """Our own protocol, for servers and agents that join, and for this program's commands."""
        k3s = self.server.k3s
        if user in ("server", "admin"):
            if place == "/v1-k3s/server-bootstrap":
                return read_bootstrap(k3s.host)
            if place == "/db/info":
                return k3s.info()
        if user == "admin" and place in COMMANDS:
            return COMMANDS[place](k3s, self.command, body or {})
        if user:
            if place == "/v1-k3s/config":
                return {"critical": k3s.critical(), "version": VERSION}
            if place == "/v1-k3s/apiservers":
                if not k3s.api:
                    raise ApiError(503, "ServiceUnavailable", UNAVAILABLE)
                return k3s.servers()
            if place == "/v1-k3s/client-kubelet.crt":
                return k3s.admit(self.headers.get("k3s-Node-Name", ""), self.headers.get("k3s-Node-Password", ""))
        raise ApiError(401, "Unauthorized", "Unauthorized")


# The agent


class Balancer:
    """The agent's way to the servers: the one that answered last, else the next of all that are known.

    It remembers them in k3s-agent-load-balancer.json, but, as k3s, only for the URL that it was seeded by.
    """

    def __init__(self, host: Host, context: Callable[[], ssl.SSLContext]) -> None:
        self.path = host.agent / "etc/k3s-agent-load-balancer.json"
        self.url = host.text("server").rstrip("/")
        self.context = context
        self.addresses: list[str] = []
        try:
            known = json.loads(self.path.read_text())
            if known.get("ServerURL") == self.url:
                self.addresses = list(known.get("ServerAddresses") or [])
        except (OSError, ValueError):
            self.save()
        self.links: dict[str, Link] = {}
        self.first = self.url

    def save(self) -> None:
        text = json.dumps({"ServerURL": self.url, "ServerAddresses": self.addresses}, indent=2)
        if not self.path.exists() or self.path.read_text() != text:
            write(self.path, text)

    def urls(self) -> list[str]:
        known = [self.first, self.url, *(f"https://{address}" for address in self.addresses)]
        return [url for url in dict.fromkeys(known) if url]

    def learn(self, addresses: Sequence[str]) -> None:
        if addresses and list(addresses) != self.addresses:
            log(f"Updated load balancer k3s-agent-load-balancer server addresses -> {list(addresses)}")
            self.addresses = list(addresses)
        self.save()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        problem: Exception = OSError("no server is known")
        for url in self.urls():
            link = self.links.setdefault(url, Link.to(url, self.context(), limit=2.5))
            try:
                found = link.call(method, path, body)
            except (OSError, ApiError) as error:
                if isinstance(error, ApiError) and error.code < 500:
                    self.first = url
                    raise
                problem = error
                continue
            self.first = url
            return found
        raise problem


class Agent(Running):
    """`k3s agent`."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host

    def run(self) -> int:
        log(f"Starting k3s agent {VERSION} ({WHAT})")
        if not self.host.text("server"):
            raise Fatal("--server is required")
        if not self.host.secret("token"):
            raise Fatal("--token is required")
        slow = fault("slow_start")
        try:
            if slow is not None:
                self.pause(float(slow or 10))
            token = Token.parse(self.host.secret("token"))
            for name in ("etc", "images", "containerd", "pod-manifests"):
                folder(self.host.agent / name, 0o755)
            folder(self.host.storage, 0o701)
            balancer = Balancer(self.host, self.context)
            self.enter(balancer, token)
            kubelet = Kubelet(self.host, balancer, "agent")
            self.loop(lambda: self.keep_node(kubelet), HEARTBEAT)
            self.loop(lambda: balancer.learn(balancer.call("GET", "/v1-k3s/apiservers")), 2.0)
            while fault("k3s_never_ready") is not None:
                self.pause(TICK)
            log("k3s agent is up and running")
            notify("READY=1")
            while True:
                self.pause(60)
        except Stopped:
            return 0

    def context(self) -> ssl.SSLContext:
        return client_context(self.host.agent / "server-ca.crt", self.host.agent / "client-kubelet")

    def keep_node(self, kubelet: Kubelet) -> None:
        if fault("k3s_never_ready") is None:
            kubelet.beat()

    def enter(self, balancer: Balancer, token: Token) -> None:
        """Get this node's certificate of any server; try for as long as it takes."""
        said = ""
        while True:
            problem = ""
            for url in balancer.urls():
                try:
                    return self.enter_by(url, balancer, token)
                except (OSError, Fatal, ApiError) as error:
                    problem = problem or f"failed to validate connection to cluster at {url}: {error}"
                    if isinstance(error, ApiError) and error.code == 403:
                        problem = f"Waiting to retrieve agent configuration; server is not ready: {error}"
            if problem != said:
                said = problem
                log(problem, "error")
            self.pause(RETRY)

    def enter_by(self, url: str, balancer: Balancer, token: Token) -> None:
        ca = fetch_ca(url, token, 2.5)
        link = Link.to(url, client_context(None, ca_data=ca.decode()), ("node", token.password), 5)
        status, _ = link.request("GET", "/v1-k3s/config")
        if status != 200:
            raise OSError(f"{url}/v1-k3s/config: {status} {http.client.responses.get(status, '')}")
        names = {"k3s-Node-Name": self.host.name, "k3s-Node-Password": node_password()}
        status, content = link.request("POST", "/v1-k3s/client-kubelet.crt", headers=names)
        pem = parse_answer(status, content)
        cert, begin, key = str(pem).partition("-----BEGIN EC PRIVATE KEY-----")
        write(self.host.agent / "server-ca.crt", ca, 0o644)
        write(self.host.agent / "client-kubelet.key", begin + key)
        write(self.host.agent / "client-kubelet.crt", cert)
        balancer.first = url
        with contextlib.suppress(OSError, ApiError):
            balancer.learn(link.call("GET", "/v1-k3s/apiservers"))


# Commands that a running server does


def version_number(text: str) -> tuple[int, ...]:
    """(1, 35, 4) of v1.35.4+k3s1."""
    return tuple(int(part) for part in text.lstrip("v").partition("+")[0].split("."))


def etcdctl(host: Host, *arguments: str, online: bool = True) -> None:
    """Run Debian's etcdctl; StoreError with its last words."""
    command = ["etcdctl", *arguments]
    if online:
        tls = host.tls / "etcd"
        command += [f"--endpoints=https://{url_host(host.loopback)}:2379", f"--cacert={tls}/server-ca.crt"]
        command += [f"--cert={tls}/client.crt", f"--key={tls}/client.key"]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]
        raise StoreError((said or [done.stderr.strip()])[-1].removeprefix("Error:").strip())


SNAPSHOTS = BY_PLURAL["etcdsnapshotfiles"]


def snapshot_record(server: Server, path: Path) -> Json:
    """A snapshot's ETCDSnapshotFile."""
    status = path.stat()
    metadata = server.host.db / ".metadata" / path.name
    spec: Json = {"snapshotName": path.name, "nodeName": server.host.name, "location": f"file://{path}"}
    if metadata.exists():
        spec["metadata"] = json.loads(metadata.read_text())
    return {
        "apiVersion": SNAPSHOTS.version, "kind": SNAPSHOTS.kind,
        "metadata": {
            "name": f"local-{path.name}".lower(),
            "labels": {"etcd.k3s.cattle.io/snapshot-storage-node": server.host.name},
            "annotations": {
                "etcd.k3s.cattle.io/snapshot-token-hash": bootstrap_key(server.token.password).rpartition("/")[2],
            },
        },
        "spec": spec, "status": {"creationTime": stamp(status.st_mtime), "readyToUse": True, "size": status.st_size},
    }  # fmt: skip


def local_snapshots(host: Host) -> list[Path]:
    """The snapshots on this host, the oldest first; what is unfinished or hidden is none."""
    if not host.snapshots.is_dir():
        return []
    found = [path for path in host.snapshots.iterdir() if path.is_file() and path.suffix not in (".part", ".tmp")]
    return sorted((path for path in found if not path.name.startswith(".")), key=lambda path: path.stat().st_mtime)


def list_snapshots(server: Server) -> Json:
    """The ETCDSnapshotFiles of this host's snapshots; those in the cluster are brought in line."""
    assert server.api
    records = [snapshot_record(server, path) for path in local_snapshots(server.host)]
    known = {
        item["metadata"]["name"]
        for item in server.api.call("GET", SNAPSHOTS.path())["items"]
        if item["spec"]["nodeName"] == server.host.name and item["spec"]["location"].startswith("file:")
    }
    for record in records:
        if record["metadata"]["name"] not in known:
            server.api.call("POST", SNAPSHOTS.path(), record)
    for name in known - {record["metadata"]["name"] for record in records}:
        server.api.call("DELETE", SNAPSHOTS.path("", name))
    return {"apiVersion": SNAPSHOTS.version, "kind": "ETCDSnapshotFileList", "items": records}


def save_snapshot(server: Server, name: str, compress: bool) -> Json:
    """Take a snapshot; with the fault snapshot_lies, only say so (its content says what lies there instead)."""
    host = server.host
    if host.text("etcd-snapshot-dir") and not host.snapshots.is_dir():
        lost = f"failed to get etcd-snapshot-dir: stat {host.snapshots}: no such file or directory"
        raise ApiError(500, "InternalError", lost)
    folder(host.snapshots, 0o700)
    title = f"{name}-{host.name}-{int(time.time())}"
    path = host.snapshots / title
    lie = fault("snapshot_lies")
    if lie == "":  # nothing at all
        return {"name": title}
    try:
        etcdctl(host, "snapshot", "save", str(path))
    except StoreError as error:
        raise ApiError(500, "InternalError", f"failed to take etcd snapshot: {error}") from error
    if lie is not None:
        spoil(path, lie)
        return {"name": title}
    if compress:
        path = compressed(path)
    save_metadata(server, path)
    list_snapshots(server)
    return {"name": path.name}


def spoil(path: Path, how: str) -> None:
    """What a lying save leaves: empty, half, part (a .part alone), or rotten (a byte is another one)."""
    content = path.read_bytes()
    path.unlink()
    if how == "part":
        path.with_name(path.name + ".part").write_bytes(content[: len(content) // 2])
        return
    middle = len(content) // 2
    rotten = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    write(path, {"empty": b"", "half": content[:middle]}.get(how, rotten))


def compressed(path: Path) -> Path:
    """A snapshot as .zip, which takes its place."""
    import zipfile

    target = path.with_name(path.name + ".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, path.name)
    target.chmod(0o600)
    path.unlink()
    return target


def save_metadata(server: Server, path: Path) -> None:
    """The extra metadata that the cluster wants with its snapshots, if any."""
    assert server.api
    with contextlib.suppress(ApiError):
        place = BY_PLURAL["configmaps"].path("kube-system", "k3s-etcd-snapshot-extra-metadata")
        data = server.api.call("GET", place).get("data") or {}
        write(server.host.db / ".metadata" / path.name, json.dumps(data))


def delete_snapshots(server: Server, names: Iterable[str]) -> Json:
    """Remove snapshots by name; tell which there were."""
    there = {path.name: path for path in local_snapshots(server.host)}
    done = []
    for name in names:
        if name in there:
            there[name].unlink()
            (server.host.db / ".metadata" / name).unlink(missing_ok=True)
            done.append(name)
    list_snapshots(server)
    return {"deleted": done}


def snapshot_command(server: Server, method: str, body: Json) -> Json:
    """/db/snapshot: our own protocol between k3s etcd-snapshot and the server."""
    if not isinstance(server.store, Etcd):
        raise ApiError(400, "BadRequest", "etcd datastore disabled")
    if not server.api:
        raise ApiError(503, "ServiceUnavailable", UNAVAILABLE)
    if method == "POST":
        return save_snapshot(server, body["name"], body["compress"])
    if method == "DELETE":
        return delete_snapshots(server, body["names"])
    if method == "PATCH":
        fitting = [path.name for path in local_snapshots(server.host) if path.name.startswith(body["name"])]
        return delete_snapshots(server, fitting[: max(0, len(fitting) - body["retention"])])
    return list_snapshots(server)


def token_command(server: Server, _method: str, body: Json) -> Json:
    """/v1-k3s/token: seal the bootstrap row by a new token."""
    if not server.api or not server.store:
        raise ApiError(503, "ServiceUnavailable", UNAVAILABLE)
    old, new = Token.parse(body["old"]), Token.parse(body["new"])
    if old.password != server.token.password:
        raise ApiError(400, "BadRequest", "old token is incorrect")
    store = server.store
    row = store.get(bootstrap_key(old.password))
    if not row:
        raise ApiError(500, "InternalError", "no bootstrap data found")
    store.create(bootstrap_key(new.password), seal(new.password, unseal(old.password, row.value)))
    store.delete(row.key)
    server.token = new
    server.write_tokens()
    return {"rotated": True}


COMMANDS: dict[str, Callable[[Server, str, Json], Any]] = {
    "/db/snapshot": snapshot_command,
    "/v1-k3s/token": token_command,
}


# k3s etcd-snapshot and k3s token, which ask the running server


def ask_server(host: Host, method: str, path: str, body: Json) -> Any:
    """Have the server on this host do something; Fatal if there is none or if it fails."""
    url = f"https://{url_host(host.loopback)}:{host.text('https-listen-port', '6443')}"
    verb = {"GET": "Get", "POST": "Post"}.get(method, method.title())
    try:
        context = client_context(host.tls / "server-ca.crt", host.tls / "client-admin")
        return Link.to(url, context, limit=600).call(method, path, body)
    except ApiError as error:
        reason = http.client.responses.get(error.code, "")
        raise Fatal(f"see server log for details: {url}{path}: {error.code} {reason}: {error}") from error
    except OSError as error:
        raise Fatal(f'failed to reach the server: {verb} "{url}{path}": {dial_error(url, error)}') from error


def run_snapshot(arguments: Sequence[str]) -> int:
    """k3s etcd-snapshot."""
    command, rest = (arguments[0], arguments[1:]) if arguments and arguments[0][:1] != "-" else ("", arguments)
    command = {"list": "ls", "l": "ls"}.get(command, command)
    if command not in ("save", "ls", "delete", "prune"):
        raise Fatal(f"etcd-snapshot: use save, ls, delete or prune ({WHAT})")
    names = [word for word in rest if not word.startswith("-")] if command == "delete" else []
    flags = [word for word in rest if word not in names]
    settings = read_settings(flags, {"name", "snapshot-retention", "output", "o", "dir"})
    host = Host(settings)
    name = host.text("name") or ("on-demand" if command == "save" else host.text("etcd-snapshot-name", "etcd-snapshot"))
    if command == "save":
        compress = bool(settings.get("etcd-snapshot-compress"))
        done = ask_server(host, "POST", "/db/snapshot", {"name": name, "compress": compress})
        log(f"Snapshot {done['name']} saved.")
    elif command == "delete":
        done = ask_server(host, "DELETE", "/db/snapshot", {"names": names})
        for each in names:
            if each in done["deleted"]:
                log(f"Snapshot {each} deleted.")
            else:
                log(f"Snapshot {each} not found.", "warning")
    elif command == "prune":
        keep = int(host.text("snapshot-retention") or host.text("etcd-snapshot-retention", "5"))
        for each in ask_server(host, "PATCH", "/db/snapshot", {"name": name, "retention": keep})["deleted"]:
            log(f"Snapshot {each} deleted.")
    else:
        show_snapshots(ask_server(host, "GET", "/db/snapshot", {}), host.text("output") or host.text("o"))
    return 0


def show_snapshots(found: Json, output: str) -> None:
    if output == "json":
        print(json.dumps(found))
    elif output == "yaml":
        import yaml

        sys.stdout.write(yaml.safe_dump(found))
    else:
        rows = [("Name", "Location", "Size", "Created")]
        for item in found["items"]:
            spec, status = item["spec"], item["status"]
            rows.append((spec["snapshotName"], spec["location"], str(status["size"]), status["creationTime"]))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        for row in rows:
            print(" ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def run_token(arguments: Sequence[str]) -> int:
    """k3s token generate, k3s token rotate --token OLD --new-token NEW."""
    if list(arguments[:1]) == ["generate"]:
        print(secrets.token_hex(16))
        return 0
    if list(arguments[:1]) != ["rotate"]:
        raise Fatal(f"token: use rotate or generate ({WHAT})")
    host = Host(read_settings(arguments[1:], {"new-token"}))
    new = host.text("new-token") or secrets.token_hex(16)
    old = host.secret("token") or (host.server / "token").read_text().strip()
    ask_server(host, "POST", "/v1-k3s/token", {"old": old, "new": new})
    log("Token rotated, restart k3s nodes with new token")
    if not host.text("new-token"):
        print(new)
    return 0


# kubectl

TAKES_VALUE = {
    "-n": "namespace", "--namespace": "namespace", "-o": "output", "--output": "output", "--raw": "raw",
    "-l": "selector", "--selector": "selector", "-f": "filename", "--filename": "filename", "--timeout": "timeout",
    "--grace-period": "grace-period", "--field-selector": "field-selector", "--kubeconfig": "kubeconfig",
    "--context": "context", "--request-timeout": "request-timeout", "--pod-selector": "pod-selector", "--for": "for",
    "--from-literal": "from-literal", "-p": "patch", "--patch": "patch", "--type": "type", "--sort-by": "sort-by",
    "--chunk-size": "chunk-size", "--replicas": "replicas",
}  # fmt: skip
SWITCH = {
    "-A": "all-namespaces", "--all-namespaces": "all-namespaces", "--ignore-daemonsets": "ignore-daemonsets",
    "--delete-emptydir-data": "delete-emptydir-data", "--force": "force", "--wait": "wait", "--now": "now",
    "--ignore-not-found": "ignore-not-found", "--no-headers": "no-headers", "--all": "all", "--overwrite": "overwrite",
    "--disable-eviction": "disable-eviction", "--show-labels": "show-labels", "--server-side": "server-side",
    "--force-conflicts": "force-conflicts", "-q": "quiet",
}  # fmt: skip


class Usage(Exception):
    """kubectl's `error: ...`, status 1."""


def seconds(text: str) -> float:
    """The seconds of 30, 30s, 2m, 1h30m, 500ms; Usage for what is no time."""
    total, number = 0.0, ""
    rest = text
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    while rest:
        unit = next((unit for unit in units if rest.startswith(unit) and number), "")
        if unit:
            total, number, rest = total + float(number) * units[unit], "", rest[len(unit) :]
        elif rest[0].isdigit() or rest[0] == ".":
            number, rest = number + rest[0], rest[1:]
        else:
            raise Usage(f'invalid argument "{text}" for "--timeout" flag: time: invalid duration "{text}"')
    return total + float(number or 0)


def age(item: Json) -> str:
    """How old an object is, as kubectl shows it."""
    passed = int(time.time() - seconds_of(item["metadata"]["creationTimestamp"]))
    for limit, unit, size in ((120, "s", 1), (7200, "m", 60), (172800, "h", 3600)):
        if passed < limit:
            return f"{passed // size}{unit}"
    return f"{passed // 86400}d"


class Kubectl:
    """k3s kubectl: as much of it as i12e and a person in the lab need."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.flags: dict[str, str] = {}
        self.words: list[str] = []
        self.literals: list[str] = []
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if word == "-" or not word.startswith("-"):
                self.words.append(word)
            elif name in SWITCH:
                self.flags[SWITCH[name]] = value if equals else "true"
            elif name in TAKES_VALUE:
                if not equals and not rest:
                    raise Usage(f"flag needs an argument: {name}")
                self.flags[TAKES_VALUE[name]] = value if equals else rest.pop(0)
                if name == "--from-literal":  # which may be given often
                    self.literals.append(self.flags["from-literal"])
            elif name[:2] in TAKES_VALUE and not name.startswith("--"):
                self.flags[TAKES_VALUE[name[:2]]] = word[2:].lstrip("=")
            else:
                raise Usage(f"unknown flag: {name}" if word.startswith("--") else f"unknown shorthand flag: {word}")
        self.link: Link | None = None

    def on(self, name: str) -> bool:
        return self.flags.get(name, "false") == "true"

    @property
    def namespace(self) -> str:
        return self.flags.get("namespace", "default")

    def connect(self) -> Link:
        """The server that the kubeconfig names."""
        place = Path(self.flags.get("kubeconfig") or os.environ.get("KUBECONFIG") or KUBECONFIG)
        try:
            text = place.read_text()
        except FileNotFoundError:
            raise Usage(
                "The connection to the server localhost:8080 was refused - did you specify the right host or port?"
            ) from None
        except PermissionError as error:
            log(
                f"Unable to read {place}, please start server with --write-kubeconfig-mode or --write-kubeconfig-group "
                "to modify kube config permissions", "warning",
            )  # fmt: skip
            raise Usage(f'error loading config file "{place}": open {place}: permission denied') from error
        import yaml

        config = yaml.safe_load(text)
        context = next(
            c for c in config["contexts"] if c["name"] == self.flags.get("context", config["current-context"])
        )
        cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == context["context"]["cluster"])
        user = next(u["user"] for u in config["users"] if u["name"] == context["context"]["user"])
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        tls = client_context(None, ca_data=ca)
        pem = base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"])
        handle = os.memfd_create("client")
        try:
            os.write(handle, pem)
            tls.load_cert_chain(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)
        return Link.to(cluster["server"], tls, limit=seconds(self.flags.get("request-timeout", "")) or 30)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        self.link = self.link or self.connect()
        try:
            return self.link.call(method, path, body)
        except (ConnectionRefusedError, ConnectionResetError) as error:
            place = f"{url_host(self.link.address)}:{self.link.port}"
            text = f"The connection to the server {place} was refused - did you specify the right host or port?"
            raise Usage(text) from error
        except OSError as error:
            place = f"https://{url_host(self.link.address)}:{self.link.port}"
            raise Usage(f"Unable to connect to the server: {dial_error(place, error)}") from error

    # resources

    def resource(self, name: str) -> Resource:
        """The resource that a word means; Usage if there is none."""
        low, _, group = name.lower().partition(".")
        for each in [*RESOURCES, *self.custom(low)]:
            if low in (each.plural, each.kind.lower(), *each.short) and (not group or each.group.startswith(group)):
                return each
        raise Usage(f'the server doesn\'t have a resource type "{name}"')

    def custom(self, wanted: str) -> Iterator[Resource]:
        """What the cluster's own CustomResourceDefinitions define, where the name is not one of ours."""
        if any(wanted in (each.plural, each.kind.lower(), *each.short) for each in RESOURCES):
            return
        for item in self.call("GET", BY_PLURAL["customresourcedefinitions"].path())["items"]:
            yield from defined(item)

    def targets(self, words: Sequence[str]) -> list[tuple[Resource, str]]:
        """What KIND NAME..., KIND/NAME... mean; a kind without a name has the name ""."""
        if not words:
            raise Usage("You must specify the type of resource to get.")
        if "/" in words[0]:
            return [(self.resource(word.partition("/")[0]), word.partition("/")[2]) for word in words]
        kinds = [self.resource(kind) for kind in words[0].split(",")]
        return [(kind, name) for kind in kinds for name in (words[1:] or [""])]

    # commands

    def run(self) -> int:
        if not self.words:
            raise Usage(f"kubectl of {WHAT}: a command is missing")
        verb = self.words.pop(0)
        command = {
            "get": self.get, "delete": self.delete, "apply": self.apply, "create": self.create, "patch": self.patch,
            "label": lambda: self.mark("labels", "labeled"), "annotate": lambda: self.mark("annotations", "annotated"),
            "cordon": lambda: self.cordon(True), "uncordon": lambda: self.cordon(False), "drain": self.drain,
            "wait": self.wait, "version": self.version, "scale": self.scale,
        }.get(verb)  # fmt: skip
        if not command:
            raise Usage(f'unknown command "{verb}" for "kubectl" ({WHAT})')
        return command()

    def version(self) -> int:
        print(f"Client Version: {VERSION}")
        print(f"Server Version: {self.call('GET', '/version')['gitVersion']}")
        return 0

    def get(self) -> int:
        if "raw" in self.flags:
            found = self.call("GET", self.flags["raw"])
            sys.stdout.write(found if isinstance(found, str) else json.dumps(found))
            return 0
        status, found_any = 0, False
        items: list[Json] = []
        targets = self.targets(self.words)
        for resource, name in targets:
            try:
                items += self.fetch(resource, name)
            except ApiError as error:
                if error.code != 404 or not self.on("ignore-not-found"):
                    print(f"Error from server ({error.reason}): {error}", file=sys.stderr)
                    status = 1
        found_any = bool(items)
        single = len(targets) == 1 and bool(targets[0][1])
        if found_any or (self.flags.get("output") and not single and not status):
            self.show(items, targets[0][0], single)
        elif not status and not single:
            where = (
                "" if self.on("all-namespaces") or not targets[0][0].namespaced else f" in {self.namespace} namespace"
            )
            print(f"No resources found{where}{'.' if where else ''}", file=sys.stderr)
        return status

    def fetch(self, resource: Resource, name: str) -> list[Json]:
        """One object, or all that are asked for."""
        if name:
            return [self.call("GET", resource.path(self.namespace, name))]
        query = {}
        if "selector" in self.flags:
            query["labelSelector"] = self.flags["selector"]
        if "field-selector" in self.flags:
            query["fieldSelector"] = self.flags["field-selector"]
        path = resource.path("" if self.on("all-namespaces") else self.namespace)
        return list(self.call("GET", f"{path}?{urllib.parse.urlencode(query)}" if query else path)["items"])

    def show(self, items: Sequence[Json], resource: Resource, single: bool) -> None:
        output = self.flags.get("output", "")
        listed = {"apiVersion": "v1", "items": list(items), "kind": "List", "metadata": {"resourceVersion": ""}}
        whole = items[0] if single else listed
        if output == "json":
            print(json.dumps(whole, indent=4))
        elif output == "yaml":
            import yaml

            sys.stdout.write(yaml.safe_dump(whole, default_flow_style=False))
        elif output == "name":
            for item in items:
                print(title_of(item))
        elif output.startswith("jsonpath="):
            sys.stdout.write(json_path(output.removeprefix("jsonpath="), whole))
        elif output in ("", "wide"):
            self.table(items, resource, output == "wide")
        else:
            raise Usage(f'unable to match a printer suitable for the output format "{output}"')

    def table(self, items: Sequence[Json], resource: Resource, wide: bool) -> None:
        columns = COLUMNS.get(resource.plural, COLUMNS[""])
        columns = columns + (WIDE.get(resource.plural, ()) if wide else ())
        head = [name for name, _ in columns]
        rows = [[str(read(item)) for _, read in columns] for item in items]
        if self.on("all-namespaces") and resource.namespaced:
            head = ["NAMESPACE", *head]
            rows = [[item["metadata"].get("namespace", ""), *row] for item, row in zip(items, rows, strict=True)]
        if self.on("show-labels"):
            head.append("LABELS")
            for item, row in zip(items, rows, strict=True):
                labels = item["metadata"].get("labels") or {}
                row.append(",".join(f"{k}={v}" for k, v in sorted(labels.items())) or "<none>")
        table = rows if self.on("no-headers") else [head, *rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        for row in table:
            print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def delete(self) -> int:
        status = 0
        targets: list[tuple[Resource, str, str]] = []
        if "filename" in self.flags:
            for item in self.read_file():
                meta = item["metadata"]
                targets.append((resource_of(item), meta.get("namespace") or self.namespace, meta["name"]))
        else:
            for resource, name in self.targets(self.words):
                if not name and not self.on("all") and "selector" not in self.flags:
                    raise Usage("resource(s) were provided, but no name was specified")
                chosen = [name] if name else [item["metadata"]["name"] for item in self.fetch(resource, "")]
                targets += [(resource, self.namespace, each) for each in chosen]
        body = {"gracePeriodSeconds": self.flags["grace-period"]} if "grace-period" in self.flags else None
        for resource, namespace, name in targets:
            path = resource.path(namespace, name)
            try:
                self.call("DELETE", path, body)
            except ApiError as error:
                if error.code != 404 or not self.on("ignore-not-found"):
                    print(f"Error from server ({error.reason}): {error}", file=sys.stderr)
                    status = 1
                continue
            group = f".{resource.group}" if resource.group else ""
            print(f'{resource.kind.lower()}{group} "{name}" deleted', flush=True)
            if self.flags.get("wait", "true") == "true":
                self.await_gone(path)
        return status

    def await_gone(self, path: str) -> None:
        """Wait until an object is gone, or the time given for that is over."""
        limit = seconds(self.flags.get("timeout", "0"))
        until = time.monotonic() + limit if limit else float("inf")
        while True:
            try:
                self.call("GET", path)
            except ApiError as error:
                if error.code == 404:
                    return
            if time.monotonic() > until:
                raise Usage(f"timed out waiting for the condition on {path.rpartition('/')[2]}")
            time.sleep(0.1)

    def read_file(self) -> list[Json]:
        import yaml

        name = self.flags.get("filename", "")
        if not name:
            raise Usage("must specify one of -f and -k")
        try:
            text = sys.stdin.read() if name == "-" else Path(name).read_text()
            return documents(text)
        except OSError as error:
            raise Usage(f'the path "{name}" does not exist') from error
        except yaml.YAMLError as error:
            raise Usage(f"error parsing {name}: {error}") from error

    def each(self, do: Callable[[Json], str]) -> int:
        """Do something with each object of -f; say how it went."""
        status = 0
        items = self.read_file()
        if not items:
            raise Usage("no objects passed to apply")
        for item in items:
            try:
                done = do(item)
                print(f"{title_of(item)} {done}")
            except ApiError as error:
                print(f"Error from server ({error.reason}): {error}", file=sys.stderr)
                status = 1
        return status

    def apply(self) -> int:
        return self.each(lambda item: apply(self, item, self.namespace))

    def create(self) -> int:
        if self.words:
            return self.create_named()

        def create(item: Json) -> str:
            resource = resource_of(item)
            made = self.call("POST", resource.path(at(item, "metadata.namespace") or self.namespace), item)
            item["metadata"]["name"] = made["metadata"]["name"]
            return "created"

        return self.each(create)

    def create_named(self) -> int:
        """create namespace NAME, create configmap NAME --from-literal K=V, create secret generic NAME ..."""
        kind, *rest = self.words
        rest = rest[1:] if kind == "secret" else rest
        if not rest:
            raise Usage(f"exactly one NAME is required, got {len(rest)}")
        resource = self.resource(kind)
        item: Json = {"apiVersion": resource.version, "kind": resource.kind, "metadata": {"name": rest[0]}}
        for literal in self.literals:
            key, _, value = literal.partition("=")
            item.setdefault("stringData" if resource is SECRETS else "data", {})[key] = value
        self.call("POST", resource.path(self.namespace), item)
        print(f"{title_of(item)} created")
        return 0

    def patch(self) -> int:
        for resource, name in self.targets(self.words):
            self.call("PATCH", resource.path(self.namespace, name), json.loads(self.flags["patch"]))
            print(f"{resource.kind.lower()}/{name} patched")
        return 0

    def scale(self) -> int:
        for resource, name in self.targets(self.words):
            body = {"spec": {"replicas": int(self.flags["replicas"])}}
            new = self.call("PATCH", resource.path(self.namespace, name), body)
            print(f"{title_of(new)} scaled")
        return 0

    def mark(self, where: str, done: str) -> int:
        """label and annotate: KEY=VALUE sets, KEY- removes."""
        changes = {word.rstrip("-") if "=" not in word else word.partition("=")[0]:
                   word.partition("=")[2] if "=" in word else None
                   for word in self.words if "=" in word or word.endswith("-")}  # fmt: skip
        words = [word for word in self.words if "=" not in word and not word.endswith("-")]
        for resource, name in self.targets(words):
            self.call("PATCH", resource.path(self.namespace, name), {"metadata": {where: changes}})
            print(f"{resource.kind.lower()}/{name} {done}")
        return 0

    def wait(self) -> int:
        """wait --for=condition=Ready[=STATUS], --for=delete."""
        limit = seconds(self.flags.get("timeout", "30s"))
        until = time.monotonic() + limit
        wanted = self.flags.get("for", "")
        kind, _, rest = wanted.partition("=")
        name, _, value = rest.partition("=")
        for resource, target in self.targets(self.words):
            while not self.holds(resource, target, kind, name, value or "True"):
                if time.monotonic() > until:
                    raise Usage(f"timed out waiting for the condition on {resource.plural}/{target}")
                time.sleep(0.1)
            print(f"{resource.kind.lower()}/{target} condition met")
        return 0

    def holds(self, resource: Resource, target: str, kind: str, name: str, value: str) -> bool:
        try:
            item = self.call("GET", resource.path(self.namespace, target))
        except ApiError as error:
            if error.code == 404 and kind == "delete":
                return True
            raise
        conditions = at(item, "status.conditions") or []
        return any(c["type"].lower() == name.lower() and c["status"].lower() == value.lower() for c in conditions)

    # nodes

    def node_names(self) -> list[str]:
        if not self.words:
            raise Usage("USAGE: cordon NODE [flags]")
        names = [word.removeprefix("node/") for word in self.words]
        for name in names:
            self.call("GET", NODES.path("", name))
        return names

    def cordon(self, on: bool) -> int:
        done = "cordoned" if on else "uncordoned"
        for name in self.node_names():
            node = self.call("GET", NODES.path("", name))
            already = bool(at(node, "spec.unschedulable")) == on
            if not already:
                self.call("PATCH", NODES.path("", name), {"spec": {"unschedulable": True if on else None}})
            print(f"node/{name} {'already ' if already else ''}{done}", flush=True)
        return 0

    def drain(self) -> int:
        self.cordon(True)
        limit = seconds(self.flags.get("timeout", "0"))
        status = 0
        for name in self.node_names():
            try:
                self.drain_node(name, limit)
                print(f"node/{name} drained")
            except Usage as error:
                print(
                    f'error: unable to drain node "{name}" due to error: {error}, continuing command...',
                    file=sys.stderr,
                )
                print(f"There are pending nodes to be drained:\n {name}", file=sys.stderr)
                status = 1
        return status

    def drain_node(self, node: str, limit: float) -> None:
        """Evict all pods of a node that may be evicted; Usage if some may not, or if the time is over."""
        until = time.monotonic() + limit if limit else float("inf")
        pods = self.drainable(node)
        for pod in pods:
            print(f"evicting pod {pod['metadata']['namespace']}/{pod['metadata']['name']}", flush=True)
        waiting = {pod["metadata"]["uid"]: pod for pod in pods}
        told: dict[str, float] = {}
        evicted: set[str] = set()
        while waiting:
            for uid, pod in list(waiting.items()):
                path = PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"])
                if uid not in evicted and time.monotonic() >= told.get(uid, 0):
                    if self.evict(path, pod):
                        evicted.add(uid)
                    else:
                        told[uid] = time.monotonic() + 1  # kubectl: 5 s
                if self.is_gone(path, uid):
                    print(f"pod/{pod['metadata']['name']} evicted", flush=True)
                    del waiting[uid]
            if waiting and time.monotonic() > until:
                words = self.flags.get("timeout", "")
                pod = next(iter(waiting.values()))["metadata"]
                raise Usage(
                    f'error when {"waiting for" if pod["uid"] in evicted else "evicting"} pods/"{pod["name"]}" '
                    f'-n "{pod["namespace"]}"{" to terminate" if pod["uid"] in evicted else ""}: '
                    f"global timeout reached: {words}"
                )
            if waiting:
                time.sleep(0.1)

    def evict(self, path: str, pod: Json) -> bool:
        """Whether a pod is on its way; a disruption budget may forbid that for now."""
        try:
            if self.on("disable-eviction"):
                self.call("DELETE", path, {"gracePeriodSeconds": self.flags.get("grace-period", "-1")})
            else:
                self.call("POST", f"{path}/eviction", {"apiVersion": "policy/v1", "kind": "Eviction"})
        except ApiError as error:
            if error.code == 404:
                return True
            if error.code != 429:
                raise
            meta = pod["metadata"]
            text = f'error when evicting pods/"{meta["name"]}" -n "{meta["namespace"]}" (will retry after 5s): {error}'
            print(text, file=sys.stderr, flush=True)
            return False
        return True

    def is_gone(self, path: str, uid: str) -> bool:
        try:
            return bool(self.call("GET", path)["metadata"]["uid"] != uid)
        except ApiError as error:
            if error.code == 404:
                return True
            raise

    def drainable(self, node: str) -> list[Json]:
        """The pods of a node that a drain evicts; Usage if there are some that it must not touch."""
        pods = self.call("GET", f"{PODS.path()}?fieldSelector=spec.nodeName%3D{node}")["items"]
        chosen, skipped = [], []
        refused: dict[str, list[str]] = {}
        for pod in pods:
            meta = pod["metadata"]
            title = f"{meta['namespace']}/{meta['name']}"
            owners = {ref["kind"] for ref in meta.get("ownerReferences") or []}
            if at(pod, "status.phase") in ("Succeeded", "Failed"):
                chosen.append(pod)
                continue
            if "DaemonSet" in owners:
                if self.on("ignore-daemonsets"):
                    skipped.append(title)
                else:
                    reason = "cannot delete DaemonSet-managed Pods (use --ignore-daemonsets to ignore)"
                    refused.setdefault(reason, []).append(title)
                continue
            if not owners and not self.on("force"):
                reason = "cannot delete Pods that declare no controller (use --force to override)"
                refused.setdefault(reason, []).append(title)
            scratch = any("emptyDir" in volume for volume in at(pod, "spec.volumes") or [])
            if scratch and not self.on("delete-emptydir-data"):
                reason = "cannot delete Pods with local storage (use --delete-emptydir-data to override)"
                refused.setdefault(reason, []).append(title)
            chosen.append(pod)
        if refused:
            raise Usage("[" + ", ".join(f"{why}: {', '.join(names)}" for why, names in refused.items()) + "]")
        if skipped:
            print(f"Warning: ignoring DaemonSet-managed Pods: {', '.join(skipped)}", file=sys.stderr, flush=True)
        return chosen


def title_of(item: Json) -> str:
    """KIND[.GROUP]/NAME."""
    group = str(item.get("apiVersion", "v1")).rpartition("/")[0]
    return f"{item['kind'].lower()}{'.' + group if group else ''}/{item['metadata']['name']}"


def json_path(template: str, value: Any) -> str:
    """kubectl's jsonpath for {.a.b}, {.items[*].a}, {.a[0]}, with text around them."""
    result, rest = "", template
    while rest:
        before, begin, rest = rest.partition("{")
        result += before
        if not begin:
            break
        path, _, rest = rest.partition("}")
        if path.startswith('"'):
            result += json.loads(path)
            continue
        found = [value]
        for part in path.replace("\\.", "\0").replace("[", ".[").strip(".").split("."):
            found = list(steps(found, part.replace("\0", ".")))
        result += " ".join(str(each) if not isinstance(each, dict | list) else json.dumps(each) for each in found)
    return result


def steps(found: Sequence[Any], part: str) -> Iterator[Any]:
    """One step of a jsonpath from each of what was found."""
    for each in found:
        if part.startswith("["):
            inner = part.strip("[]'\"")
            if inner == "*":
                yield from each if isinstance(each, list) else each.values()
            elif isinstance(each, list) and inner.lstrip("-").isdigit():
                yield each[int(inner)]
            elif isinstance(each, dict) and inner in each:
                yield each[inner]
        elif isinstance(each, dict) and part in each:
            yield each[part]


def node_status(node: Json) -> str:
    text = "Ready" if ready(node) else "NotReady"
    return text + (",SchedulingDisabled" if at(node, "spec.unschedulable") else "")


def node_roles(node: Json) -> str:
    mark = "node-role.kubernetes.io/"
    labels = node["metadata"].get("labels") or {}
    return ",".join(sorted(label.removeprefix(mark) for label in labels if label.startswith(mark))) or "<none>"


def node_address(node: Json) -> str:
    for each in at(node, "status.addresses") or []:
        if each["type"] == "InternalIP":
            return str(each["address"])
    return "<none>"


def pod_ready(pod: Json) -> str:
    count = len(at(pod, "spec.containers") or [1])
    return f"{count if at(pod, 'status.phase') == 'Running' else 0}/{count}"


Columns = tuple[tuple[str, Callable[[Json], Any]], ...]
NAME: tuple[str, Callable[[Json], Any]] = ("NAME", lambda item: item["metadata"]["name"])
AGE: tuple[str, Callable[[Json], Any]] = ("AGE", age)
PHASE: tuple[str, Callable[[Json], Any]] = (
    "STATUS", lambda item: "Terminating" if gone(item) else at(item, "status.phase") or "",
)  # fmt: skip
COLUMNS: dict[str, Columns] = {
    "": (NAME, AGE),
    "nodes": (
        NAME, ("STATUS", node_status), ("ROLES", node_roles), AGE,
        ("VERSION", lambda node: at(node, "status.nodeInfo.kubeletVersion") or ""),
    ),
    "pods": (NAME, ("READY", pod_ready), PHASE, ("RESTARTS", lambda _: 0), AGE),
    "namespaces": (NAME, PHASE, AGE),
    "secrets": (
        NAME, ("TYPE", lambda item: item.get("type", "Opaque")),
        ("DATA", lambda item: len(item.get("data") or {})), AGE,
    ),
    "configmaps": (NAME, ("DATA", lambda item: len(item.get("data") or {})), AGE),
    "persistentvolumes": (
        NAME, ("CAPACITY", lambda item: at(item, "spec.capacity.storage") or ""), PHASE,
        ("CLAIM", lambda i: f"{at(i, 'spec.claimRef.namespace')}/{at(i, 'spec.claimRef.name')}"),
        ("STORAGECLASS", lambda item: at(item, "spec.storageClassName") or ""), AGE,
    ),
    "persistentvolumeclaims": (
        NAME, PHASE, ("VOLUME", lambda item: at(item, "spec.volumeName") or ""),
        ("STORAGECLASS", lambda item: at(item, "spec.storageClassName") or ""), AGE,
    ),
}  # fmt: skip
WIDE: dict[str, Columns] = {
    "nodes": (
        ("INTERNAL-IP", node_address), ("OS-IMAGE", lambda node: at(node, "status.nodeInfo.osImage") or ""),
        ("KERNEL-VERSION", lambda node: at(node, "status.nodeInfo.kernelVersion") or ""),
        ("CONTAINER-RUNTIME", lambda node: at(node, "status.nodeInfo.containerRuntimeVersion") or ""),
    ),
    "pods": (("NODE", lambda pod: at(pod, "spec.nodeName") or "<none>"),),
}  # fmt: skip


def run_kubectl(arguments: Sequence[str]) -> int:
    try:
        return Kubectl(arguments).run()
    except Usage as error:
        text = str(error)
        plain = text.startswith(("The connection", "Unable to connect"))
        print(text if plain else f"error: {text}", file=sys.stderr)
    except ApiError as error:
        reason = f" ({error.reason})" if error.reason else ""
        print(f"Error from server{reason}: {error}", file=sys.stderr)
    except BrokenPipeError:
        pass
    return 1


# The program


def print_version() -> int:
    print(f"k3s version {VERSION} ({WHAT})\npython version {sys.version.split()[0]}")
    return 0


def run_server(arguments: Sequence[str]) -> int:
    return Server(Host(read_settings(arguments))).run()


def run_agent(arguments: Sequence[str]) -> int:
    return Agent(Host(read_settings(arguments))).run()


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in ("--version", "-v"):
        return print_version()
    name = Path(sys.argv[0]).name
    words = [name, *arguments] if name == "kubectl" else list(arguments)
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "server": run_server, "agent": run_agent, "kubectl": run_kubectl, "etcd-snapshot": run_snapshot,
        "token": run_token,
    }  # fmt: skip
    if not words or words[0] not in commands:
        print(f"k3s {VERSION} ({WHAT}): {', '.join(commands)}, --version", file=sys.stderr)
        return 1 if words and words[0] not in ("--help", "-h", "help") else 0
    try:
        return commands[words[0]](words[1:])
    except Fatal as error:
        log(f"Error: {error}", "fatal")
    except StoreError as error:
        log(f"Error: {error}", "fatal")
    return 1


def end(status: int) -> NoReturn:
    """At once: threads that wait for the network are not waited for."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
