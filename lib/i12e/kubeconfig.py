"""./doit kubeconfig: the cluster's kubeconfig, from a server into the user's own file, beside what is there.

What k3s writes is for the server itself: everything in it is named `default` and points at 127.0.0.1. Here cluster,
user and context get the cluster's name, and the server is where the API answers for others. Cluster, user and context
of that name are replaced in the user's file; nothing else in it changes.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from i12e import fields, files, programs, yamlfile
from i12e.errors import Problem, UsageError, UserError

if TYPE_CHECKING:
    from i12e.build import Build
    from i12e.model import Host
    from i12e.screen import Terminal

ON_HOST = "/etc/rancher/k3s/k3s.yaml"
PORT = 6443

Resolve = Callable[[str], object]
Fetch = Callable[[Sequence["Host"]], tuple[str, str]]

_KINDS = {"clusters": "cluster", "users": "user", "contexts": "context"}
_LIMIT = 20.0  # seconds for one small file


# --- pure


def name(cluster: str, env: str) -> str:
    """Given a cluster's name and its environment, return the name of its context.

    With the environment behind it, unless that is the default one or says nothing new: home, home-prod, lab.
    """
    new = env not in ("default", cluster) and not cluster.endswith(f"-{env}")
    return f"{cluster}-{env}" if new else cluster


def url(text: str) -> str:
    """Given an address, a name or a URL, with or without a port, return the API's URL; raise ValueError."""
    text = text.strip().rstrip("/")
    rest = text.removeprefix("https://")
    if ":" in rest and not rest.startswith("[") and _is_address(rest):
        return f"https://[{rest}]:{PORT}"
    match = re.fullmatch(r"(\[[^\[\]]+\]|[^\s\[\]:/@?#]+)(?::([0-9]{1,5}))?", rest)
    if match is None or not 0 < int(match[2] or PORT) < 65536:
        raise ValueError(text)
    if not _is_address(match[1].strip("[]")):
        try:
            fields.dns_name(match[1])
        except fields.Wrong:
            raise ValueError(text) from None
    return f"https://{match[1]}:{match[2] or PORT}"


def host_of(server: str) -> str:
    """Given the API's URL, return the name or address in it."""
    return server.removeprefix("https://").rpartition(":")[0].strip("[]")


def rename(text: str, context: str, server: str, place: str = ON_HOST) -> str:
    """Given a host's k3s.yaml, the name for its cluster, user and context, and the API's URL, return that kubeconfig.

    `place` is how the file is named where it is wrong. Raise UserError if it is no kubeconfig of one cluster.
    """
    data = yamlfile.load(text.encode(errors="surrogateescape"), place).data
    chosen = _entry(data, "contexts", data.get("current-context"))
    found = {kind: _entry(data, f"{kind}s", chosen.get(kind)) for kind in ("cluster", "user")} if chosen else {}
    if not all(found.values()) or not found:
        raise UserError(Problem(place, None, None, "is not the kubeconfig that k3s writes"))
    new = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {**found["cluster"], "server": server}}],
        "users": [{"name": context, "user": found["user"]}],
        "contexts": [{"name": context, "context": {**chosen, "cluster": context, "user": context}}],
        "current-context": context,
    }
    return yamlfile.overlaid("", yamlfile.flow(new), "name")


def merge(existing: str, new: str, place: str = "kubeconfig") -> str:
    """Given the text of the user's kubeconfig (which may be empty) and a new one, return both as one.

    Entries that have the name of a new one are replaced by it, all else means what it meant; current-context stays
    unless it is empty. Comments, anchors and the layout of the old text go, as kubectl lets them go. Raise UserError
    with the place if the old text cannot be read whole: then nothing of it may be replaced.
    """
    _check(existing, place)
    return yamlfile.overlaid(existing, new, "name")


def authority(text: str, context: str) -> str:
    """Given a kubeconfig that can be read and a name, return that cluster's certificate authority, "" for none."""
    data = yamlfile.examine(text.encode(errors="surrogateescape"), "").data
    return str((_entry(data, "clusters", context) or {}).get("certificate-authority-data") or "")


def _entry(data: Mapping[str, Any], kind: str, wanted: Any) -> dict[str, Any]:
    """Return what a kubeconfig says of a cluster, user or context by its name; the only one needs none."""
    entries = data.get(kind)
    if not isinstance(entries, list):
        return {}
    named = [entry for entry in entries if isinstance(entry, dict)]
    fit = [entry for entry in named if entry.get("name") == wanted] or (named if len(named) == 1 and not wanted else [])
    found = fit[0].get(_KINDS[kind]) if fit else None
    return found if isinstance(found, dict) else {}


def _check(text: str, place: str) -> None:
    """Raise UserError if a text is not a kubeconfig, or none at all."""
    document = yamlfile.load(text.encode(errors="surrogateescape"), place)
    problems = []
    for key in _KINDS:
        entries = document.data.get(key)
        if not isinstance(entries, list | None):
            problems.append(_wrong(document, (key,), "is not a list"))
        for number, entry in enumerate(entries or () if isinstance(entries, list) else ()):
            if not isinstance(entry, dict) or isinstance(entry.get("name", []), list | dict):
                problems.append(_wrong(document, (key, number), "is not an entry with a name"))
    if problems:
        raise UserError(problems)


def _wrong(document: yamlfile.Document, loc: yamlfile.Loc, what: str) -> Problem:
    told = ".".join(str(step) for step in loc)
    return Problem(document.file, *document.place(loc), f"{told}: {what}", "mend it; nothing was written")


# --- the user's file


def place(environ: Mapping[str, str]) -> Path:
    """Given the process's environment, return the file that kubectl would write to.

    Of several in KUBECONFIG, the first that is there, and the last if none is (kubectl's GetDefaultFilename).
    Raise UserError for a relative path: ./doit runs in the checkout, wherever it is called from.
    """
    text = environ.get("KUBECONFIG", "")
    listed = [Path(entry) for entry in text.split(os.pathsep) if entry]
    if not all(path.is_absolute() for path in listed):
        raise UserError(Problem("", None, None, f'KUBECONFIG="{text}": is a relative path', "write an absolute one"))
    if listed:
        return next((path for path in listed if path.exists()), listed[-1])
    return Path(environ.get("HOME") or Path.home()) / ".kube" / "config"


def read(path: Path) -> str:
    """Given the user's file, return its text, "" if it is not there; raise UserError if it is no file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(_of_file(path, "is not a file", "KUBECONFIG says another one"))
        return path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UserError(_of_file(path, f"cannot be read: {error.strerror}")) from None


def write(path: Path, text: str) -> None:
    """Given the user's file and a text, put it there whole or not at all, 0600; a link stays, and what it leads to
    is replaced. Raise UserError if that cannot be done; the old file is as it was then.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise UserError(_of_file(path, "is not a file", "KUBECONFIG says another one"))
        files.private_folder(target.parent)
        files.sweep(target.parent, target.name)
        new = files.part(target)
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(handle, "wb") as file:
                file.write(text.encode(errors="surrogateescape"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, target)
        finally:
            new.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:  # a link to itself is a RuntimeError before Python 3.13
        said = getattr(error, "strerror", None) or error
        raise UserError(_of_file(path, f"cannot be written: {said}")) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Until the block ends, keep kubectl and other runs from writing a kubeconfig: by kubectl's own lock, FILE.lock.

    Raise UserError if it is there already: kubectl does not wait either.
    """
    lock = path.with_name(f"{path.name}.lock")
    try:
        files.private_folder(path.parent)
        os.close(os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        remedy = "run it again; if nothing runs, it was left behind: remove it"
        raise UserError(_of_file(lock, "is there: kubectl or another run writes the file", remedy)) from None
    except OSError as error:
        raise UserError(_of_file(lock, f"cannot be written: {error.strerror}")) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def put(path: Path, new: str, context: str) -> bool:
    """Given the user's file, a new kubeconfig and its context, merge and write; return whether the file changed."""
    with locked(path):
        old = read(path)
        text = merge(old, new, str(path))
        if text == old and stat.S_IMODE(path.stat().st_mode) == 0o600:
            return False
        write(path, text)
    return True


def _of_file(path: Path, message: str, remedy: str = "") -> Problem:
    return Problem(str(path), None, None, message, remedy)


# --- the task


def run(build: Build, server: str, fetch: Fetch | None = None, resolve: Resolve | None = None) -> None:
    """Given the build and --server, put the cluster's kubeconfig into the user's file, and tell it.

    `fetch` gives the name of a server and its k3s.yaml, of the servers that it gets; `resolve` raises OSError for a
    name that is unknown here. Raise UserError if no server gives one, or the user's file is broken.
    """
    servers = [host for host in build.checked_hosts() if host.role == "server"]
    if not servers:
        raise UserError(Problem(build.paths.hosts, None, None, "has no server: none has a kubeconfig"))
    path = place(os.environ)
    _check(read(path), str(path))  # before anybody is asked
    first = servers[0]
    context, target = name(first.cluster, first.env), _server(server, first)
    found, text = (fetch or _over_ssh(build))(servers)
    before = authority(read(path), context)
    new = rename(text, context, target, f"{found}:{ON_HOST}")
    changed = put(path, new, context)
    remark = f"{target}, from {found}, in {path}" + ("" if changed else ", as it was")
    build.tell("CONTEXT", context, remark, "done" if changed else "kept")
    if before and before != authority(new, context):
        build.note(f"{context}: another certificate authority than before: the cluster was founded anew, or is another")
    for note in _doubts(host_of(target), servers, resolve or _resolve):
        build.note(note)


def _server(wanted: str, host: Host) -> str:
    """Return the API's URL: what --server says, the virtual address, or the API's name."""
    if not wanted:
        return url(str(host.api.vip.address if host.api.vip else host.api.name))
    try:
        return url(wanted)
    except ValueError:
        problem = Problem("", None, None, f"--server {json.dumps(wanted)}: is no address", "192.0.2.11, or a https URL")
        raise UsageError(problem) from None


def _doubts(server: str, servers: Sequence[Host], resolve: Resolve) -> Iterator[str]:
    """Yield what may keep kubectl from reaching a server by this name or address."""
    api = servers[0].api
    addresses = [str(address) for host in servers for address in host.addresses]
    known = {api.name, *map(str, api.sans), *addresses, *([str(api.vip.address)] if api.vip else []), "127.0.0.1"}
    if not _is_address(server):
        try:
            resolve(server)
        except OSError:
            remedy = f"a record for it, or ./doit kubeconfig --server {addresses[0]}"
            yield f"{server} has no address here, so kubectl will not reach it yet: {remedy}"
    if server not in known:
        yield f"the server's certificate does not carry {server}, so kubectl will refuse it: add it to api.sans"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _resolve(name: str) -> object:
    return socket.getaddrinfo(name, PORT, type=socket.SOCK_STREAM)


def _over_ssh(build: Build) -> Fetch:
    """Return what fetches k3s.yaml from the first server that gives it."""
    from i12e import screen

    def fetch(servers: Sequence[Host]) -> tuple[str, str]:
        with screen.terminal() as terminal:
            return first_of(servers, lambda host: _from(build, host, terminal), build.note)

    return fetch


def first_of(servers: Iterable[Host], ask: Callable[[Host], str], note: Callable[[str], None]) -> tuple[str, str]:
    """Given servers and what asks one, return the name of the first that answers, and what it said.

    Those before it are noted. Raise UserError with what each said if none answers, Unsafe at once.
    """
    failed: list[Problem] = []
    for host in servers:
        try:
            text = ask(host)
        except Unsafe:
            raise
        except UserError as error:
            failed += error.problems
            continue
        for problem in failed:
            note(str(problem))
        return host.name, text
    raise UserError(failed)


_SCRIPT = f"cat /etc/i12e/host.json && echo && echo --- && cat {ON_HOST}"


def _from(build: Build, host: Host, terminal: Terminal | None) -> str:
    """Return a host's k3s.yaml; raise UserError if it cannot be had, or the host is of another cluster."""
    from i12e import remote

    target = remote.target(host, build.paths.root)
    try:
        with remote.Remote(target) as connection:
            try:
                done = connection.run(_SCRIPT, limit=_LIMIT)
            except remote.UnknownKey:
                remote.ask_key(target, terminal)
                done = connection.run(_SCRIPT, limit=_LIMIT)
    except remote.ChangedKey as error:
        raise Unsafe(error.problem()) from None
    except programs.Missing as error:
        raise Unsafe(Problem("", None, None, str(error))) from None
    except remote.Unreachable as error:
        raise UserError(error.problem()) from None
    if done.status:
        said = (done.complaint.strip().splitlines() or [f"exit status {done.status}"])[-1]
        raise UserError(Problem("", None, None, f"{host.name}: {said}", "is k3s up there? it writes the file"))
    return checked(done.output, host)


class Unsafe(UserError):
    """What no other server's answer makes good."""


def checked(output: str, host: Host) -> str:
    """Given host.json, a line of three dashes and k3s.yaml, return that; raise UserError if it is another cluster's."""
    identity, _, text = output.partition("\n---\n")
    try:
        cluster = json.loads(identity)["cluster"]
    except (ValueError, TypeError, KeyError):
        cluster = None
    if cluster != host.cluster:
        remedy = "is the address right?"
        raise UserError(
            Problem("", None, None, f"{host.name}: the machine is of cluster {cluster}, not {host.cluster}", remedy)
        )
    return text
