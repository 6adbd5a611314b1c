"""Helm releases: which values are made again after which edit, and what k3s is told of a release."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ignition
from conftest import ROOT, Project, copy_of_example
from i12e import yamlfile

SERVER = """\
variant: flatcar
version: 1.1.0
storage:
  files:
    - path: /etc/token
      mode: 0600
      contents: {inline: {{ secrets.cluster.server_token | quote }}}
    {% for release in releases() %}
    - path: /manifests/{{ release.name }}.yaml
      mode: 0600
      contents: {inline: {{ release.text | quote }}}
    {% endfor %}
"""
AGENT = "variant: flatcar\nversion: 1.1.0\n# {{ host.name }}\n"
APP = "  app: {chart: app, repository: https://charts.example.com, version: 1.2.3, namespace: apps, manifest: true}\n"
OWN = "  own: {chart: oci://registry.example.com/charts/own, version: 0.1.0, namespace: own}\n"
PLANTED = "planted-Zq7/secret+value=0123456789"


@pytest.fixture
def charts(small: Project) -> Project:
    """A small project with two releases; k3s keeps the first one, whose values have a secret in them."""
    small.write("templates/butane/server.bu.j2", SERVER)
    small.write("templates/butane/agent.bu.j2", AGENT)
    form = (ROOT / "templates/files/helm-release.yaml.j2").read_text()
    small.write("templates/files/helm-release.yaml.j2", form)
    small.write("templates/helm/app.yaml.j2", "password: {{ secrets.app.password | quote }}\nreplicas: 2\n")
    small.write("templates/helm/own.yaml.j2", "cluster: {{ cluster.name }}\n")
    small.seal("app", f"password: {PLANTED}\n")
    with (small.root / "hosts/example/cluster.yaml").open("a") as file:
        file.write(f"helm:\n{APP}{OWN}")
    return small


def made(project: Project, *args: str) -> set[str]:
    """Given a project, build it and return what was made: hosts and releases."""
    done = project.doit(*args)
    assert done.status == 0, done.err
    return {line.split()[1] for line in done.lines}


def told(project: Project) -> list[str]:
    """Given a project in which something is wrong, build it and return the problems."""
    before = everything(project)
    done = project.doit()
    assert done.status == 1, done.out
    assert everything(project) == before
    return done.err.splitlines()


def everything(project: Project) -> dict[str, bytes]:
    """Given a project, return the products by their paths."""
    build = project.root / "build/example"
    return {str(path): path.read_bytes() for path in (*build.glob("hosts/*/config.ign"), *build.glob("helm/*"))}


def values(project: Project, name: str = "app") -> Any:
    """Given a project and a release, return its values."""
    return yaml.safe_load((project.root / f"build/example/helm/{name}.yaml").read_text())


def objects(project: Project, name: str = "app", host: str = "server-1") -> list[dict[str, Any]]:
    """Given a project and a release, return the objects that k3s on a server is told."""
    files = ignition.files(json.loads(project.outputs()[host]))
    path = next(path for path in files if path.endswith(f"{name}.yaml"))
    assert files[path]["mode"] == 0o600
    return list(yaml.safe_load_all(ignition.content(files[path]["contents"])))


def parts(project: Project, name: str = "app") -> tuple[Any, Any]:
    """Given a project and a release, return the values of the HelmChart, and those of the Secret."""
    kinds = {thing["kind"]: thing for thing in objects(project, name)}
    chart = kinds.get("HelmChart") or kinds["HelmChartConfig"]
    secret = kinds.get("Secret", {"stringData": {"values.yaml": ""}})
    return yaml.safe_load(chart["spec"].get("valuesContent", "")), yaml.safe_load(secret["stringData"]["values.yaml"])


# --- which are made again


def test_values_are_private_with_their_secrets_and_a_second_build_makes_nothing(charts: Project) -> None:
    assert made(charts) == {"agent-1", "server-1", "app", "own"}
    assert values(charts) == {"password": PLANTED, "replicas": 2}
    assert values(charts, "own") == {"cluster": "example"}
    for path in (charts.root / "build").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    done = charts.doit()
    assert done.out.startswith("example: nothing to do, 2 hosts and 2 releases up to date")


def test_an_edit_of_a_template_makes_that_release_again_and_the_servers_that_have_it(charts: Project) -> None:
    made(charts)
    charts.edit("templates/helm/own.yaml.j2", "cluster", "name")
    assert made(charts) == {"own"}
    charts.edit("templates/helm/app.yaml.j2", "2", "3")
    assert made(charts) == {"app", "server-1"}
    assert not made(charts)


def test_an_edit_of_a_secret_makes_the_releases_again_that_read_it(charts: Project) -> None:
    made(charts)
    charts.seal("app", "password: another-password\n")
    assert made(charts) == {"app", "server-1"}
    assert values(charts)["password"] == "another-password"


def test_an_edit_of_a_release_in_the_clusters_file_makes_that_one_again_and_nothing_else(charts: Project) -> None:
    made(charts)
    charts.edit("hosts/example/cluster.yaml", "version: 0.1.0", "version: 0.1.1")
    assert made(charts) == {"own"}
    charts.edit("hosts/example/cluster.yaml", "version: 1.2.3", "version: 1.2.4")
    assert made(charts) == {"app", "server-1"}
    charts.edit("hosts/example/cluster.yaml", ", manifest: true", "")
    assert made(charts) == {"app", "server-1"}
    assert not [path for path in ignition.files(json.loads(charts.outputs()["server-1"])) if "app" in path]


def test_a_release_that_is_made_while_the_model_is_current_depends_on_its_own_entry_alone(charts: Project) -> None:
    made(charts)
    charts.edit("templates/helm/app.yaml.j2", "2", "3")
    assert made(charts) == {"app", "server-1"}
    charts.edit("hosts/example/cluster.yaml", "version: 0.1.0", "version: 0.1.1")
    assert made(charts) == {"own"}


def test_any_other_edit_of_the_clusters_file_makes_all_again(charts: Project) -> None:
    made(charts)
    charts.edit("hosts/example/cluster.yaml", "name: example", "name: sample")
    assert made(charts) == {"agent-1", "server-1", "app", "own"}
    assert values(charts, "own") == {"cluster": "sample"}


def test_an_edit_of_a_host_makes_no_release_again_unless_it_asks_for_the_servers(charts: Project) -> None:
    charts.write("templates/helm/own.yaml.j2", "servers: {{ servers() | yaml }}\n")
    made(charts)
    charts.write("hosts/example/server-1.yaml", "role: server\naddresses: [192.0.2.11]\nlabels: {a: b}\n")
    assert made(charts) == {"server-1"}
    charts.write("hosts/example/server-1.yaml", "role: server\naddresses: [192.0.2.12]\n")
    assert made(charts) == {"server-1", "own"}


def test_a_template_of_the_users_stands_in_for_ours_and_has_files_and_templates_to_embed(charts: Project) -> None:
    made(charts)
    charts.write("hosts/example/files/board.json", '{"a": "{{ b }}"}\n')
    charts.write("templates/helm/parts/x", "of {{ name }}")
    local = "board: {{ local_file('board.json') }}\npart: {{ embed('helm/parts/x') }}\nversion: {{ release.version }}\n"
    charts.write("templates/local/helm/own.yaml.j2", local)
    assert made(charts) == {"own"}
    assert values(charts, "own") == {"board": '{"a": "{{ b }}"}\n', "part": "of own", "version": "0.1.0"}
    charts.write("hosts/example/files/board.json", "{}\n")
    assert made(charts) == {"own"}


@pytest.mark.parametrize("how", ["edit", "delete", "mode"])
def test_values_that_were_edited_deleted_or_opened_to_others_are_made_again(charts: Project, how: str) -> None:
    made(charts)
    before = everything(charts)
    path = charts.root / "build/example/helm/app.yaml"
    if how == "edit":
        path.write_text("replicas: 5\n")
    elif how == "delete":
        path.unlink()
    else:
        path.chmod(0o644)
    assert made(charts) == {"app"}
    assert everything(charts) == before
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_task_makes_one_release_another_one_all_and_forget_and_clean_know_them(charts: Project) -> None:
    assert made(charts, "helm_values:own") == {"own"}
    assert made(charts, "helm_values") == {"app"}
    assert made(charts) == {"agent-1", "server-1"}
    charts.doit("forget", "helm_values:own")
    assert made(charts) == {"own"}
    assert charts.doit("clean", "helm_values:own").status == 0
    assert not (charts.root / "build/example/helm/own.yaml").exists()
    assert made(charts) == {"own"}


def test_a_removed_release_takes_its_values_along_and_says_so(charts: Project) -> None:
    made(charts)
    charts.edit("hosts/example/cluster.yaml", OWN, "")
    done = charts.doit()
    assert done.lines == ["REMOVE   own  (it is no more in hosts/example/cluster.yaml)"]
    assert [path.name for path in (charts.root / "build/example/helm").iterdir()] == ["app.yaml"]
    assert not made(charts)
    charts.write("hosts/example/cluster.yaml", (charts.root / "hosts/example/cluster.yaml").read_text() + OWN)
    assert made(charts) == {"own"}


def test_a_template_without_a_release_is_no_work_and_a_mistake_only_when_it_is_named(charts: Project) -> None:
    charts.write("templates/helm/unused.yaml.j2", "{{ no_such_name }}")
    assert "unused" not in made(charts)
    done = charts.doit()
    assert done.out.startswith("example: nothing to do, 2 hosts and 2 releases up to date")
    for _ in range(2):
        named = charts.doit("helm_values:unused")
        assert named.status == 1
        assert named.err == "hosts/example/cluster.yaml: has no release unused (write it below helm:)\n"


def test_a_chart_of_the_checkout_is_an_input_of_its_release_down_to_its_last_file(charts: Project) -> None:
    charts.edit("hosts/example/cluster.yaml", OWN, "  own: {chart: ./charts/own, namespace: own}\n")
    for name in ("Chart.yaml", "templates/deep/x.yaml"):
        charts.write(f"charts/own/{name}", "a: b\n")
    made(charts)
    charts.write("charts/own/templates/deep/x.yaml", "a: c\n")
    assert made(charts) == {"own"}
    charts.write("charts/own/.helmignore", "x\n")
    assert made(charts) == {"own"}
    charts.write("charts/own/templates/y.yaml", "")
    assert made(charts) == {"own"}


def test_info_tells_which_input_of_a_release_changed(charts: Project) -> None:
    made(charts)
    shown = charts.doit("info", "helm_values:app").out
    for path in ("hosts/example/cluster.yaml", "secrets/example/app.yaml", "templates/local/helm/app.yaml.j2"):
        assert f" - {path}\n" in shown
    charts.edit("hosts/example/cluster.yaml", "version: 1.2.3", "version: 1.2.4")
    changed = charts.doit("info", "helm_values:app")
    assert changed.status == 1
    assert "    - hosts/example/cluster.yaml\n" in changed.out


# --- all or nothing


def test_a_mistake_in_values_leaves_hosts_as_they_were_and_one_of_a_host_the_values(charts: Project) -> None:
    made(charts)
    charts.edit("templates/helm/own.yaml.j2", "cluster.name", "cluster.nmae")
    charts.edit("templates/butane/agent.bu.j2", "host.name", "host.nmae")
    assert told(charts) == [
        "templates/butane/agent.bu.j2:3: host has no nmae (did you mean name?)",
        "templates/helm/own.yaml.j2:1: cluster has no nmae (did you mean name?)",
    ]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("a: b\na: c\n", ":2:1: a: is there twice (keep one of them)"),
        ("{% if true %}\n- a\n{% endif %}\n", ":2:1: is not a mapping (write `key: value` lines)"),
        ("a: {{ name }}: {{ name }}\n", ":1: YAML: a second `:` or a wrong indentation"),
        ("a: b\n{{ secrets.app.password }}: c\n{{ secrets.app.password }}: d\n", ":3:1: ***: is there twice"),
        ("a: {{ secrets.none.x }}\n", ":1: secrets/example/none.yaml: there is no such secret file"),
    ],
)
def test_values_that_are_no_mapping_are_told_at_the_templates_line(
    charts: Project, template: str, problem: str
) -> None:
    charts.write("templates/helm/app.yaml.j2", template)
    lines = told(charts)
    assert len(lines) == 1
    assert lines[0].startswith(f"templates/helm/app.yaml.j2{problem}")
    assert PLANTED not in lines[0]


def test_a_chart_of_the_checkout_that_is_not_there_is_a_problem(charts: Project) -> None:
    charts.edit("hosts/example/cluster.yaml", OWN, "  own: {chart: ./charts/own, namespace: own}\n")
    asked = "(helm.own of hosts/example/cluster.yaml asks for it)"
    assert told(charts) == [f"charts/own: there is no such chart {asked}"]


def test_mistakes_in_releases_hosts_and_templates_are_told_at_once(charts: Project) -> None:
    made(charts)
    charts.edit("hosts/example/cluster.yaml", "version: 1.2.3", "version: 1.x")
    charts.edit("templates/helm/own.yaml.j2", "cluster.name", "cluster.nmae")
    charts.write("hosts/example/agent-1.yaml", "rolle: agent\nrole: agent\naddresses: [192.0.2.21]\n")
    assert told(charts) == [
        "hosts/example/agent-1.yaml:1:1: rolle: is not a known key (did you mean role?)",
        'hosts/example/cluster.yaml:7:70: helm.app.version: "1.x" is not one version of a chart (like 1.2.3)',
        "templates/helm/own.yaml.j2:1: cluster has no nmae (did you mean name?)",
    ]


REPOSITORY = "chart: app, repository: https://charts.example.com, version: 1.2.3, namespace: apps"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("release", "problem"),
    [
        ("app: {namespace: a}", "helm.app.chart: is missing (write chart: NAME, with repository: and version:)"),
        ("app: {chart: app, version: 1.2.3, namespace: a}", "helm.app.repository: is missing"),
        ("app: {chart: oci://r.example.com/app, namespace: a}", "helm.app.version: is missing (write version: 1.2.3)"),
        ("app: {chart: oci://r.example.com/app:1.2.3, namespace: a}", "is not an OCI reference without a tag"),
        ("app: {chart: https://x.example.com/a.tgz, namespace: a}", "is a URL (the repository's goes to repository:"),
        ("app: {chart: charts/app, namespace: a}", "(a path of the checkout begins with ./: write ./charts/app)"),
        ("app: {chart: ./../app, namespace: a}", "is not a clean path below the checkout (like ./charts/app)"),
        ("app: {chart: ./app, version: 1.2.3, namespace: a}", "helm.app.version: cannot be there: the chart is of the"),
        ("app: {chart: ./app, namespace: a, manifest: true}", "is no packed chart, as k3s takes it (helm package"),
        (f"app: {{{REPOSITORY.replace('1.2.3', '^1.0')}}}", 'helm.app.version: "^1.0" is not one version of a chart'),
        (f"app: {{{REPOSITORY.replace('https://', 'https://u:p@')}}}", "holds a user or password"),
        (f"app: {{{REPOSITORY}, namespaces: a}}", "helm.app.namespaces: is not a known key (did you mean namespace?)"),
        (f"app: {{{REPOSITORY}, failure_policy: retry}}", "is not one of abort, reinstall"),
        (f"App: {{{REPOSITORY}}}", "helm.App: is not a DNS label (write app)"),
        (f"{'a' * 54}: {{{REPOSITORY}}}", "is longer than the 53 characters that Helm takes"),
        (
            f"{'a' * 51}: {{{REPOSITORY}, manifest: true}}",
            "is longer than the 50 characters that k3s's helm-controller",
        ),
        (f"none: {{{REPOSITORY}}}", "has no template of its values (make templates/local/helm/none.yaml.j2, an empty"),
        ("app: {packaged: true}", "is not for app: k3s packages traefik, traefik-crd as charts (name a chart)"),
        ("traefik: {packaged: true, namespace: a}", "helm.traefik.namespace: cannot be there beside packaged"),
        (
            f"traefik: {{{REPOSITORY}, manifest: true}}",
            "is the name of a chart that k3s deploys itself (packaged: true",
        ),
    ],
)
def test_what_is_wrong_with_a_release_is_told_with_its_place(charts: Project, release: str, problem: str) -> None:
    for name in ("traefik", "a" * 51):
        charts.write(f"templates/helm/{name}.yaml.j2", "")
    cluster = (charts.root / "hosts/example/cluster.yaml").read_text().partition("helm:")[0]
    charts.write("hosts/example/cluster.yaml", f"{cluster}helm:\n  {release}\n")
    lines = told(charts)
    assert len(lines) == 1, lines
    assert lines[0].startswith("hosts/example/cluster.yaml:7:")
    assert problem in lines[0]


def test_k3s_is_told_of_a_release_only_where_it_can_deploy_it(charts: Project) -> None:
    cluster = (charts.root / "hosts/example/cluster.yaml").read_text()
    charts.write(
        "hosts/example/cluster.yaml", cluster.replace("v1.35.4+k3s1", "v1.32.3+k3s1, secrets_encryption: aescbc")
    )
    said = "helm.app: is for k3s to deploy, which needs k3s v1.32.4 or v1.33.0, this is v1.32.3+k3s1"
    assert told(charts) == [f"hosts/example/cluster.yaml:7:3: {said} (a newer version, or manifest: false)"]
    off = cluster.replace("v1.35.4+k3s1", "v1.35.4+k3s1, config: {disable-helm-controller: true}")
    charts.write("hosts/example/cluster.yaml", off)
    assert "k3s.config has disable-helm-controller" in told(charts)[0]


def test_a_host_cannot_have_releases_of_its_own_and_an_empty_section_is_none(charts: Project) -> None:
    charts.write("hosts/example/agent-1.yaml", "role: agent\naddresses: [192.0.2.21]\nhelm: {}\n")
    said = "helm: is not a known key (cluster.yaml has the releases)"
    assert told(charts) == [f"hosts/example/agent-1.yaml:3:1: {said}"]
    charts.write("hosts/example/agent-1.yaml", "role: agent\naddresses: [192.0.2.21]\n")
    charts.edit("hosts/example/cluster.yaml", APP + OWN, "  # none yet\n")
    assert made(charts) == {"agent-1", "server-1"}


# --- what k3s is told

# The fields of HelmChart's and HelmChartConfig's spec in helm-controller v0.17.1, which k3s v1.35.4+k3s1 has:
# k3s-io/helm-controller, pkg/apis/helm.cattle.io/v1/types.go; k3s-io/docs, release-notes/v1.35.X.md.
FIELDS: dict[str, dict[str, type]] = {
    "HelmChart": {
        **dict.fromkeys(("targetNamespace", "chart", "version", "repo", "repoCA", "valuesContent"), str),
        **dict.fromkeys(("helmVersion", "chartContent", "jobImage", "timeout", "failurePolicy", "driver"), str),
        **dict.fromkeys(("createNamespace", "bootstrap", "takeOwnership", "authPassCredentials"), bool),
        **dict.fromkeys(("insecureSkipTLSVerify", "plainHTTP"), bool),
        **dict.fromkeys(("repoCAConfigMap", "set", "values", "authSecret", "dockerRegistrySecret"), dict),
        **dict.fromkeys(("podSecurityContext", "securityContext"), dict),
        "valuesSecrets": list,
        "backOffLimit": int,
    },
    "HelmChartConfig": {"values": dict, "valuesContent": str, "valuesSecrets": list, "failurePolicy": str},
}
VALUES_SECRET = {"name", "keys", "ignoreUpdates"}


def assert_k3s_knows(thing: dict[str, Any]) -> None:
    """Given an object that k3s is told, assert that it has only fields that its kind has, of the right types."""
    if thing["kind"] == "Secret":
        assert set(thing) == {"apiVersion", "kind", "metadata", "type", "stringData"}
        assert all(isinstance(value, str) for value in thing["stringData"].values())
        return
    assert thing["apiVersion"] == "helm.cattle.io/v1"
    for name, value in thing["spec"].items():
        assert type(value) is FIELDS[thing["kind"]][name], name
    assert thing["spec"]["failurePolicy"] in ("abort", "reinstall")
    assert all(set(secret) <= VALUES_SECRET for secret in thing["spec"].get("valuesSecrets", ()))


def test_k3s_gets_a_chart_with_public_values_and_a_secret_with_the_others(charts: Project) -> None:
    made(charts)
    secret, chart = objects(charts)
    for thing in (secret, chart):
        assert_k3s_knows(thing)
        assert thing["metadata"]["namespace"] == "kube-system"  # where valuesSecrets looks is where the HelmChart is
    assert chart["metadata"]["name"] == "app"
    assert chart["spec"] == {
        "chart": "app",
        "repo": "https://charts.example.com",
        "version": "1.2.3",
        "targetNamespace": "apps",
        "createNamespace": True,
        "failurePolicy": "abort",
        "valuesContent": "replicas: 2\n",
        "valuesSecrets": [{"name": secret["metadata"]["name"], "keys": ["values.yaml"]}],
    }
    assert secret["metadata"]["name"] != "chart-values-app"  # the helm-controller's own, it leaves that one out
    assert parts(charts) == ({"replicas": 2}, {"password": PLANTED})


def test_what_has_no_secret_needs_no_secret_object(charts: Project) -> None:
    charts.write("templates/helm/app.yaml.j2", "replicas: 2\n")
    charts.edit("hosts/example/cluster.yaml", "manifest: true", "manifest: true, failure_policy: reinstall")
    made(charts)
    (chart,) = objects(charts)
    assert_k3s_knows(chart)
    assert "valuesSecrets" not in chart["spec"]
    assert chart["spec"]["failurePolicy"] == "reinstall"
    charts.write("templates/helm/app.yaml.j2", "{# the chart's own will do #}")
    made(charts)
    assert "valuesContent" not in objects(charts)[0]["spec"]


def test_a_packaged_chart_is_only_configured(charts: Project) -> None:
    charts.edit("hosts/example/cluster.yaml", OWN, "  traefik: {packaged: true}\n")
    charts.write("templates/helm/traefik.yaml.j2", "a: 1\nb: {{ secrets.app.password | quote }}\n")
    made(charts)
    secret, config = objects(charts, "traefik")
    for thing in (secret, config):
        assert_k3s_knows(thing)
    assert config["kind"] == "HelmChartConfig"
    assert config["metadata"] == {"name": "traefik", "namespace": "kube-system"}
    assert set(config["spec"]) == {"failurePolicy", "valuesContent", "valuesSecrets"}
    assert parts(charts, "traefik") == ({"a": 1}, {"b": PLANTED})


def test_a_packed_chart_of_the_checkout_goes_along(charts: Project) -> None:
    (charts.root / "charts").mkdir()
    (charts.root / "charts/own-1.0.0.tgz").write_bytes(b"\x1f\x8b a packed chart")
    own = "  own: {chart: ./charts/own-1.0.0.tgz, namespace: own, manifest: true}\n"
    charts.edit("hosts/example/cluster.yaml", OWN, own)
    made(charts)
    (chart,) = objects(charts, "own")
    assert_k3s_knows(chart)
    assert chart["spec"]["chartContent"] == "H4sgYSBwYWNrZWQgY2hhcnQ="
    assert not {"chart", "version", "repo"} & set(chart["spec"])
    (charts.root / "charts/own-1.0.0.tgz").write_bytes(b"\x1f\x8b another one")
    assert made(charts) == {"own", "server-1"}


SECRETIVE = {
    "whole": "x: {{ P | quote }}",
    "in a text": "x: {{ ('user:' ~ P.reveal() ~ '@host') | quote }}",
    "in a list": "x: [a, {{ P | quote }}]",
    "deep": "x: {a: {b: [{c: {{ P | quote }}}]}}",
    "as a key": "x: {{ '{' }}{{ P | quote }}: 1}",
    "changed": "x: {{ P.reveal() | upper | quote }}",
    "its end": "x: {{ P.reveal()[-6:] | quote }}",
    "in a block": "x: |\n  [a]\n  p = {{ P }}\n",
    "chosen by": "x: {{ 'yes' if P.reveal() == '" + PLANTED + "' else 'no' }}",
    "not by its type": "x: " + PLANTED,
    "where others cannot be": "x: {{ {'" + PLANTED + "': 'yes'}[P.reveal()] }}",
}


@pytest.mark.parametrize("how", SECRETIVE)
def test_a_planted_secret_is_in_no_helm_chart_and_the_parts_together_are_the_whole(charts: Project, how: str) -> None:
    template = "{% set P = secrets.app.password %}\npublic: 1\n" + SECRETIVE[how] + "\n"
    charts.write("templates/helm/app.yaml.j2", template)
    made(charts)
    public, secret = parts(charts)
    assert "x" not in (public or {})
    assert merged(public or {}, secret) == values(charts)
    for thing in objects(charts):
        for form in (PLANTED, PLANTED.upper(), PLANTED[-6:]):
            assert form not in json.dumps(thing) or thing["kind"] == "Secret"
    assert how == "where others cannot be" or public == {"public": 1}  # without that, all counts as secret


def test_every_line_of_a_long_secret_is_in_no_helm_chart(charts: Project) -> None:
    charts.seal("app", "password: |\n  -----BEGIN KEY-----\n  MIIEpAIBAAKCAQEA\n  -----END KEY-----\n")
    charts.write("templates/helm/app.yaml.j2", "a: {{ secrets.app.password | quote }}\nb: MIIEpAIBAAKCAQEA again\n")
    made(charts)
    assert parts(charts)[0] is None
    assert set(parts(charts)[1]) == {"a", "b"}


@pytest.mark.parametrize("value", ["true", "5432", '""', "'***'", '"\\n"', "null-and-void", "ß", "[a-secret, b]"])
def test_a_secret_of_any_kind_is_told_from_what_is_public(charts: Project, value: str) -> None:
    charts.seal("app", f"password: {value}\n")
    charts.write("templates/helm/app.yaml.j2", "a: {{ secrets.app.password | yaml }}\nb: true\nc: [x]\n")
    made(charts)
    assert parts(charts) == ({"b": True, "c": ["x"]}, {"a": values(charts)["a"]})


def test_whether_a_secret_file_is_there_may_be_asked_and_is_an_input(charts: Project) -> None:
    asks = "{% if secrets.extra is defined %}x: {{ secrets.extra.y | quote }}\n{% else %}x: none\n{% endif %}"
    charts.write("templates/helm/own.yaml.j2", asks)
    made(charts)
    assert values(charts, "own") == {"x": "none"}
    charts.seal("extra", "y: z\n")
    assert made(charts) == {"own"}
    assert values(charts, "own") == {"x": "z"}
    (charts.root / "secrets/example/extra.yaml").unlink()
    assert made(charts) == {"own"}


def merged(one: Any, other: Any) -> Any:
    """Given two values, return them merged as Helm merges files of values."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other
    return one | {key: merged(one[key], value) if key in one else value for key, value in other.items()}


KEYS = st.text("abcü: \"'#-", min_size=1, max_size=4)
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LEAVES = st.one_of(st.text(max_size=8), st.booleans(), st.integers(), st.none(), st.just("SECRET"))
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@PATIENT
@given(st.dictionaries(KEYS, TREES, max_size=4), st.booleans())
def test_the_parts_of_any_values_are_the_whole_and_only_one_has_secrets(tree: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True, default_flow_style=flow, sort_keys=False)
    assert not yamlfile.examine(text.encode(), "x").problems
    public, secret = yamlfile.split(text, text.replace("SECRET", "TERCES"), lambda part: False)
    read = [yamlfile.load(part.encode(), "x").data for part in (public, secret)]
    assert merged(*read) == yamlfile.load(text.encode(), "x").data
    assert "SECRET" not in public


# --- the example and the documentation


def test_what_the_documentation_shows_of_a_release_works(charts: Project) -> None:
    page = (ROOT / "docs/helm.md").read_text()
    blocks = [yaml_of(block) for block in re.findall(r"\n\n((?:    .*\n|\n(?=    ))+)", page)]
    entries = [block for block in blocks if block.startswith("helm:")]
    assert len(entries) == 2
    example = yaml.safe_load((ROOT / "hosts/example/cluster.yaml").read_text())["helm"]["prometheus"]
    shown = yaml.safe_load(entries[0])["helm"]["prometheus"]
    assert shown.items() <= example.items()
    (template,) = (block for block in blocks if "secrets.smtp is defined" in block)
    charts.write("templates/local/helm/app.yaml.j2", template)
    made(charts)
    assert values(charts) == {"url": "https://k8s.example.com", "database": {"password": PLANTED}}
    cluster = (charts.root / "hosts/example/cluster.yaml").read_text().partition("helm:")[0]
    charts.write("hosts/example/cluster.yaml", cluster + entries[1])
    charts.write("templates/local/helm/traefik.yaml.j2", "")
    made(charts)
    assert [thing["kind"] for thing in objects(charts, "traefik")] == ["HelmChartConfig"]


def yaml_of(block: str) -> str:
    """Given an indented block of a page, return what it shows."""
    return re.sub(r"^    ", "", block, flags=re.MULTILINE)


def test_every_manifest_of_the_example_is_read_and_k3s_knows_its_releases(tmp_path: Path) -> None:
    project = copy_of_example(tmp_path / "checkout")
    made(project)
    for host in ("server-1", "server-2", "server-3"):
        files = ignition.files(json.loads(project.outputs()[host]))
        manifests = [path for path in files if path.startswith("/var/lib/rancher/k3s/server/manifests/")]
        for path in manifests:
            for thing in yaml.safe_load_all(ignition.content(files[path]["contents"])):
                assert {"apiVersion", "kind", "metadata"} <= set(thing)
        for thing in objects(project, "i12e-helm-prometheus", host):
            assert_k3s_knows(thing)


def test_the_example_watches_every_30_seconds_and_sends_alerts_to_pushover_where_it_has_its_secret(
    tmp_path: Path,
) -> None:
    project = copy_of_example(tmp_path / "checkout")
    made(project)
    found = values(project, "prometheus")
    assert found["server"]["global"] == {"scrape_interval": "30s", "evaluation_interval": "30s"}
    (group,) = found["serverFiles"]["alerting_rules.yml"]["groups"]
    assert [rule["alert"] for rule in group["rules"]] == ["HostOverloaded"]
    assert "{{ $labels.node }}" in group["rules"][0]["annotations"]["summary"]
    names = [receiver["name"] for receiver in found["alertmanager"]["config"]["receivers"]]
    assert found["alertmanager"]["config"]["route"]["receiver"] == "pushover"
    assert names == ["default-receiver", "pushover"]
    public, secret = parts(project, "prometheus")
    assert set(secret) == {"extraManifests"}
    assert merged(public, secret) == found
    os.unlink(project.root / "secrets/example/pushover.yaml")
    assert made(project) == {"prometheus", "server-1", "server-2", "server-3"}
    assert values(project, "prometheus")["alertmanager"]["config"]["route"]["receiver"] == "default-receiver"
    assert [thing["kind"] for thing in objects(project, "prometheus")] == ["HelmChart"]
