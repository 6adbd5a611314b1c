"""From a host of the model to its Ignition config: Jinja templates, then Butane, then what is the host's own.

While a host or a release is rendered, everything that is looked at is recorded: templates, names that were
looked up in vain, folders that were listed, secret files, local files. These are its inputs.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_to_bytes

import butane
from i12e import artifacts, guard, hosts
from i12e.errors import Problem, UserError, ordered
from i12e.files import Files
from i12e.model import Cluster, Host
from i12e.origins import Embedded, Trace
from i12e.paths import Paths
from i12e.secrets import Vault
from i12e.templates import Templates, flow, quote
from i12e.values import Manifest, Releases

HOST_JSON = "/etc/i12e/host.json"
_SPARK = "butane/spark.bu.j2"
VARIANTS = {"flatcar": "1.1.0", "fcos": "1.5.0"}  # both are Ignition 3.4.0, which all supported releases read

# The modules whose code decides what comes out; a test compares this with what render really imports.
CODE = (
    "lib/i12e/artifacts.py",
    "lib/i12e/errors.py",
    "lib/i12e/fields.py",
    "lib/i12e/files.py",
    "lib/i12e/guard.py",
    "lib/i12e/hosts.py",
    "lib/i12e/model.py",
    "lib/i12e/origins.py",
    "lib/i12e/paths.py",
    "lib/i12e/programs.py",
    "lib/i12e/releases.py",
    "lib/i12e/render.py",
    "lib/i12e/rules.py",
    "lib/i12e/secrets.py",
    "lib/i12e/settings.py",
    "lib/i12e/templates.py",
    "lib/i12e/values.py",
    "lib/i12e/yamlfile.py",
    "requirements.lock",
)
BUTANE = "lib/butane"


@dataclass(frozen=True)
class _OfTemplate(Problem):
    """A problem with what a template gave: told with the hosts that it was rendered for."""


@dataclass(frozen=True)
class Rendered:
    """A host's config or a release's values, and the inputs that it was made of, as paths relative to the checkout."""

    content: bytes
    inputs: frozenset[str]


class Renderer:
    """Renders the hosts and releases of one environment: each template is compiled once a run.

    `servers` and `cluster` give what their templates may know of the others, when one asks for it.
    """

    def __init__(
        self,
        paths: Paths,
        files: Files,
        vault: Vault,
        servers: Callable[[], list[dict[str, Any]]],
        cluster: Callable[[], Cluster],
    ) -> None:
        self._paths = paths
        self._files = files
        self._vault = vault
        self._servers = servers
        self._releases = Releases(paths, files, vault, cluster)
        self.templates = Templates(files, vault)

    def render(self, host: Host) -> Rendered:
        """Given a host, return its Ignition config; raise UserError with all that is wrong with its templates."""
        with self._files.recording() as inputs:
            self._note_code()
            for name in self._files.names(BUTANE):
                self._files.note(f"{BUTANE}/{name}")
            for path in (self._paths.cluster, self._paths.host_file(host.name)):
                self._files.note(path)
            template = self._from_template(host)
            config = self._own(host, template)
            self._refuse_exposed(host, config, inputs)
            config = self._complete(host, template, config)
        return Rendered(butane.to_json(config), frozenset(inputs))

    def spark(self, host: Host) -> dict[str, Any]:
        """Given a host, return the config of its spark, without what is for one time alone: see with_files().

        It has the host's own parts, its network may hang on them, and no host.json: it is none of the cluster's hosts.
        """
        text = self.templates.expand(_SPARK, self._context(host))
        return self._own(host, self._translate(text, lambda report: self._of_template(host, text, report, _SPARK)))

    def render_values(self, release: str) -> Rendered:
        """Given a release's name, return its Helm values; raise UserError with all that is wrong with its templates."""
        with self._files.recording() as inputs:
            self._note_code()
            text = self._releases.values(release, self._of_release())
        return Rendered(text.encode(), frozenset(inputs))

    def text(self, host: Host) -> str:
        """Given a host, return the Butane text that its template gives; raise UserError with all faults."""
        return self.templates.expand(_entry(host), self._context(host))

    def _from_template(self, host: Host) -> dict[str, Any]:
        text = self.text(host)
        return self._translate(text, lambda report: self._of_template(host, text, report))

    def _own(self, host: Host, config: dict[str, Any]) -> dict[str, Any]:
        own = {
            "storage": {"files": [_file(file) for file in host.files]},
            "systemd": {"units": [_unit(u) for u in host.units]},
        }
        if host.files or host.units:
            text = flow({"variant": host.os.name, "version": VARIANTS[host.os.name], **own})
            place = self._paths.host_file(host.name)
            own_config = self._translate(text, lambda report: (self._problem(place, None, None, e) for e in report))
            config = butane.merge(config, own_config)
        for name in host.butane:
            config = butane.merge(config, self._snippet(host, name))
        wrong = butane.check(config) if host.files or host.units or host.butane else ()
        if wrong:  # two parts that are right each can contradict each other
            place = self._paths.host_file(host.name)
            raise UserError(Problem(place, None, None, f"merged with ours, {e.path}: {e.message}") for e in wrong)
        return config

    def _snippet(self, host: Host, name: str) -> dict[str, Any]:
        path = f"{self._paths.hosts}/butane/{name}"
        text = self._read_text(path, f"butane: {name}", self._paths.host_file(host.name))
        return self._translate(text, lambda report: (self._problem(path, e.line, e.column, e) for e in report))

    def _translate(self, text: str, told: Callable[[Iterable[butane.Entry]], Iterable[Problem]]) -> dict[str, Any]:
        """Given Butane text and how a report on it is told, return the Ignition config."""
        local = _LocalFiles(self._files, f"{self._paths.hosts}/files")
        try:
            done = butane.translate(text, local, strict=True, thorough=True, hints=True)
        except butane.BadConfig as error:
            raise UserError(told(error.report)) from None
        return done.config

    def _problem(self, file: str, line: int | None, column: int | None, entry: butane.Entry) -> Problem:
        message = self._vault.redact(f"{entry.path}: {entry.message}")
        return Problem(file, line, column, message, self._vault.redact(entry.hint))

    def _of_template(self, host: Host, text: str, report: Iterable[butane.Entry], template: str = "") -> list[Problem]:
        """Given a host, the text that its template gave, and a report on that, return the problems of the template."""
        name = template or _entry(host)
        trace = self.templates.trace(name, self._context(host), text)
        return [self._traced(entry, trace, self.templates.locate(name)) for entry in report]

    def _traced(self, entry: butane.Entry, trace: Trace | None, template: str) -> Problem:
        message, hint = self._vault.redact(f"{entry.path}: {entry.message}"), self._vault.redact(entry.hint)
        if entry.line is None:
            return _OfTemplate(template, None, None, message, hint)
        if trace is None:
            return _OfTemplate(template, None, None, f"rendered line {entry.line}, {message}", hint)
        origin = trace.at(entry.line, entry.column or 1)
        embedded = f"it embeds {origin.embedded}" if origin.embedded else ""
        return _OfTemplate(origin.file, origin.line, origin.column, message, "; ".join(filter(None, (hint, embedded))))

    def _refuse_exposed(self, host: Host, config: dict[str, Any], inputs: Collection[str]) -> None:
        """Raise UserError if a secret is in a file or unit that everybody on the host may read."""
        values = self._vault.values(inputs)
        exposed = [place for place, text in public_texts(config) if any(value in text for value in values)]
        if exposed:
            remedy = "give a file the mode 0600; a unit reads it by EnvironmentFile="
            place = self.templates.locate(_entry(host))
            raise UserError(
                Problem(place, None, None, f"{path} would hold a secret that everybody on the host may read", remedy)
                for path in exposed
            )

    def _complete(self, host: Host, template: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
        """Check that the host's own parts left i12e's alone, and add host.json: whose host it is, and what it runs."""
        place = self._paths.host_file(host.name)
        lost = [Problem(place, None, None, *fault) for fault in guard.faults(template, config)]
        if lost:
            raise UserError(lost)
        identity = {"cluster": host.cluster, "host": host.name, "role": host.role, "digest": digest(config)}
        source, compression = butane.data_url((json.dumps(identity, indent=2) + "\n").encode())
        contents = {"compression": compression, "source": source}
        file = {"path": HOST_JSON, "overwrite": True, "contents": contents, "mode": 0o644}
        storage = config.get("storage", {})
        return {**config, "storage": {**storage, "files": [*storage.get("files", []), file]}}

    def _context(self, host: Host) -> dict[str, Any]:
        return {
            "host": host,
            "butane_version": VARIANTS[host.os.name],
            "servers": self._peers,
            "join_urls": lambda: hosts.join_urls(host, self._peers),
            "position": lambda: hosts.position(host, self._peers()),
            "artifacts": lambda: self.templates.attempt(lambda: self._artifacts(host), artifacts.OfHost()),
            "reboot_window": lambda: hosts.reboot_window(host, self._peers),
            "local_file": lambda path: self._local_file(host, path),
            "releases": lambda: self.templates.attempt(self._manifests, list[Manifest]()),
        }

    def _of_release(self) -> dict[str, Any]:
        return {"servers": self._peers, "local_file": self._local_file_of_release}

    def _manifests(self) -> list[Manifest]:
        return self._releases.manifests(self._of_release())

    def _peers(self) -> list[dict[str, Any]]:
        self._files.note(self._paths.servers)
        return self._servers()

    def _artifacts(self, host: Host) -> artifacts.OfHost:
        path = self._paths.artifacts
        return artifacts.of_host(host, artifacts.load(self._files, path), path)

    def _local_file(self, host: Host, path: str) -> str:
        file, asking = f"{self._paths.hosts}/files/{path}", self._paths.host_file(host.name)
        text = self.templates.embed_text(lambda: self._read_text(file, f"local_file({path!r})", asking))
        return Embedded(text, file)

    def _local_file_of_release(self, path: str) -> str:
        file = f"{self._paths.hosts}/files/{path}"
        return Embedded(quote(self._read_text(file, f"local_file({path!r})", "a template of values")), file)

    def _read_text(self, path: str, what: str, asking: str) -> str:
        try:
            return self._files.read(path).decode()
        except UnicodeDecodeError:
            raise UserError(Problem(path, None, None, "is not UTF-8 text")) from None
        except OSError as error:
            asked = f"{what} of {asking} asks for it"
            raise UserError(Problem(path, None, None, f"cannot be read: {error.strerror}", asked)) from None

    def _note_code(self) -> None:
        for path in CODE:
            self._files.note(path)


class _LocalFiles(butane.LocalFiles):
    """The local files of an environment, each look at them recorded as an input."""

    def __init__(self, files: Files, directory: str) -> None:
        super().__init__(directory, root=files.root)
        self._files = files

    def load(self, path: str) -> bytes:
        return self._files.read(path)

    def scan(self, path: str) -> list[butane.Node]:
        self._files.note(f"{path}/")
        return super().scan(path)


def _entry(host: Host) -> str:
    return f"butane/{host.role}.bu.j2"


def with_files(config: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """Given an Ignition config and files by their paths, return it with them, each for root alone, as it is written."""
    made = []
    for path, text in files.items():
        source, compression = butane.data_url(text)
        contents = {"compression": compression, "source": source}
        made.append({"path": path, "overwrite": True, "contents": contents, "mode": 0o600})
    storage = config.get("storage", {})
    return butane.to_json({**config, "storage": {**storage, "files": [*storage.get("files", []), *made]}})


def digest(config: Mapping[str, Any]) -> str:
    """Given an Ignition config without host.json, return the digest that identifies it: sha256, hex.

    It is of what the config says, not of its bytes: contents count decoded, because two gzip programs
    compress the same text differently, and no host is to be reset for that.
    """
    plain = json.dumps(_decoded(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


def digest_in(config: Mapping[str, Any]) -> str:
    """Given a config as `render` gives it, return the digest in its host.json."""
    return str(json.loads(file_in(config, HOST_JSON))["digest"])


def file_in(config: Mapping[str, Any], path: str) -> str:
    """Given a config as `render` gives it and a path, return the text of that file; raise StopIteration if none is."""
    file = next(file for file in config["storage"]["files"] if file["path"] == path)
    return content(file["contents"]["source"], file["contents"].get("compression") or "").decode()


def readable(value: Any) -> Any:
    """Given an Ignition config or a part of one, return it for a person: contents that are text as `text`."""
    if isinstance(value, list):
        return [readable(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    source = str(value.get("source") or "")
    if source.startswith("data:"):
        try:
            text = content(source, str(value.get("compression") or "")).decode()
        except UnicodeDecodeError:
            return dict(value)
        return {"text": text} | {key: item for key, item in value.items() if key not in ("source", "compression")}
    return {key: readable(item) for key, item in value.items()}


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):  # as a translation gives it; to ask for any Mapping takes several times as long
        source = value.get("source")
        if isinstance(source, str) and source.startswith("data:"):
            rest = {key: item for key, item in value.items() if key not in ("source", "compression")}
            return {**rest, "content": _content_hash(source, str(value.get("compression") or ""))}
        return {key: _decoded(item) for key, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def public_texts(config: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Given an Ignition config, yield the place and the content of what everybody on the host may read."""
    for file in config.get("storage", {}).get("files", ()):
        if file.get("mode", 0o644) & 0o077:
            for resource in (file.get("contents", {}), *file.get("append", ())):
                if resource.get("source", "").startswith("data:"):
                    yield file["path"], content(resource["source"], resource.get("compression", ""))
    for unit in config.get("systemd", {}).get("units", ()):
        for part in (unit, *unit.get("dropins", ())):
            yield unit["name"], part.get("contents", "").encode()


@functools.lru_cache(maxsize=4096)
def _content_hash(source: str, compression: str) -> str:
    return hashlib.sha256(content(source, compression)).hexdigest()


@functools.lru_cache(maxsize=256)
def content(source: str, compression: str) -> bytes:
    """Given a data URL and how it is compressed ("" or gzip), return its content; raise an error if it has none."""
    head, _, body = source.removeprefix("data:").partition(",")
    found = b64decode(body) if head.endswith(";base64") else unquote_to_bytes(body)
    return gzip.decompress(found) if compression == "gzip" else found


def _file(file: Any) -> dict[str, Any]:
    contents = {"local": file.local} if file.local is not None else {"inline": file.contents}
    owner = {kind: {"name": name} for kind, name in (("user", file.user), ("group", file.group)) if name is not None}
    return {"path": file.path, "mode": file.mode, "overwrite": True, "contents": contents, **owner}


def _unit(unit: Any) -> dict[str, Any]:
    dropins = [{"name": dropin.name, "contents": dropin.contents} for dropin in unit.dropins]
    chosen = {"enabled": unit.enabled, "contents": unit.contents, "dropins": dropins or None}
    return {"name": unit.name, **{key: value for key, value in chosen.items() if value is not None}}


def merge_problems(problems: Iterable[tuple[str, Problem]]) -> tuple[Problem, ...]:
    """Given problems with the hosts that met them, return each once; one of a rendered text names its hosts."""
    hosts: dict[Problem, list[str]] = {}
    for host, problem in problems:
        hosts.setdefault(problem, []).append(host)
    return ordered(_for_hosts(problem, names) for problem, names in hosts.items())


def _for_hosts(problem: Problem, names: list[str]) -> Problem:
    if not isinstance(problem, _OfTemplate):
        return problem
    shown = ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
    return replace(problem, remedy="; ".join(part for part in (problem.remedy, f"rendered for {shown}") if part))
