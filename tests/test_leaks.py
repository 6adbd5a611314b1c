"""A planted secret is in no database, log, argument list, message or world-readable file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import ROOT, Project, need
from i12e import programs

PLANTED = "planted-Zq7/secret+value=0123456789"


def plant(project: Project) -> None:
    """Given a project, seal the planted value into its secret file in place of the server's token."""
    key = (project.root / "secrets/example/demo-key-PUBLIC.txt").read_text()
    recipient = next(line.split()[-1] for line in key.splitlines() if "public key" in line)
    path = project.root / "secrets/example/cluster.yaml"
    plain = f"server_token: {PLANTED}\nagent_token: {PLANTED}-agent\n"
    rules = project.root.parent / "rules.yaml"
    rules.write_text(f"creation_rules: [{{age: {recipient}}}]\n")
    command = ("--config", str(rules), "encrypt", "--input-type", "yaml", "--output-type", "yaml", "/dev/stdin")
    done = programs.run(programs.sops(), "--disable-version-check", *command, stdin=plain)
    assert done.status == 0, done.complaint
    path.write_text(done.output)


def holds(path: Path) -> bool:
    content = path.read_bytes()
    return any(form in content for form in forms())


def forms() -> list[bytes]:
    """Return the forms in which the value may turn up: plain, in a data URL, in base64 at each offset."""
    import base64
    from urllib.parse import quote

    shifted = [base64.b64encode(b"x" * skip + PLANTED.encode())[4:-4] for skip in range(3)]
    return [PLANTED.encode(), quote(PLANTED, safe="").encode(), *shifted]


def test_a_planted_secret_is_only_in_configs_that_are_private(project: Project) -> None:
    plant(project)
    assert project.doit().status == 0
    found = {path for path in project.root.rglob("*") if path.is_file() and holds_config(path)}
    configs = {project.root / f"build/example/hosts/{host}/config.ign" for host in project.outputs()}
    assert found
    assert found <= configs
    for path in found:
        assert path.stat().st_mode & 0o777 == 0o600


def holds_config(path: Path) -> bool:
    """Given a file, tell whether the value is in it, also in a compressed content of a config."""
    if path.name != "config.ign":
        return holds(path)
    import gzip
    import json
    from base64 import b64decode

    files = json.loads(path.read_bytes()).get("storage", {}).get("files", [])
    gzipped = [file["contents"] for file in files if file.get("contents", {}).get("compression") == "gzip"]
    contents = b"".join(gzip.decompress(b64decode(item["source"].partition(",")[2])) for item in gzipped)
    return holds(path) or PLANTED.encode() in contents


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        "# {{ secrets.cluster.server_token + 1 }}",
        "# {{ secrets.cluster.server_token.reveal() | int / 0 }}",
        "# {{ undefined_name[secrets.cluster.server_token.reveal()] }}",
        "# {{ {}[secrets.cluster.server_token.reveal()] }}",
        "# {{ secrets.cluster.server_token | upper }}",
        "# {{ secrets.cluster.server_token ~ 'x' }}",
        "# {{ '%s' | format(secrets.cluster.server_token) }}",
        "{{ secrets.cluster.server_token }}: [",
        "passwd: {users: [{name: {{ secrets.cluster.server_token | quote }}, uid: x}]}",
        "storage: {files: [{path: {{ secrets.cluster.server_token | quote }}}]}",
        "storage: {files: [{path: /a, contents: {source: {{ secrets.cluster.server_token | quote }}}}]}",
        "systemd: {units: [{name: {{ secrets.cluster.server_token | quote }}}]}",
        "? {{ secrets.cluster.server_token }}",
        "{{ secrets.cluster.server_token | quote }}: x",
    ],
)
def test_no_message_shows_a_secret_whatever_is_wrong_with_a_template(small: Project, fault: str) -> None:
    plant(small)
    small.write("templates/butane/server.bu.j2", f"variant: flatcar\nversion: 1.1.0\n{fault}\n")
    done = small.doit("-v", "2")
    assert done.status == 1, done.out
    for text in (done.out, done.err, small.doit("--json").out, small.doit("info", "render:server-1").out):
        assert PLANTED not in text
    assert "Traceback" not in done.err


def test_no_argument_list_of_any_process_holds_a_secret(small: Project, tmp_path: Path) -> None:
    plant(small)
    real = programs.sops()
    log = tmp_path / "argv"
    spy = tmp_path / "bin/sops"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {log}\nexec {real} "$@"\n')
    spy.chmod(0o755)
    for name in ("dodo.py", "pyproject.toml"):
        shutil.copy(ROOT / name, small.root / name)
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "PATH": f"{spy.parent}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-m", "doit"], cwd=small.root, env=environ, check=True, capture_output=True)
    assert "decrypt" in log.read_text()
    assert PLANTED not in log.read_text()
    assert PLANTED.encode() not in done.stdout + done.stderr


def test_no_process_shows_a_secret_in_proc_while_the_build_runs(small: Project) -> None:
    need(Path("/proc/self/cmdline").exists(), "/proc")
    plant(small)
    seen: list[bytes] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(path.read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert small.doit().status == 0
    finally:
        stop.set()
        watcher.join()
    assert any(b"sops" in line for line in seen)
    assert not any(PLANTED.encode() in line for line in seen)


@pytest.mark.parametrize(
    "exposing",
    [
        "storage: {files: [{path: /x, mode: 0644, contents: {inline: {{ secrets.cluster.server_token | quote }}}}]}",
        "storage: {files: [{path: /etc/x, contents: {inline: {{ secrets.cluster.server_token | quote }}}}]}",
        "systemd: {units: [{name: x.service, contents: {{ ('[Service]\\nEnvironment=T=' ~ T ~ '\\n') | quote }}}]}",
    ],
)
def test_a_secret_in_what_everybody_on_the_host_may_read_is_refused(small: Project, exposing: str) -> None:
    plant(small)
    value = "{% set T = secrets.cluster.server_token.reveal() %}"
    small.write("templates/butane/server.bu.j2", f"{value}variant: flatcar\nversion: 1.1.0\n{exposing}\n")
    done = small.doit()
    assert done.status == 1, done.out
    assert "would hold a secret that everybody on the host may read" in done.err
    assert PLANTED not in done.err


def test_what_one_host_may_show_does_not_depend_on_the_secrets_of_another(small: Project) -> None:
    plant(small)
    public = (
        f"variant: flatcar\nversion: 1.1.0\nstorage: {{files: [{{path: /x, contents: {{inline: '{PLANTED}'}}}}]}}\n"
    )
    small.write("templates/butane/agent.bu.j2", public)
    for number in (2, 3):  # before and after the server, which opens the secrets
        small.write(f"hosts/example/z-agent-{number}.yaml", f"role: agent\naddresses: [192.0.2.{30 + number}]\n")
    assert small.doit().status == 0
