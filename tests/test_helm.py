"""The real helm takes what we render, and the secret files as they are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import ignition
from conftest import ROOT, Project
from i12e import programs
from i12e.yamlfile import flow

CHART = ROOT / "tests/chart"
DEMO_KEY = "secrets/example/demo-key-PUBLIC.txt"
RELEASE = "helm: {app: {chart: ./charts/echo-1.0.0.tgz, namespace: apps, manifest: true}}\n"
SERVER = """\
variant: flatcar
version: 1.1.0
storage:
  files:
    {% for release in releases() %}
    - path: /manifests/{{ release.name }}.yaml
      mode: 0600
      contents: {inline: {{ release.text | quote }}}
    {% endfor %}
"""
ODD = {
    "lines": "one\n  two\n\n\tthree \n\n",
    "first line empty": "\n  x",
    "braces": '{{ .Release.Name }} {{- include "x" . }} {% raw %} {# x #}',
    "colon": "a: b # c",
    "number": "012",
    "octal": "0o17",
    "exponent": "1e3",
    "underscores": "1_000",
    "sexagesimal": "12:34:56",
    "date": "2026-01-01",
    "yes": "yes",
    "y": "n",
    "null": "~",
    "empty": "",
    "quotes": 'it\'s a "quoted" \\n back\\slash',
    "letters": "äöü 😀 \u2028 \x7f \ufeff end",
    "spaces": "  around  ",
    "dashes": "--- not a document\n---\n...\n",
    "percent": "%{KUBERNETES_API}% %s $HOME ${HOME} $(id)",
    "anchor": "&a *b !c |d >e @f `g`",
}
PUBLIC = {key: value for key, value in ODD.items() if key != "braces"}  # which would end Jinja's {% raw %}
# What programs read differently when it stands without quotes: it must not be spelt anew on its way.
PLAIN = """\
plain: {yes: yes, n: n, octal: 0o17, old: 012, exponent: 1e3, hex: 0x1F, under: 1_000, time: 12:34:56, no: ~}
folded: >-
  one
  two
anchored: &x {a: 1.50}
again: *x
"""


@pytest.fixture
def app(small: Project, real_helm: str) -> Project:
    """A small project with one release of the chart of the tests; its values have everything odd in them, twice."""
    small.write("templates/butane/server.bu.j2", SERVER)
    small.write("templates/files/helm-release.yaml.j2", (ROOT / "templates/files/helm-release.yaml.j2").read_text())
    run(real_helm, "package", str(CHART), "--destination", str(small.root / "charts"))
    small.seal("odd", flow(ODD))
    small.write("templates/helm/app.yaml.j2", template())
    cluster = (small.root / "hosts/example/cluster.yaml").read_text()
    small.write("hosts/example/cluster.yaml", cluster + RELEASE)
    done = small.doit()
    assert done.status == 0, done.err
    return small


def template() -> str:
    """Return a template of values: some plain, some secret, and the same in the open."""
    keys = "".join(f"    {flow(key)}: {{{{ secrets.odd[{flow(key)}] | quote }}}}\n" for key in ODD)
    secret = f"  secret:\n{keys}  listed:\n    - [{{{{ secrets.odd.braces | quote }}}}, public]\n"
    public = f"  public: {{% raw %}}{flow(PUBLIC)}{{% endraw %}}\n"
    return "echo:\n" + re.sub(r"^(?=.)", "  ", PLAIN, flags=re.MULTILINE) + secret + public


def run(program: str, *arguments: str, **more: Any) -> str:
    """Given a program and its arguments, run it; return what it wrote."""
    done: Any = subprocess.run([program, *arguments], check=False, capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stderr + done.stdout
    return str(done.stdout)


def understood(helm: str, *files: Path | str, cwd: Path | None = None) -> Any:
    """Given helm and files of values, return what the chart gets of them."""
    named = [word for file in files for word in ("-f", str(file))]
    (text,) = yaml.safe_load_all(run(helm, "template", "app", str(CHART), *named, cwd=cwd))
    found = json.loads(text["data"]["values.json"])
    assert found.pop("of_the_chart", None) == "kept"
    return found


def told_k3s(project: Project, folder: Path) -> list[Path]:
    """Given a project, write the values that k3s is told as files, in the order in which it gives them to helm."""
    files = ignition.files(json.loads(project.outputs()["server-1"]))
    secret, chart = yaml.safe_load_all(ignition.content(files["/manifests/app.yaml"]["contents"]))
    texts = [chart["spec"]["valuesContent"], *(secret["stringData"][key] for key in secret["stringData"])]
    paths = [folder / f"values-{number}.yaml" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def test_helm_finds_no_fault_in_a_chart_with_our_values(app: Project, real_helm: str) -> None:
    run(real_helm, "lint", "--strict", str(CHART), "-f", str(app.root / "build/example/helm/app.yaml"))


def test_values_with_odd_content_arrive_unchanged(app: Project, real_helm: str) -> None:
    found = understood(real_helm, app.root / "build/example/helm/app.yaml")
    assert found["secret"] == ODD
    assert found["public"] == PUBLIC
    assert found["listed"] == [[ODD["braces"], "public"]]


def test_helm_understands_the_parts_that_k3s_gives_it_as_it_does_the_whole(
    app: Project, real_helm: str, tmp_path: Path
) -> None:
    parts = told_k3s(app, tmp_path)
    assert understood(real_helm, *parts) == understood(real_helm, app.root / "build/example/helm/app.yaml")
    assert ODD["braces"] not in parts[0].read_text()
    assert understood(real_helm, parts[0]).keys() == {"plain", "folded", "anchored", "again", "public"}


def test_a_packed_chart_reaches_k3s_byte_by_byte(app: Project, real_helm: str, tmp_path: Path) -> None:
    from base64 import b64decode

    files = ignition.files(json.loads(app.outputs()["server-1"]))
    chart = list(yaml.safe_load_all(ignition.content(files["/manifests/app.yaml"]["contents"])))[1]
    packed = tmp_path / "chart.tgz"
    packed.write_bytes(b64decode(chart["spec"]["chartContent"]))
    assert yaml.safe_load(run(real_helm, "show", "chart", str(packed)))["version"] == "1.0.0"


def test_helm_takes_the_values_of_the_example(project: Project, real_helm: str) -> None:
    assert project.doit("helm_values").status == 0
    run(real_helm, "lint", "--strict", str(CHART), "-f", str(project.root / "build/example/helm/prometheus.yaml"))


# --- helm-secrets


def test_helm_takes_a_secret_file_that_sops_opened_as_helm_secrets_has_it_do(
    app: Project, real_helm: str, tmp_path: Path
) -> None:
    """jkroepke/helm-secrets: scripts/lib/backends/sops.sh tells a sops file and its kind by these two patterns."""
    app.seal("values", "echo:\n  password: 's3cret: {{ x }}'\n  port: 5432\n")
    path = app.root / "secrets/example/values.yaml"
    for pattern in (r"mac.*,type:str\]", r"^sops:\s*$"):
        assert re.search(pattern, path.read_text(), re.MULTILINE), pattern
    environ = {"SOPS_AGE_KEY_FILE": str(app.root / DEMO_KEY), "SOPS_DISABLE_VERSION_CHECK": "1"}
    kinds = ("--input-type", "yaml", "--output-type", "yaml")
    opened = tmp_path / "opened.yaml"
    opened.write_text(run(programs.sops(), "--decrypt", *kinds, str(path), env=environ))
    assert understood(real_helm, opened) == {"password": "s3cret: {{ x }}", "port": 5432}


def test_helm_takes_a_secret_file_by_the_plugin_itself(
    app: Project, real_helm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "secrets" not in run(real_helm, "plugin", "list"):
        pytest.skip("helm has no plugin helm-secrets here (HELM_PLUGINS), and no package registry has it")
    app.seal("values", "echo:\n  password: 's3cret: {{ x }}'\n")
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(app.root / DEMO_KEY))
    monkeypatch.setenv("HELM_SECRETS_SOPS_PATH", programs.sops())
    found = understood(real_helm, "secrets://secrets/example/values.yaml", cwd=app.root)
    assert found == {"password": "s3cret: {{ x }}"}
