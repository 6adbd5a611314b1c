#!/usr/bin/python3
"""Stands in for k3s in the lab of i12e: NOT k3s. No containers, no Kubernetes API; docs/simulated.md says what it is.

It keeps k3s's command line, config files, file layout, log lines and exit statuses as far as i12e rests on them, on
a real etcd (Debian's, without TLS) or a real SQLite file in kine's schema. Objects are JSON below /registry. What
kubectl asks is answered by the server from the datastore; agents and joining servers talk to /i12e/... on 6443, which
is this file's own protocol.

It runs on a host of the lab with Debian's Python: standard library, python3-cryptography, python3-yaml.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import http.server
import ipaddress
import json
import os
import re
import secrets
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

VERSION = "v1.35.4+k3s1"
ROOT = os.environ.get("I12E_ROOT", "")  # tests run it on a tree of their own
DATA = Path(f"{ROOT}/var/lib/rancher/k3s")
ETC = Path(f"{ROOT}/etc/rancher")
FAULTS = Path(f"{ROOT}/lab")
STALE = 6.0  # seconds without a heartbeat after which a node is not ready; k3s waits for 40
Object = dict[str, Any]


def log(level: str, message: str) -> None:
    """Write a line as k3s does."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    print(f'time="{now}" level={level} msg={json.dumps(message)}', file=sys.stderr, flush=True)


def fatal(message: str) -> NoReturn:
    """Say why k3s ends, and end."""
    log("fatal", message)
    os._exit(1)


def notify(text: str) -> None:
    """Tell systemd."""
    place = os.environ.get("NOTIFY_SOCKET")
    if place:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + place[1:] if place.startswith("@") else place)
            channel.sendall(text.encode())


def fault(kind: str) -> bool:
    """Tell whether the lab has switched this fault on."""
    return (FAULTS / kind).exists()


def now() -> str:
    """The time as Kubernetes writes it."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def write(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file whole, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(mode)
    new.replace(path)


def config() -> Object:
    """Read config.yaml and config.yaml.d, where a later file's key replaces an earlier one's."""
    import yaml

    found: Object = {}
    folder = ETC / "k3s"
    for path in [folder / "config.yaml", *sorted((folder / "config.yaml.d").glob("*.yaml"))]:
        if path.exists():
            found.update(yaml.safe_load(path.read_text()) or {})
    return found


def password(token: str) -> str:
    """The secret part of a token, whole or short."""
    return token.rpartition(":")[2] if token.startswith("K10") else token


# --- datastores


class Unavailable(Exception):
    """The datastore does not answer: no quorum, say."""


class Etcd:
    """A real etcd beside us, by its JSON gateway."""

    def __init__(self, url: str = "http://127.0.0.1:2379") -> None:
        self.url = url

    def call(self, what: str, body: Object, limit: float = 4.0) -> Object:
        """Given a method of etcd's API and its arguments, return the answer; raise Unavailable."""
        request = urllib.request.Request(f"{self.url}/v3/{what}", json.dumps(body).encode())  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=limit) as answer:  # noqa: S310
                found: Object = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            raise Unavailable(error.read().decode(errors="replace")) from None
        except (OSError, ValueError) as error:
            raise Unavailable(str(error)) from None

    def get(self, prefix: str) -> dict[str, str]:
        """Return all keys below a prefix."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        found = self.call("kv/range", {"key": _b64(prefix), "range_end": _b64(end)})
        return {_unb64(kv["key"]): _unb64(kv.get("value", "")) for kv in found.get("kvs", ())}

    def put(self, key: str, value: str) -> None:
        """Write a key."""
        self.call("kv/put", {"key": _b64(key), "value": _b64(value)})

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.call("kv/deleterange", {"key": _b64(key)})

    def members(self) -> list[Object]:
        """Return the members."""
        return list(self.call("cluster/member/list", {})["members"])


class Sqlite:
    """A SQLite file in kine's schema."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._lock = threading.Lock()
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS kine (id INTEGER PRIMARY KEY AUTOINCREMENT, name INTEGER, created INTEGER,"
            " deleted INTEGER, create_revision INTEGER, prev_revision INTEGER, lease INTEGER, value BLOB,"
            " old_value BLOB)"
        )
        self._db.execute("CREATE INDEX IF NOT EXISTS kine_name_index ON kine (name)")

    def get(self, prefix: str) -> dict[str, str]:
        """Return all keys below a prefix."""
        rows = "SELECT MAX(id), name, deleted, value FROM kine WHERE substr(name, 1, ?) = ? GROUP BY name"
        with self._lock:
            found = self._db.execute(rows, (len(prefix), prefix)).fetchall()
        return {name: bytes(value or b"").decode() for _, name, deleted, value in found if not deleted}

    def put(self, key: str, value: str) -> None:
        """Write a key."""
        self._add(key, value.encode(), 0)

    def delete(self, key: str) -> None:
        """Remove a key."""
        self._add(key, b"", 1)

    def _add(self, key: str, value: bytes, deleted: int) -> None:
        with self._lock:
            last = self._db.execute(
                "SELECT MAX(id), create_revision, value FROM kine WHERE name = ?", (key,)
            ).fetchone()
            self._db.execute(
                "INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value)"
                " VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
                (key, int(last[0] is None), deleted, last[1] or 0, last[0] or 0, value, last[2]),
            )

    def members(self) -> list[Object]:
        """There are none."""
        return []


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _unb64(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")


# --- what the datastore keeps for a new server: the CA, sealed with the token


def bootstrap_key(token: str) -> str:
    """The name of the row."""
    return f"/bootstrap/{hashlib.sha256(password(token).encode()).hexdigest()[:12]}"


def _cipher(token: str, salt: str) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(hashlib.pbkdf2_hmac("sha1", password(token).encode(), salt.encode(), 4096, 32))


def seal(token: str, files: dict[str, str]) -> str:
    """Given the files of the bootstrap, return the row as k3s writes it."""
    salt, nonce = secrets.token_hex(8), secrets.token_bytes(12)
    plain = json.dumps({name: {"Timestamp": now(), "Content": _b64(text)} for name, text in files.items()})
    sealed = _cipher(token, salt).encrypt(nonce, plain.encode(), None)
    return f"{salt}:{base64.b64encode(nonce + sealed).decode()}"


def unseal(token: str, row: str) -> dict[str, str]:
    """Given the row, return the files."""
    salt, _, rest = row.partition(":")
    raw = base64.b64decode(rest)
    plain = json.loads(_cipher(token, salt).decrypt(raw[:12], raw[12:], None))
    return {name: _unb64(entry["Content"]) for name, entry in plain.items()}


def make_ca(name: str) -> tuple[str, str]:
    """Return a new CA's certificate and key."""
    return _certificate(name, None, [])


def _certificate(name: str, issuer: tuple[str, str] | None, names: list[str]) -> tuple[str, str]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    start = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - dt.timedelta(hours=1))
        .not_valid_after(start + dt.timedelta(days=3650))
    )
    if issuer is None:
        made = made.issuer_name(subject).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        certificate = made.sign(key, hashes.SHA256())
    else:
        ca = x509.load_pem_x509_certificate(issuer[0].encode())
        ca_key: Any = serialization.load_pem_private_key(issuer[1].encode(), None)
        sans = [_san(text) for text in names]
        made = made.issuer_name(ca.subject).add_extension(x509.SubjectAlternativeName(sans), critical=False)
        certificate = made.sign(ca_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    form, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    return certificate.public_bytes(pem).decode(), key.private_bytes(pem, form, plain).decode()


def _san(text: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


# --- talking to another server


class Rejected(Exception):
    """A server said no."""


def post(url: str, path: str, body: Object, token: str, limit: float = 10.0) -> Object:
    """Given a server's URL and a request of our own, return its answer; raise Rejected or OSError."""
    context = ssl._create_unverified_context()  # noqa: S323  # a stand-in: k3s checks the CA by the token
    request = urllib.request.Request(  # noqa: S310
        f"{url}{path}", json.dumps(body).encode(), {"Authorization": f"Bearer {password(token)}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=limit, context=context) as answer:  # noqa: S310
            found: Object = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        raise Rejected(error.read().decode(errors="replace")) from None


# --- objects

_CLUSTER_WIDE = {"nodes", "namespaces", "persistentvolumes", "customresourcedefinitions", "clusterroles",
                 "clusterrolebindings", "storageclasses", "priorityclasses"}  # fmt: skip
_SHORT = {
    "no": "nodes", "node": "nodes", "po": "pods", "pod": "pods", "ns": "namespaces", "namespace": "namespaces",
    "cm": "configmaps", "configmap": "configmaps", "secret": "secrets", "pv": "persistentvolumes",
    "persistentvolume": "persistentvolumes", "pvc": "persistentvolumeclaims", "svc": "services",
    "persistentvolumeclaim": "persistentvolumeclaims", "pdb": "poddisruptionbudgets", "ds": "daemonsets",
    "deploy": "deployments", "sa": "serviceaccounts",
}  # fmt: skip


def plural(kind: str) -> str:
    """Given a kind or what kubectl calls it, return the name of its folder in the registry."""
    low = kind.partition(".")[0].lower()
    if low in _SHORT:
        return _SHORT[low]
    if low.endswith("s") and not low.endswith("ss"):
        return low
    return low[:-1] + "ies" if low.endswith("y") else low + ("es" if low.endswith(("ss", "x", "ch")) else "s")


def key_of(kind: str, namespace: str, name: str) -> str:
    """Where an object is kept; nodes are "minions" for historical reasons, in k3s too."""
    folder = plural(kind)
    where = "minions" if folder == "nodes" else folder
    return f"/registry/{where}/{name}" if folder in _CLUSTER_WIDE else f"/registry/{where}/{namespace}/{name}"


class Server:
    """`k3s server`."""

    def __init__(self, settings: Object) -> None:
        self.settings = settings
        self.name = str(settings.get("node-name") or socket.gethostname())
        self.address = str(settings.get("node-ip") or "127.0.0.1").partition(",")[0]
        self.token = str(settings.get("token") or "")
        self.agent_token = str(settings.get("agent-token") or self.token)
        self.folder = DATA / "server"
        self.db = self.folder / "db"
        self.store: Any = None
        self.etcd: subprocess.Popen[bytes] | None = None
        self.admin = secrets.token_hex(16)
        self.ready = False
        self._manifests: dict[str, int] = {}

    # --- start

    def run(self) -> NoReturn:
        """Start, and serve until we are stopped."""
        signal.signal(signal.SIGTERM, lambda number, frame: self.stop())
        signal.signal(signal.SIGINT, lambda number, frame: self.stop())
        log("info", f"Starting k3s {VERSION} (i12e lab stand-in, not k3s)")
        if not self.token:
            place = self.folder / "token"
            self.token = place.read_text().strip() if place.exists() else secrets.token_hex(16)
        self._open_store()
        files = self._bootstrap()
        self._write_files(files)
        self._serve(files)
        self._register_self()
        threading.Thread(target=self._loop, daemon=True).start()
        while not self._is_ready() or fault("k3s_never_ready"):
            self._watch_etcd()
            time.sleep(0.1)
        self.ready = True
        log("info", "k3s is up and running")
        notify("READY=1")
        while True:
            self._watch_etcd()
            time.sleep(0.2)

    def stop(self) -> NoReturn:
        """End, and etcd with us."""
        if self.etcd is not None:
            self.etcd.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.etcd.wait(8)
            self.etcd.kill()
        os._exit(0)

    def _open_store(self) -> None:
        etcd, state = self.db / "etcd", self.db / "state.db"
        url = str(self.settings.get("server") or "")
        if (etcd / "tombstone").exists():
            if not url:
                log("warning", "this server was removed from the etcd cluster; a new cluster is founded")
            etcd.rename(self.db / f"etcd-old-{int(time.time())}")
        if (etcd / "member/wal").is_dir():
            log("info", "Managed etcd cluster bootstrap already complete and initialized")
            self._start_etcd((etcd / "name").read_text().strip(), "", "existing")
        elif url:
            self._join(url)
        elif self.settings.get("cluster-init"):
            name = f"{self.name}-{secrets.token_hex(4)}"
            self._start_etcd(name, f"{name}=http://{self.address}:2380", "new")
            if state.exists():
                self._migrate(state)
        else:
            self.store = Sqlite(state)

    def _join(self, url: str) -> None:
        log("info", f"Managed etcd cluster not yet initialized, joining {url}")
        name = f"{self.name}-{secrets.token_hex(4)}"
        while True:
            try:
                told = post(url, "/i12e/join", {"name": name, "address": self.address}, self.token, 30)
                break
            except Rejected as error:
                fatal(f"starting kubernetes: preparing server: failed to validate server configuration: {error}")
            except OSError as error:
                log("info", f"Waiting to join the cluster at {url}: {error}")
                time.sleep(1)
        self._start_etcd(name, told["cluster"], "existing")
        while True:
            self._watch_etcd()
            with suppress(Rejected, OSError):
                if post(url, "/i12e/promote", {"name": name}, self.token)["voter"]:
                    return
            time.sleep(0.3)

    def _start_etcd(self, name: str, cluster: str, state: str) -> None:
        folder = self.db / "etcd"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "name").write_text(name)
        client, peer = f"http://{self.address}:2379", f"http://{self.address}:2380"
        local = "127.0.0.1" if not ROOT else self.address
        command = [
            "etcd", "--name", name, "--data-dir", str(folder), "--enable-v2=false", "--logger=zap",
            "--listen-client-urls", client if ROOT else f"{client},http://127.0.0.1:2379",
            "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--listen-metrics-urls", f"http://{local}:2381", "--initial-cluster-state", state,
            "--log-level", "warn", "--strict-reconfig-check",
        ]  # fmt: skip
        command += ["--initial-cluster", cluster] if cluster else ["--initial-cluster", f"{name}={peer}"]
        with (self.db / "etcd.log").open("ab") as said:
            self.etcd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        self.store = Etcd(f"http://{local}:2379")

    def _watch_etcd(self) -> None:
        if self.etcd is None or self.etcd.poll() is None:
            return
        said = (self.db / "etcd.log").read_text(errors="replace")[-4000:]
        if "permanently removed from the cluster" in said or "has been removed" in said:
            (self.db / "etcd/tombstone").touch()
            fatal("this server is not a member of the etcd cluster; it was removed")
        fatal(f"etcd exited with status {self.etcd.returncode}")

    def _migrate(self, state: Path) -> None:
        log("info", "Migrating content from sqlite to etcd")
        self._wait_for_store()
        if fault("migration_fails"):
            fatal("starting kubernetes: preparing server: migration from sqlite to etcd failed")
        old = Sqlite(state)
        for key, value in (old.get("/registry/") | old.get("/bootstrap/")).items():
            self.store.put(key, value)
        state.rename(state.with_name("state.db.migrated"))
        for rest in ("state.db-wal", "state.db-shm"):
            (self.db / rest).unlink(missing_ok=True)

    def _wait_for_store(self) -> None:
        told = 0.0
        while True:
            self._watch_etcd()
            try:
                self.store.get("/bootstrap/")
            except Unavailable as error:
                if time.monotonic() - told > 5:
                    log("info", f"Waiting for etcd server to become available: {str(error)[:120]}")
                    told = time.monotonic()
                time.sleep(0.1)
            else:
                return

    def _bootstrap(self) -> dict[str, str]:
        """Return the CA: the datastore's, or new ones of a new cluster."""
        self._wait_for_store()
        rows = self.store.get("/bootstrap/")
        key = bootstrap_key(self.token)
        if key in rows:
            files = unseal(self.token, rows[key])
        elif rows:
            fatal(
                "starting kubernetes: preparing server: bootstrap data already found and encrypted with different token"
            )
        else:
            certificate, ca_key = make_ca("k3s-server-ca")
            files = {"ServerCA": certificate, "ServerCAKey": ca_key, "ServiceKey": secrets.token_hex(32)}
            self.store.put(key, seal(self.token, files))
            self._put(_object("Namespace", "", "kube-system"))
            for name in ("default", "kube-public", "kube-node-lease"):
                self._put(_object("Namespace", "", name))
        return files

    def _write_files(self, files: dict[str, str]) -> None:
        tls = self.folder / "tls"
        on_disk = tls / "server-ca.crt"
        if on_disk.exists() and on_disk.read_text() != files["ServerCA"]:
            fatal(
                f"starting kubernetes: preparing server: failed to bootstrap cluster data: {on_disk} newer than "
                "datastore and could cause a cluster outage. Remove the file(s) from disk and restart to be "
                "recreated from datastore"
            )
        write(on_disk, files["ServerCA"], 0o644)
        write(tls / "server-ca.key", files["ServerCAKey"])
        write(tls / "service.key", files["ServiceKey"])
        ca_hash = hashlib.sha256(files["ServerCA"].encode()).hexdigest()
        write(self.folder / "token", f"K10{ca_hash}::server:{password(self.token)}\n")
        write(self.folder / "agent-token", f"K10{ca_hash}::node:{password(self.agent_token)}\n")
        (self.folder / "node-token").unlink(missing_ok=True)
        (self.folder / "node-token").symlink_to("token")
        for name in ("cred", "manifests", "db/snapshots"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = base64.b64encode(files["ServerCA"].encode()).decode()
        write(
            ETC / "k3s/k3s.yaml",
            "apiVersion: v1\nclusters:\n- cluster:\n"
            f"    certificate-authority-data: {authority}\n    server: https://127.0.0.1:6443\n  name: default\n"
            "contexts:\n- context:\n    cluster: default\n    user: default\n  name: default\n"
            f"current-context: default\nkind: Config\nusers:\n- name: default\n  user:\n    token: {self.admin}\n",
        )

    def _serve(self, files: dict[str, str]) -> None:
        sans = [self.name, self.address, "127.0.0.1", "localhost", "kubernetes", *self.settings.get("tls-san", ())]
        tls = self.folder / "tls"
        names = [name for name in dict.fromkeys(map(str, sans)) if not name.startswith("*")]
        certificate, key = _certificate("k3s", (files["ServerCA"], files["ServerCAKey"]), names)
        write(tls / "serving-kube-apiserver.crt", certificate + files["ServerCA"], 0o644)
        write(tls / "serving-kube-apiserver.key", key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "serving-kube-apiserver.crt", tls / "serving-kube-apiserver.key")
        listener = _Listener(("0.0.0.0" if not ROOT else self.address, 6443), _Api)  # noqa: S104  # as k3s does
        listener.server = self
        listener.context = context
        listener.cacerts = files["ServerCA"]
        threading.Thread(target=listener.serve_forever, daemon=True).start()

    # --- nodes

    def _register_self(self) -> None:
        while True:
            try:
                self.register(_node_request(self.settings, self.name, self.address, "server"))
                return
            except Rejected as error:
                log("error", str(error))
            except Unavailable as error:
                log("info", f"Waiting for the datastore: {error}")
            self._watch_etcd()
            time.sleep(1)

    def register(self, asked: Object) -> None:
        """Given what a node says of itself, take it in; raise Rejected if its password is another one's."""
        name = asked["name"]
        secret = key_of("secret", "kube-system", f"{name}.node-password.k3s")
        digest = hashlib.sha256(asked["password"].encode()).hexdigest()
        known = self.store.get(secret)
        if secret in known and json.loads(known[secret])["data"]["hash"] != digest:
            raise Rejected(
                "Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password' may not "
                "match server node-passwd entry, try enabling a unique node name with the --with-node-id flag"
            )
        if secret not in known:
            self._put(_object("Secret", "kube-system", f"{name}.node-password.k3s", data={"hash": digest}))
        old = self._get("node", "", name)
        node = old or _object("Node", "", name)
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **asked["labels"]}
        if asked["role"] == "server":
            labels["node-role.kubernetes.io/control-plane"] = "true"
            if isinstance(self.store, Etcd):
                labels["node-role.kubernetes.io/etcd"] = "true"
        node["metadata"]["labels"] = {**node["metadata"].get("labels", {}), **labels}
        if asked.get("etcd"):
            node["metadata"].setdefault("annotations", {})["etcd.k3s.cattle.io/node-name"] = asked["etcd"]
        if not old and asked["taints"]:
            node.setdefault("spec", {})["taints"] = asked["taints"]
        node["status"] = {
            "addresses": [
                {"type": "InternalIP", "address": asked["address"]},
                {"type": "Hostname", "address": name},
            ],
            "nodeInfo": {"kubeletVersion": asked["version"], "osImage": "i12e lab", "bootID": asked["boot"]},
        }
        self._put(node)
        self.beat(name)

    def beat(self, name: str) -> list[str]:
        """Given a node's name, note that it lives; return the folders of its local volumes."""
        if not self._get("node", "", name):
            raise Rejected(f'nodes "{name}" not found')
        self.store.put(f"/registry/leases/kube-node-lease/{name}", json.dumps({"at": time.time()}))
        found = [json.loads(text) for text in self.store.get("/registry/persistentvolumes/").values()]
        return [pv["spec"]["hostPath"]["path"] for pv in found if pv["spec"].get("i12eNode") == name]

    def _loop(self) -> None:
        while True:
            try:
                if not fault("k3s_never_ready"):
                    try:
                        make_volumes(self.beat(self.name))
                    except Rejected:
                        self._register_self()
                self._apply_manifests()
                self._remove_members()
                self._bind_volumes()
            except Unavailable as error:
                log("error", f"datastore: {str(error)[:160]}")
            except Exception as error:  # noqa: BLE001  # the loop goes on, as a controller does
                log("error", f"{type(error).__name__}: {error}")
            time.sleep(1)

    def _remove_members(self) -> None:
        if not isinstance(self.store, Etcd):
            return
        for key, text in self.store.get("/i12e/removed/").items():
            wanted = json.loads(text)
            for member in self.store.members():
                if member["ID"] in wanted:
                    log("info", f"Removing etcd member {member.get('name')} of a node that was deleted")
                    self.store.call("cluster/member/remove", {"ID": member["ID"]})
            self.store.delete(key)

    def _bind_volumes(self) -> None:
        for text in self.store.get("/registry/persistentvolumeclaims/").values():
            claim = json.loads(text)
            if claim.get("spec", {}).get("volumeName"):
                continue
            meta = claim["metadata"]
            node = meta.get("annotations", {}).get("volume.kubernetes.io/selected-node")
            ready = [item["metadata"]["name"] for item in self.nodes() if _is_ready(item)]
            if not (node or ready):
                continue
            volume = f"pvc-{meta['uid']}"
            path = f"/var/lib/rancher/k3s/storage/{volume}_{meta['namespace']}_{meta['name']}"
            spec = {"hostPath": {"path": path}, "i12eNode": node or ready[0], "storageClassName": "local-path"}
            spec["claimRef"] = {"namespace": meta["namespace"], "name": meta["name"]}
            self._put(_object("PersistentVolume", "", volume, spec=spec, status={"phase": "Bound"}))
            claim["spec"]["volumeName"] = volume
            claim["status"] = {"phase": "Bound"}
            self._put(claim)

    def _apply_manifests(self) -> None:
        for path in sorted((self.folder / "manifests").glob("*.yaml")):
            stamp = path.stat().st_mtime_ns
            if self._manifests.get(path.name) != stamp:
                self._manifests[path.name] = stamp
                for item in documents(path.read_text()):
                    self.apply(item)

    # --- the datastore's objects

    def _put(self, item: Object) -> None:
        meta = item["metadata"]
        self.store.put(key_of(item["kind"], meta.get("namespace", ""), meta["name"]), json.dumps(item))

    def _get(self, kind: str, namespace: str, name: str) -> Object | None:
        key = key_of(kind, namespace, name)
        found = self.store.get(key).get(key)
        return json.loads(found) if found else None

    def apply(self, item: Object) -> str:
        """Given an object, create or change it; return which."""
        meta = item.setdefault("metadata", {})
        if plural(item["kind"]) not in _CLUSTER_WIDE:
            meta.setdefault("namespace", "default")
        old = self._get(item["kind"], meta.get("namespace", ""), meta["name"])
        if old:
            meta["uid"] = old["metadata"]["uid"]
            meta["creationTimestamp"] = old["metadata"].get("creationTimestamp")
            if "volumeName" in old.get("spec", {}):
                item["spec"]["volumeName"] = old["spec"]["volumeName"]
        meta.setdefault("uid", str(uuid.uuid4()))
        meta["creationTimestamp"] = meta.get("creationTimestamp") or now()
        if item["kind"] == "Pod" and not item.get("spec", {}).get("nodeName"):
            ready = [node["metadata"]["name"] for node in self.nodes()
                     if _is_ready(node) and not node.get("spec", {}).get("unschedulable")]  # fmt: skip
            item.setdefault("spec", {})["nodeName"] = ready[0] if ready else ""
        self._put(item)
        return "configured" if old else "created"

    def nodes(self) -> list[Object]:
        """Return all nodes with their conditions as of now."""
        beats = {key.rpartition("/")[2]: json.loads(text)["at"]
                 for key, text in self.store.get("/registry/leases/kube-node-lease/").items()}  # fmt: skip
        voters = {member.get("name"): not member.get("isLearner") for member in self.store.members()}
        found = [json.loads(text) for text in self.store.get("/registry/minions/").values()]
        for node in found:
            name = node["metadata"]["name"]
            fresh = time.time() - beats.get(name, 0) < STALE
            ready = {
                "type": "Ready",
                "status": "True" if fresh else "Unknown",
                "reason": "KubeletReady" if fresh else "NodeStatusUnknown",
            }
            conditions = [ready]
            etcd = node["metadata"].get("annotations", {}).get("etcd.k3s.cattle.io/node-name")
            if etcd:
                conditions.append({"type": "EtcdIsVoter", "status": "True" if voters.get(etcd) else "False"})
            node["status"]["conditions"] = conditions
        return sorted(found, key=lambda node: str(node["metadata"]["name"]))

    def items(self, kind: str, namespace: str | None) -> list[Object]:
        """Return the objects of a kind, of one namespace or (None) of all."""
        if plural(kind) == "nodes":
            return self.nodes()
        prefix = f"/registry/{plural(kind)}/" + (
            f"{namespace}/" if namespace and plural(kind) not in _CLUSTER_WIDE else ""
        )
        return [json.loads(text) for _, text in sorted(self.store.get(prefix).items())]

    def _is_ready(self) -> bool:
        try:
            return any(node["metadata"]["name"] == self.name and _is_ready(node) for node in self.nodes())
        except Unavailable:
            return False

    # --- what others ask

    def answer(self, path: str, asked: Object, token: str) -> Object:
        """Given a request of our own protocol, return the answer; raise Rejected."""
        if path == "/i12e/kubectl":
            if token != self.admin:
                raise Rejected("error: You must be logged in to the server (Unauthorized)")
            return Kubectl(self, asked["stdin"]).run(asked["arguments"])
        servers = {password(self.token)}
        if token not in (
            servers if path in ("/i12e/join", "/i12e/promote") else servers | {password(self.agent_token)}
        ):
            raise Rejected("token CA hash or password is wrong: not authorized")
        if path == "/i12e/join":
            return self._admit(asked["name"], asked["address"])
        if path == "/i12e/promote":
            return self._promote(asked["name"])
        if path == "/i12e/register":
            self.register(asked)
            return {"servers": self._urls()}
        if path == "/i12e/beat":
            return {"volumes": self.beat(asked["name"]), "servers": self._urls()}
        raise Rejected(f"{path}: not found")

    def _urls(self) -> list[str]:
        found = [node for node in self.nodes() if "node-role.kubernetes.io/control-plane" in node["metadata"]["labels"]]
        return [f"https://{node['status']['addresses'][0]['address']}:6443" for node in found]

    def _admit(self, name: str, address: str) -> Object:
        if not isinstance(self.store, Etcd):
            raise Rejected("this cluster is on SQLite: no server can join it")
        peer = f"http://{address}:2380"
        known = self.store.members()
        for member in known:
            if peer in member.get("peerURLs", ()):
                if member.get("name") and not member.get("isLearner"):
                    raise Rejected(f"duplicate node name found: {peer} is a member already; delete its node first")
                self.store.call("cluster/member/remove", {"ID": member["ID"]})  # a join that did not finish
        added = self.store.call("cluster/member/add", {"peerURLs": [peer], "isLearner": True})
        cluster = [f"{member.get('name') or name}={member['peerURLs'][0]}" for member in added["members"]]
        return {"cluster": ",".join(cluster)}

    def _promote(self, name: str) -> Object:
        for member in self.store.members():
            if member.get("name") == name:
                if member.get("isLearner"):
                    self.store.call("cluster/member/promote", {"ID": member["ID"]})
                return {"voter": True}
        return {"voter": False}


def _object(kind: str, namespace: str, name: str, **more: Any) -> Object:
    meta = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": meta | ({"namespace": namespace} if namespace else {}),
        **more,
    }


def _is_ready(node: Object) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in node["status"]["conditions"])


def documents(text: str) -> Iterator[Object]:
    """Given YAML or JSON, yield its objects; a List's one by one."""
    import yaml

    for item in yaml.safe_load_all(text):
        if isinstance(item, dict):
            yield from item["items"] if item.get("kind", "").endswith("List") and "items" in item else (item,)


def make_volumes(paths: list[str]) -> None:
    """Make the folders of local volumes that are to be on this host."""
    for path in paths:
        place = Path(f"{ROOT}{path}")
        if not place.exists():
            place.mkdir(parents=True)
            place.chmod(0o777)


def _node_request(settings: Object, name: str, address: str, role: str) -> Object:
    place = ETC / "node/password"
    if not place.exists():
        write(place, secrets.token_hex(16) + "\n")
    labels = dict(str(label).partition("=")[::2] for label in settings.get("node-label", ()))
    taints = []
    for taint in settings.get("node-taint") or ():
        key, _, rest = str(taint).partition("=")
        value, _, effect = rest.partition(":")
        taints.append({"key": key, "value": value, "effect": effect})
    etcd = DATA / "server/db/etcd/name"
    return {
        "name": name, "address": address, "role": role, "labels": labels, "taints": taints, "version": VERSION,
        "password": place.read_text().strip(), "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "etcd": etcd.read_text().strip() if role == "server" and etcd.exists() else "",
    }  # fmt: skip


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    server: Server
    context: ssl.SSLContext
    cacerts: str

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(60)
        try:
            with self.context.wrap_socket(request, server_side=True) as wrapped:
                self.RequestHandlerClass(wrapped, client_address, self)  # type: ignore[arg-type]
        except (OSError, ssl.SSLError):
            return

    def handle_error(self, request: Any, client_address: Any) -> None:
        log("debug", f"{client_address}: {sys.exc_info()[1]}")


class _Api(http.server.BaseHTTPRequestHandler):
    server: _Listener

    def do_GET(self) -> None:  # the base class's name
        if self.path == "/cacerts":
            self._send(200, self.server.cacerts)
        elif self.path == "/ping":
            self._send(200, "pong")
        else:
            status, text = Kubectl(self.server.server, "").raw(self.path)
            self._send(500 if status else 200, text)

    def do_POST(self) -> None:  # the base class's name
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        token = str(self.headers.get("Authorization", "")).removeprefix("Bearer ")
        try:
            self._send(200, json.dumps(self.server.server.answer(self.path, asked, token)))
        except Rejected as error:
            self._send(403, str(error))
        except Unavailable as error:
            self._send(503, str(error))

    def _send(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the base class's name
        pass


class Kubectl:
    """What `k3s kubectl` does, in the server: one call."""

    def __init__(self, server: Server, stdin: str) -> None:
        self.server = server
        self.stdin = stdin
        self.out: list[str] = []
        self.err: list[str] = []

    def run(self, arguments: list[str]) -> Object:
        """Given kubectl's arguments, return status, stdout and stderr."""
        try:
            status = self._run(arguments)
        except Unavailable as error:
            self.err.append(f"Error from server: {str(error)[:200]}")
            status = 1
        except (KeyError, IndexError, ValueError) as error:
            self.err.append(f"error: {type(error).__name__}: {error} (i12e lab stand-in)")
            status = 1
        end = [*(f"{line}\n" for line in self.out)], [*(f"{line}\n" for line in self.err)]
        return {"status": status, "stdout": "".join(end[0]), "stderr": "".join(end[1])}

    def _run(self, arguments: list[str]) -> int:
        flags, words = _parsed(arguments)
        verb = words.pop(0)
        namespace = (
            None if "A" in flags or "all-namespaces" in flags else flags.get("n", flags.get("namespace", "default"))
        )
        match verb:
            case "get" if "raw" in flags:
                status, text = self.raw(flags["raw"])
                (self.err if status else self.out).append(text)
                return status
            case "get":
                return self._get(words, namespace, flags.get("o", flags.get("output", "")))
            case "cordon" | "uncordon":
                return self._cordon(words[0], verb == "cordon")
            case "drain":
                return self._drain(words[0], float(flags.get("timeout", "0s").rstrip("s") or 0))
            case "delete":
                return self._delete(words, namespace)
            case "apply" | "create":
                for item in documents(self.stdin if flags.get("f") == "-" else Path(flags["f"]).read_text()):
                    done = self.server.apply(item)
                    self.out.append(f"{item['kind'].lower()}/{item['metadata']['name']} {done}")
                return 0
        self.err.append(f"error: {verb}: not in the scope of this stand-in")
        return 1

    def raw(self, path: str) -> tuple[int, str]:
        """Answer a path of the API server's that tells of health."""
        if path.partition("?")[0] in ("/readyz", "/healthz", "/livez", "/healthz/etcd"):
            try:
                self.server.store.get("/registry/namespaces/kube-system")
            except Unavailable:
                return 1, "[-]etcd failed: reason withheld\nreadyz check failed"
            if fault("k3s_never_ready"):
                return 1, "[-]poststarthook/lab failed: reason withheld\nreadyz check failed"
            return 0, "ok"
        if path == "/version":
            return 0, json.dumps({"gitVersion": VERSION})
        return 1, "Error from server (NotFound): the server could not find the requested resource"

    def _get(self, words: list[str], namespace: str | None, output: str) -> int:
        kind, _, name = words[0].partition("/")
        name = name or (words[1] if len(words) > 1 else "")
        found = self.server.items(kind, namespace)
        if name:
            found = [item for item in found if item["metadata"]["name"] == name]
            if not found:
                self.err.append(f'Error from server (NotFound): {plural(kind)} "{name}" not found')
                return 1
        if output == "json":
            listed = {"apiVersion": "v1", "kind": "List", "items": found}
            self.out.append(json.dumps(found[0] if name else listed))
        elif output == "name":
            self.out += [f"{kind}/{item['metadata']['name']}" for item in found]
        elif not found:
            self.err.append(f"No resources found in {namespace} namespace." if namespace else "No resources found")
        else:
            self.out.append(f"{'NAME':<24}{'STATUS':<28}{'AGE':<24}")
            self.out += [f"{item['metadata']['name']:<24}{_status(item):<28}{item['metadata']['creationTimestamp']}"
                         for item in found]  # fmt: skip
        return 0

    def _cordon(self, name: str, on: bool) -> int:
        node = self.server._get("node", "", name)  # two halves of one thing
        if not node:
            self.err.append(f'Error from server (NotFound): nodes "{name}" not found')
            return 1
        done = "cordoned" if on else "uncordoned"
        if bool(node.setdefault("spec", {}).get("unschedulable")) == on:
            done = f"already {done}"
        node["spec"].pop("unschedulable", None)
        if on:
            node["spec"]["unschedulable"] = True
        self.server._put(node)
        self.out.append(f"node/{name} {done}")
        return 0

    def _drain(self, name: str, limit: float) -> int:
        if self._cordon(name, True):
            return 1
        deadline = time.monotonic() + (limit or 3600)
        while True:
            left = [pod for pod in self.server.items("pods", None)
                    if pod["spec"].get("nodeName") == name and not _of_daemon_set(pod)]  # fmt: skip
            budgets = self.server.items("poddisruptionbudgets", None)
            for pod in list(left):
                meta = pod["metadata"]
                if any(_forbids(budget, pod) for budget in budgets):
                    continue
                self.out.append(f"evicting pod {meta['namespace']}/{meta['name']}")
                self.server.store.delete(key_of("pod", meta["namespace"], meta["name"]))
                left.remove(pod)
            if not left:
                self.out.append(f"node/{name} drained")
                return 0
            if time.monotonic() > deadline:
                pods = ", ".join(pod["metadata"]["name"] for pod in left)
                self.err.append(
                    f"error when evicting pods {pods}: Cannot evict pod as it would violate the pod's disruption "
                    f'budget.\nerror: unable to drain node "{name}" due to error: global timeout reached: {limit:g}s'
                )
                return 1
            time.sleep(0.2)

    def _delete(self, words: list[str], namespace: str | None) -> int:
        kind, _, name = words[0].partition("/")
        name = name or words[1]
        key = key_of(kind, namespace or "default", name)
        found = self.server.store.get(key).get(key)
        if not found:
            self.err.append(f'Error from server (NotFound): {plural(kind)} "{name}" not found')
            return 1
        if plural(kind) == "nodes":
            etcd = json.loads(found)["metadata"].get("annotations", {}).get("etcd.k3s.cattle.io/node-name")
            members = [member["ID"] for member in self.server.store.members() if etcd and member.get("name") == etcd]
            if members:
                self.server.store.put(f"/i12e/removed/{name}", json.dumps(members))
            self.server.store.delete(key_of("secret", "kube-system", f"{name}.node-password.k3s"))
            self.server.store.delete(f"/registry/leases/kube-node-lease/{name}")
        self.server.store.delete(key)
        self.out.append(f'{plural(kind)[:-1]} "{name}" deleted')
        return 0


def _status(item: Object) -> str:
    if item["kind"] == "Node":
        ready = "Ready" if _is_ready(item) else "NotReady"
        return ready + (",SchedulingDisabled" if item.get("spec", {}).get("unschedulable") else "")
    return str(item.get("status", {}).get("phase", ""))


def _of_daemon_set(pod: Object) -> bool:
    return any(owner.get("kind") == "DaemonSet" for owner in pod["metadata"].get("ownerReferences", ()))


def _forbids(budget: Object, pod: Object) -> bool:
    spec, labels = budget.get("spec", {}), pod["metadata"].get("labels", {})
    wanted = spec.get("selector", {}).get("matchLabels", {})
    mine = budget["metadata"]["namespace"] == pod["metadata"]["namespace"] and wanted.items() <= labels.items()
    return mine and (spec.get("maxUnavailable") == 0 or spec.get("minAvailable", 0) not in (0, "0%"))


def _parsed(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    flags: dict[str, str] = {}
    words: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if re.fullmatch(r"-[a-zA-Z]|--(?:namespace|output|raw|filename)", word) and word != "-A":
            flags[word.lstrip("-").replace("filename", "f")] = left.pop(0) if left else ""
        elif word.startswith("-") and word != "-":
            name, _, value = word.lstrip("-").partition("=")
            flags[name] = value or "true"
        else:
            words.append(word)
    return flags, words


# --- the agent


def agent(settings: Object) -> NoReturn:
    """`k3s agent`: registers the node by the first server that answers, and goes on telling that it lives."""
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    log("info", f"Starting k3s agent {VERSION} (i12e lab stand-in, not k3s)")
    name = str(settings.get("node-name") or socket.gethostname())
    address = str(settings.get("node-ip") or "127.0.0.1").partition(",")[0]
    token = str(settings.get("token") or "")
    known = DATA / "agent/etc/k3s-agent-load-balancer.json"
    registered = ready = False
    while True:
        remembered = json.loads(known.read_text())["ServerAddresses"] if known.exists() else []
        for url in dict.fromkeys([str(settings.get("server") or ""), *remembered]):
            if not url:
                continue
            try:
                if not registered:
                    told = post(url, "/i12e/register", _node_request(settings, name, address, "agent"), token)
                    registered = True
                elif fault("k3s_never_ready"):
                    break
                else:
                    told = post(url, "/i12e/beat", {"name": name}, token)
                    make_volumes(told["volumes"])
                write(known, json.dumps({"ServerURL": url, "ServerAddresses": told["servers"]}))
                if not ready and not fault("k3s_never_ready"):
                    notify("READY=1")
                    log("info", "k3s agent is up and running")
                    ready = True
                break
            except Rejected as error:
                registered = registered and "not found" not in str(error)
                log("error", f"{url}: {error}")
                break
            except OSError as error:
                log("error", f"failed to get CA certs: {url}: {error}")
        time.sleep(1)


def kubectl(arguments: list[str]) -> int:
    """`k3s kubectl`: asks the server on this host."""
    place = ETC / "k3s/k3s.yaml"
    if not place.exists():
        print("The connection to the server localhost:8080 was refused - did you specify the right host or port?",
              file=sys.stderr)  # fmt: skip
        return 1
    found = re.search(r"token: (\w+)", place.read_text())
    stdin = sys.stdin.read() if "-" in arguments else ""
    address = "127.0.0.1" if not ROOT else str(config().get("node-ip"))
    try:
        told = post(f"https://{address}:6443", "/i12e/kubectl", {"arguments": arguments, "stdin": stdin},
                    found[1] if found else "", 600)  # fmt: skip
    except Rejected as error:
        print(error, file=sys.stderr)
        return 1
    except OSError:
        print("The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?",
              file=sys.stderr)  # fmt: skip
        return 1
    sys.stdout.write(told["stdout"])
    sys.stderr.write(told["stderr"])
    return int(told["status"])


def main(arguments: list[str]) -> int:
    """Given the command line, do it; return the exit status."""
    if Path(sys.argv[0]).name == "kubectl":
        return kubectl(arguments)
    match arguments:
        case ["--version" | "-v"]:
            print(f"k3s version {VERSION} (i12e lab stand-in, not k3s)")
            return 0
        case ["server", *_]:
            Server(config()).run()
        case ["agent", *_]:
            agent(config())
        case ["kubectl", *rest]:
            return kubectl(rest)
    print(f"k3s (i12e lab stand-in): {' '.join(arguments)}: not in its scope", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
