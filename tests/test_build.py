"""The build: which hosts are rendered again after which edit, and what is left when something is wrong."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Project
from i12e import build


def rendered(project: Project, *args: str) -> set[str]:
    """Given a project, build it and return the hosts that were rendered."""
    done = project.doit(*args)
    assert done.status == 0, done.err
    return {line.split()[1] for line in done.lines if line.startswith("RENDER")}


ALL = {"agent-1", "server-1"}


def test_a_first_build_renders_every_host_and_a_second_one_says_in_one_line_that_nothing_is_to_do(
    small: Project,
) -> None:
    assert rendered(small) == ALL
    done = small.doit()
    assert done.out.count("\n") == 1
    assert done.out.startswith("example: nothing to do, 2 hosts up to date")
    assert done.err == ""


def test_an_edit_of_one_host_renders_that_host_alone(small: Project) -> None:
    rendered(small)
    small.write("hosts/example/agent-1.yaml", "role: agent\naddresses: [192.0.2.21]\nlabels: {disk: ssd}\n")
    assert rendered(small) == {"agent-1"}


def test_an_edit_of_the_cluster_renders_every_host(small: Project) -> None:
    rendered(small)
    with (small.root / "hosts/example/cluster.yaml").open("a") as file:
        file.write("# a remark\n")
    assert rendered(small) == ALL
    assert not rendered(small)


def test_an_edit_of_an_included_template_renders_the_hosts_that_loaded_it(small: Project) -> None:
    server = (small.root / "templates/butane/server.bu.j2").read_text()
    small.write("templates/files/extra", "one")
    small.write(
        "templates/butane/server.bu.j2",
        server + '    - path: /etc/extra\n      contents: {inline: {{ embed("files/extra") }}}\n',
    )
    rendered(small)
    small.write("templates/files/extra", "two")
    assert rendered(small) == {"server-1"}


def test_a_template_of_the_users_that_overrides_ours_is_noticed_when_it_comes_and_when_it_goes(small: Project) -> None:
    rendered(small)
    before = small.outputs()
    small.write("templates/local/files/hostname", "mine\n")
    assert rendered(small) == ALL
    assert small.outputs() != before
    (small.root / "templates/local/files/hostname").unlink()
    assert rendered(small) == ALL
    assert small.outputs() == before


def test_a_secret_file_is_an_input_of_the_hosts_that_read_it_and_of_no_other(small: Project) -> None:
    small.write("templates/butane/agent.bu.j2", "variant: flatcar\nversion: 1.1.0\n")
    rendered(small)
    path = small.root / "secrets/example/cluster.yaml"
    path.write_text(path.read_text() + "\n")
    assert rendered(small) == {"server-1"}


def test_a_local_file_is_an_input_of_its_host(small: Project) -> None:
    small.write("hosts/example/files/motd", "one")
    host = "role: agent\naddresses: [192.0.2.21]\nfiles: [{path: /etc/motd, local: motd}]\n"
    small.write("hosts/example/agent-1.yaml", host)
    rendered(small)
    small.write("hosts/example/files/motd", "two")
    assert rendered(small) == {"agent-1"}


def test_a_folder_that_a_template_listed_is_an_input(small: Project) -> None:
    small.write(
        "templates/butane/agent.bu.j2", "variant: flatcar\nversion: 1.1.0\n# {{ names('manifests') | length }}\n"
    )
    rendered(small)
    small.write("templates/local/manifests/one.yaml.j2", "a: b")
    assert rendered(small) == {"agent-1"}


def test_the_address_of_another_server_is_an_input_of_the_hosts_that_join_by_it_alone(small: Project) -> None:
    cluster = small.root / "hosts/example/cluster.yaml"
    cluster.write_text(
        cluster.read_text().replace(", vip: {address: 192.0.2.10, version: v1.0.1, interface: eth0}", "")
    )
    small.write("hosts/example/agent-2.yaml", "role: agent\naddresses: [192.0.2.22]\nnetwork: {interface: eth9}\n")
    small.write("templates/butane/agent.bu.j2", "variant: flatcar\nversion: 1.1.0\n# {{ join_urls() }}\n")
    rendered(small)
    small.write("hosts/example/server-1.yaml", "role: server\naddresses: [192.0.2.12]\n")
    assert rendered(small) == {"server-1", "agent-1", "agent-2"}
    small.write("hosts/example/server-1.yaml", "role: server\naddresses: [192.0.2.12]\nlabels: {a: b}\n")
    assert rendered(small) == {"server-1"}


def test_touching_and_writing_the_same_content_again_renders_nothing(small: Project) -> None:
    rendered(small)
    for path in [*small.root.rglob("*.yaml"), *small.root.rglob("*.j2")]:
        path.write_bytes(path.read_bytes())
        os.utime(path, (1, 1))
    assert not rendered(small)


def test_a_change_that_keeps_size_and_mtime_is_seen(small: Project) -> None:
    path = small.root / "templates/files/hostname"
    rendered(small)
    info = path.stat()
    path.write_text(path.read_text().replace("host", "HOST").replace("HOST", "host").replace("\n", " "))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert path.stat().st_size == info.st_size
    assert rendered(small) == ALL


@pytest.mark.parametrize("how", ["edit", "delete", "mode"])
def test_an_output_that_was_edited_deleted_or_opened_to_others_is_made_again(small: Project, how: str) -> None:
    rendered(small)
    before = small.outputs()
    path = small.root / "build/example/hosts/agent-1/config.ign"
    if how == "edit":
        path.write_bytes(path.read_bytes().replace(b"agent", b"tnega"))
    elif how == "delete":
        path.unlink()
    else:
        path.chmod(0o644)
    assert rendered(small) == {"agent-1"}
    assert small.outputs() == before
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_removed_host_takes_its_outputs_and_its_state_along_and_says_so(small: Project) -> None:
    rendered(small)
    (small.root / "hosts/example/agent-1.yaml").unlink()
    done = small.doit()
    assert done.lines == ["REMOVE   agent-1  (it is no more in hosts/example)"]
    assert not (small.root / "build/example/hosts/agent-1").exists()
    assert not small.doit().lines
    small.write("hosts/example/agent-1.yaml", "role: agent\naddresses: [192.0.2.21]\n")
    assert rendered(small) == {"agent-1"}


def test_a_recorded_input_that_is_gone_means_render_again_and_not_an_error(small: Project) -> None:
    small.write("templates/butane/agent.bu.j2", "variant: flatcar\nversion: 1.1.0\n{% include ['a.j2', 'b.j2'] %}\n")
    small.write("templates/a.j2", "# a\n")
    small.write("templates/b.j2", "# b\n")
    rendered(small)
    (small.root / "templates/a.j2").unlink()
    assert rendered(small) == {"agent-1"}


def test_a_problem_anywhere_leaves_every_output_as_it_was(small: Project) -> None:
    rendered(small)
    before = small.outputs()
    small.write("templates/files/hostname", "{{ host.name }} new\n")
    small.write("templates/butane/agent.bu.j2", "variant: flatcar\nversion: 1.1.0\n# {{ host.nmae }}\n")
    done = small.doit()
    assert done.status == 1
    assert "templates/butane/agent.bu.j2:3: host has no nmae (did you mean name?)" in done.err
    assert "nothing was written" in done.out
    assert small.outputs() == before


def test_outputs_do_not_depend_on_the_order_or_the_history_of_builds(small: Project, tmp_path: Path) -> None:
    rendered(small, "render:server-1")
    small.write("hosts/example/agent-1.yaml", "role: agent\naddresses: [192.0.2.21]\nlabels: {x: y}\n")
    rendered(small)
    twin = Project(tmp_path / "twin")
    shutil.copytree(small.root, twin.root, ignore=shutil.ignore_patterns("build"))
    rendered(twin)
    assert twin.outputs() == small.outputs()


def test_a_lost_or_damaged_database_only_costs_time(small: Project) -> None:
    rendered(small)
    before = small.outputs()
    database = small.root / "build/example/state.db"
    for damage in (b"", b"not a database at all" * 100, database.read_bytes()[:5000]):
        database.write_bytes(damage)
        done = small.doit()
        assert done.status == 0, done.err
        assert small.outputs() == before
        assert not small.doit().lines


def test_a_moved_checkout_is_up_to_date(small: Project, tmp_path: Path) -> None:
    rendered(small)
    small.root.rename(tmp_path / "elsewhere")
    assert not rendered(Project(tmp_path / "elsewhere"))


def test_everything_below_build_is_private(small: Project) -> None:
    rendered(small)
    for path in [small.root / "build", *(small.root / "build").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_users_own_cluster_comes_before_the_example_and_environments_do_not_mix(
    small: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered(small)
    for name in ("cluster", "server-1"):
        shutil.copy(small.root / f"hosts/example/{name}.yaml", small.root / f"hosts/{name}.yaml")
    small.write("templates/butane/server.bu.j2", "variant: flatcar\nversion: 1.1.0\n")
    done = small.doit()
    assert done.status == 0, done.err
    assert done.out.startswith("RENDER   server-1\ndefault: 1 done")
    assert set(small.outputs("default")) == {"server-1"}
    monkeypatch.setenv("I12E_ENV", "example")
    assert rendered(small) == {"server-1"}
    assert set(small.outputs()) == ALL


def test_many_threads_put_each_config_into_its_own_place_and_record_it(
    small: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2, 60):
        small.write(f"hosts/example/agent-{number}.yaml", f"role: agent\naddresses: [192.0.2.{100 + number}]\n")
    monkeypatch.setattr(build, "SPOOL", 10)  # on the disk from the first config on
    sys.setswitchinterval(1e-6)
    try:
        assert len(rendered(small, "-n", "8")) == 60
    finally:
        sys.setswitchinterval(0.005)
    parallel = small.outputs()
    assert not small.doit().lines
    shutil.rmtree(small.root / "build")
    rendered(small)
    assert small.outputs() == parallel


def test_a_task_that_depends_on_a_host_runs_also_when_that_host_is_up_to_date(small: Project) -> None:
    ran: list[str] = []

    def deploy(config: dict[str, Any]) -> dict[str, Any]:
        action = (lambda: ran.append("deploy"),)
        return {"basename": "deploy", "actions": [action], "task_dep": ["render:server-1", "render"]}

    for number in (1, 2):
        done = small.doit("deploy", tasks=deploy)
        assert done.status == 0, done.err
        assert len(ran) == number


def test_a_set_whose_record_is_gone_proves_nothing(small: Project) -> None:
    rendered(small)
    with sqlite3.connect(small.root / "build/example/state.db") as database:
        database.execute("delete from tasks where name like '_inputs:%'")
    database.close()
    assert rendered(small) == ALL
    small.write("templates/files/hostname", "{{ host.name }} new\n")
    assert rendered(small) == ALL


@pytest.mark.parametrize("edited", ["templates/files/hostname", "hosts/example/server-1.yaml"])
def test_info_and_list_tell_that_a_host_is_out_of_date_and_why(small: Project, edited: str) -> None:
    rendered(small)
    assert "U render:server-1" in small.doit("list", "--all", "--status").out
    path = small.root / edited
    path.write_text(path.read_text() + "# more\n")
    told = small.doit("info", "render:server-1")
    assert told.status == 1
    assert f"    - {edited}\n" in told.out
    assert "R render:server-1" in small.doit("list", "--all", "--status").out


def test_a_copied_example_is_told_that_its_ssh_key_opens_nothing(small: Project) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEzBbaE5lcDr3hNL8WrgNDV5SGe26Y4+DFTPXDPiQ4l6"
    cluster = (small.root / "hosts/example/cluster.yaml").read_text()
    demo = cluster.replace(f"{key} demo", f"{key} demo-key-of-the-i12e-example-replace-me")
    assert demo != cluster
    small.write("hosts/example/cluster.yaml", demo)
    assert "warning" not in small.doit().err
    small.write("hosts/cluster.yaml", demo)
    small.write("hosts/server-1.yaml", "role: server\naddresses: [192.0.2.11]\n")
    for role in ("server", "agent"):
        small.write(f"templates/butane/{role}.bu.j2", "variant: flatcar\nversion: 1.1.0\n")
    told = small.doit()
    assert told.status == 0, told.err
    assert "warning: hosts/cluster.yaml:5:12: ssh_keys[0]: is the example's, nobody can log in with it" in told.err


def test_a_tree_that_a_template_takes_whole_is_an_input_with_all_that_is_in_it(small: Project) -> None:
    small.write("hosts/example/files/www/index.html", "hello")
    small.write(
        "templates/butane/agent.bu.j2",
        "variant: flatcar\nversion: 1.1.0\nstorage: {trees: [{local: www, path: /srv/www}]}\n",
    )
    rendered(small)
    tree = small.root / "hosts/example/files/www"

    def point_elsewhere() -> None:
        (tree / "home").unlink()
        (tree / "home").symlink_to(".htaccess")

    edits: dict[str, Callable[[], object]] = {
        "a file's content": lambda: (tree / "index.html").write_text("bye"),
        "a hidden file": lambda: (tree / ".htaccess").write_text("x"),
        "a permission to execute": lambda: (tree / "index.html").chmod(0o755),
        "a link": lambda: (tree / "home").symlink_to("index.html"),
        "a link's target": point_elsewhere,
        "a file in a new folder": lambda: small.write("hosts/example/files/www/sub/page", "x"),
    }
    for what, edit in edits.items():
        edit()
        assert rendered(small) == {"agent-1"}, what
        assert not rendered(small), what
