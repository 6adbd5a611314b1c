"""From a Helm release of the model to its values, and to what k3s deploys by itself.

The values are what templates/helm/RELEASE.yaml.j2 gives, secrets included. For k3s they are split in two: what is
public stands in the HelmChart, everybody who may look at it sees that; the rest is in a Secret beside it. What is
secret is found out, not declared: the template is rendered a second time with other secrets, and what differs then
was made of them. A value that merely holds the text of a secret that the template read counts as secret too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from i12e import yamlfile
from i12e.errors import Problem, UserError
from i12e.files import ABSENT, UNREADABLE, Files
from i12e.model import Cluster
from i12e.paths import Paths
from i12e.secrets import Disguised, Secret, Vault
from i12e.templates import Templates

MANIFEST = "files/helm-release.yaml.j2"
_LONG = 8  # characters of a text that is not found in others by chance


@dataclass(frozen=True)
class Manifest:
    """What k3s is told of a release: its name, and the objects as YAML; a secret, since a Secret is among them."""

    name: str
    text: Secret


class Releases:
    """The releases of one environment, for the length of one run."""

    def __init__(self, paths: Paths, files: Files, vault: Vault, cluster: Callable[[], Cluster]) -> None:
        self._paths = paths
        self._files = files
        self._vault = vault
        self._cluster = cluster
        self._templates = Templates(files, vault)
        self._disguised = Templates(files, Disguised(vault, paths, files))

    def values(self, name: str, context: dict[str, Any]) -> str:
        """Given a release's name and further variables, return its values; raise UserError with all faults."""
        self._files.note(self._paths.cluster)
        self._files.note(self._paths.release(name))
        known = self._known(name, context)
        self._chart(name)
        text = self._templates.expand(_entry(name), known)
        document = yamlfile.examine(text.encode(), self._templates.locate(_entry(name)))
        if document.problems:
            raise UserError(self._traced(problem, name, known, text) for problem in document.problems)
        return text

    def manifests(self, context: dict[str, Any]) -> list[Manifest]:
        """Given further variables, return what k3s is told of each release that it deploys; raise UserError."""
        self._files.note(self._paths.manifests)
        chosen = [name for name, release in self._cluster().helm.items() if release.manifest or release.packaged]
        problems: list[Problem] = []
        found: list[Manifest] = []
        for name in sorted(chosen):
            try:
                found.append(Manifest(name, Secret(self._manifest(name, context))))
            except UserError as error:
                problems += error.problems
        if problems:
            raise UserError(problems)
        return found

    def _manifest(self, name: str, context: dict[str, Any]) -> str:
        public, secret = self._split(name, context)
        content = self._chart(name)
        parts = {"public": public, "secret": Secret(secret) if secret else None}
        packed = base64.b64encode(content).decode() if content else None
        return self._templates.expand(MANIFEST, self._known(name, {**parts, "content": packed}))

    def _split(self, name: str, context: dict[str, Any]) -> tuple[str, str]:
        """Return a release's values as what everybody may see, and the rest."""
        with self._files.recording() as inputs:
            text = self.values(name, context)
        lines = {line.strip() for value in self._vault.values(inputs) for line in value.decode().splitlines()}
        pieces = [line for line in lines if len(line) >= _LONG]
        return yamlfile.split(text, self._other(name, context), lambda part: any(piece in part for piece in pieces))

    def _other(self, name: str, context: dict[str, Any]) -> str:
        """Return what the values would be with other secrets; if that cannot be told, nothing: then all is secret."""
        try:
            return self._disguised.expand(_entry(name), self._known(name, context))
        except UserError:
            return ""

    def _known(self, name: str, more: dict[str, Any]) -> dict[str, Any]:
        return {**more, "name": name, "release": self._cluster().helm[name], "cluster": self._cluster()}

    def _chart(self, name: str) -> bytes:
        """Record a chart of the checkout as an input; return its content if it is packed."""
        chart = self._cluster().helm[name].chart or ""
        if not chart.startswith("./"):
            return b""
        path = chart[2:]
        self._files.note(path)
        state = self._files.state(path)
        if state.startswith("dir-"):
            for file in (".helmignore", *self._files.tree(path)):
                self._files.note(f"{path}/{file}")
            return b""
        content = self._files.read(path) if state.startswith("b2-") else b""
        if not content:
            reason = {ABSENT: "there is no such chart", UNREADABLE: "cannot be read"}.get(state, "is empty")
            asked = f"helm.{name} of {self._paths.cluster_file} asks for it"
            raise UserError(Problem(path, None, None, reason, asked))
        return content

    def _traced(self, problem: Problem, name: str, known: dict[str, Any], text: str) -> Problem:
        """Return a problem of the rendered text at the line of the template that it came from."""
        message, remedy = self._vault.redact(problem.message), self._vault.redact(problem.remedy)
        trace = self._templates.trace(_entry(name), known, text)
        if trace is None or problem.line is None:
            return Problem(problem.file, None, None, f"rendered line {problem.line}: {message}", remedy)
        origin = trace.at(problem.line, problem.column or 1)
        return Problem(origin.file, origin.line, origin.column, message, remedy)


def _entry(name: str) -> str:
    return f"helm/{name}.yaml.j2"
