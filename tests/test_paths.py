"""Places: which environment is in use, which files are hosts, in which order."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from i12e.errors import UserError
from i12e.paths import Paths, environments, find, host_names, natural, secret_names, strays


def make(root: Path, *names: str) -> Path:
    """Given a folder and paths in it, make empty files of them; return the folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def refusal(root: Path, name: str) -> str:
    """Given a checkout and an environment that is not there, return what is said about it."""
    with pytest.raises(UserError) as caught:
        find(root, {"I12E_ENV": name})
    return str(caught.value)


def test_the_example_is_used_while_there_is_no_cluster_of_the_users_own(tmp_path: Path) -> None:
    make(tmp_path, "hosts/example/cluster.yaml")
    assert find(tmp_path, {}) == Paths(tmp_path, "example")
    assert find(tmp_path, {"I12E_ENV": ""}) == Paths(tmp_path, "example")
    make(tmp_path, "hosts/cluster.yaml")
    assert find(tmp_path, {}) == Paths(tmp_path, "default")


def test_the_environment_is_the_one_that_is_named(tmp_path: Path) -> None:
    make(tmp_path, "hosts/cluster.yaml", "hosts/prod/cluster.yaml")
    assert find(tmp_path, {"I12E_ENV": "prod"}).env == "prod"
    assert find(tmp_path, {"I12E_ENV": "default"}).env == "default"


def test_a_misspelt_environment_is_refused_with_a_guess_or_with_what_there_is(tmp_path: Path) -> None:
    make(tmp_path, "hosts/prod/cluster.yaml", "hosts/example/cluster.yaml")
    assert refusal(tmp_path, "prdo") == 'I12E_ENV="prdo": no such environment (did you mean prod?)'
    assert refusal(tmp_path, "zzz") == 'I12E_ENV="zzz": no such environment (there are example, prod)'


@pytest.mark.parametrize("name", ["default", "../hosts/prod", ".", "prod/", "files", "butane"])
def test_what_is_no_environment_is_refused_also_where_a_folder_of_that_name_is(tmp_path: Path, name: str) -> None:
    make(tmp_path, *(f"hosts/{folder}/cluster.yaml" for folder in ("prod", "default", "files", "butane")))
    assert "no such environment" in refusal(tmp_path, name)


def test_a_new_environment_need_not_be_there_and_the_users_own_is_meant_where_none_is_named(tmp_path: Path) -> None:
    make(tmp_path, "hosts/example/cluster.yaml")
    assert find(tmp_path, {}, new=True) == Paths(tmp_path, "default")
    assert find(tmp_path, {"I12E_ENV": "default"}, new=True) == Paths(tmp_path, "default")
    assert find(tmp_path, {"I12E_ENV": "prod"}, new=True) == Paths(tmp_path, "prod")


@pytest.mark.parametrize(
    "name",
    [
        *("example", "example-fcos", "example-mine", "lab", "helm", "local", "files", "butane", "cluster"),
        *("../x", ".", "Prod", "a/b", "-a", "a" * 64),
    ],
)
def test_no_environment_is_made_of_a_name_that_is_i12es_own_or_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="I12E_ENV="):
        find(tmp_path, {"I12E_ENV": name}, new=True)


def test_secret_files_are_the_yaml_files_of_the_environments_folder(tmp_path: Path) -> None:
    make(tmp_path, *(f"secrets/{name}" for name in ("b.yaml", "a.yaml", "x.json", ".c.yaml", "prod/d.yaml")))
    assert secret_names(Paths(tmp_path, "default")) == ["a", "b"]
    assert secret_names(Paths(tmp_path, "prod")) == ["d"]
    assert secret_names(Paths(tmp_path, "dev")) == []


def test_a_checkout_without_any_cluster_says_so(tmp_path: Path) -> None:
    assert refusal(tmp_path, "prod").endswith("(there is none: hosts/ has no cluster.yaml)")


def test_environments_are_the_folders_with_a_cluster_file_sorted_each_once(tmp_path: Path) -> None:
    make(tmp_path, "hosts/cluster.yaml", "hosts/b/cluster.yaml", "hosts/a/cluster.yaml", "hosts/empty/host.yaml")
    make(tmp_path, "hosts/default/cluster.yaml", "hosts/files/cluster.yaml")
    assert environments(tmp_path) == ["a", "b", "default"]


def test_the_users_own_environment_lies_at_the_top_and_the_others_in_folders_of_their_name() -> None:
    own, other = Paths(Path("/x"), "default"), Paths(Path("/x"), "prod")
    assert (own.hosts, own.secrets, own.build) == ("hosts", "secrets", "build/default")
    assert (other.hosts, other.secrets, other.build) == ("hosts/prod", "secrets/prod", "build/prod")
    assert own.host_file("server-1") == "hosts/server-1.yaml"
    assert other.cluster_file == "hosts/prod/cluster.yaml"
    assert other.config("server-1") == "build/prod/hosts/server-1/config.ign"


def test_every_output_lies_below_the_environments_build_folder_and_no_path_names_the_checkout() -> None:
    paths = Paths(Path("/somewhere/else"), "prod")
    outputs = [paths.state, paths.lock, paths.servers, paths.config("a"), paths.inputs("1f")]
    assert all(path.startswith("build/prod/") for path in outputs)
    assert len(set(outputs)) == len(outputs)


@pytest.mark.parametrize(
    ("env", "public"),
    [("example", True), ("example-fcos", True), ("examples", False), ("prod", False), ("default", False)],
)
def test_only_the_environments_that_come_with_i12e_are_examples(env: str, public: bool) -> None:
    assert Paths(Path("/x"), env).is_example is public


def test_hosts_are_in_natural_order_and_only_the_yaml_files_but_the_clusters(tmp_path: Path) -> None:
    names = ("server-10", "server-2", "agent-1", "cluster", ".hidden")
    make(tmp_path, *(f"hosts/{name}.yaml" for name in names))
    make(tmp_path, "hosts/notes.txt", "hosts/server-3.yaml~", "hosts/files/motd.yaml", "hosts/server-4.yml")
    assert host_names(Paths(tmp_path, "default")) == ["agent-1", "server-2", "server-10"]


def test_an_environment_without_a_folder_has_no_hosts(tmp_path: Path) -> None:
    assert host_names(Paths(tmp_path, "default")) == []


def test_names_that_count_alike_have_one_order_however_the_folder_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hosts").mkdir()
    for listing in itertools.permutations(["a-1.yaml", "a-01.yaml", "a-001.yaml"]):
        monkeypatch.setattr(os, "listdir", lambda folder, listing=listing: list(listing))
        assert host_names(Paths(tmp_path, "default")) == ["a-001", "a-01", "a-1"]


def test_a_name_comes_before_the_longer_ones_that_begin_with_it() -> None:
    names = ["1", "1a", "server", "server-2", "server-2b", "server-10"]
    for order in itertools.permutations(names):
        assert sorted(order, key=natural) == names


def test_any_file_name_has_a_place_in_the_order() -> None:
    assert sorted(["²", "1²", "٣", "a"], key=natural)  # digits to str.isdigit, but not all of them to int


@pytest.mark.parametrize("name", ["server-1.yml", "server-1.YAML", "server-1.json"])
def test_a_file_that_looks_like_a_hosts_but_is_not_read_is_told(tmp_path: Path, name: str) -> None:
    make(tmp_path, f"hosts/{name}", "hosts/server-2.yaml", "hosts/README.md")
    told = [str(problem) for problem in strays(Paths(tmp_path, "default"))]
    assert told == [f"hosts/{name}: is not read: a host's file ends in .yaml (rename it)"]
