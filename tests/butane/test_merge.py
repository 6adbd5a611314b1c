"""Ignition's merge, for every kind of list; and the printing of what comes out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

import butane

Config = dict[str, Any]


def config(**parts: Any) -> Config:
    return {"ignition": {"version": "3.4.0"}, **parts}


def merged(part: str, parent: Config, child: Config) -> Any:
    return butane.merge(config(**{part: parent}), config(**{part: child})).get(part)


def files(parent: Config, child: Config) -> Config:
    (file,) = merged("storage", {"files": [{"path": "/a", **parent}]}, {"files": [{"path": "/a", **child}]})["files"]
    return {name: value for name, value in file.items() if name != "path"}


def test_the_child_s_values_win_and_the_parent_s_remain_where_the_child_is_silent() -> None:
    assert files({"mode": 1, "overwrite": True}, {"mode": 0}) == {"mode": 0, "overwrite": True}
    assert files({"overwrite": True}, {"overwrite": False}) == {"overwrite": False}


def test_mappings_merge_field_by_field() -> None:
    assert files({"user": {"id": 1}}, {"user": {"name": "a"}}) == {"user": {"id": 1, "name": "a"}}
    parent = {"contents": {"source": "data:,a", "verification": {"hash": "x"}}}
    child = {"contents": {"source": "data:,b"}}
    assert files(parent, child) == {"contents": {"source": "data:,b", "verification": {"hash": "x"}}}


def test_contents_that_were_compressed_do_not_pass_that_on_to_a_child_of_ours() -> None:
    parent = {"contents": {"compression": "gzip", "source": "data:;base64,AA=="}}
    child = {"contents": {"compression": "", "source": "data:,b"}}
    assert files(parent, child) == child
    # Ignition's own rule for a child that does not say
    assert files(parent, {"contents": {"source": "data:,b"}})["contents"]["compression"] == "gzip"


def test_append_lists_are_joined_even_where_entries_are_equal() -> None:
    same = {"append": [{"source": "data:,a"}]}
    assert files(same, same) == {"append": [{"source": "data:,a"}, {"source": "data:,a"}]}


def test_http_headers_merge_by_name_and_one_without_value_is_removed() -> None:
    parent = {"contents": {"httpHeaders": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}}
    child = {"contents": {"httpHeaders": [{"name": "C", "value": "3"}, {"name": "A"}, {"name": "B", "value": "4"}]}}
    assert files(parent, child)["contents"]["httpHeaders"] == [
        {"name": "B", "value": "4"},
        {"name": "C", "value": "3"},
    ]


@pytest.mark.parametrize("name", ["files", "directories", "links"])
def test_nodes_merge_by_path_the_parent_s_first(name: str) -> None:
    parent = {name: [{"path": "/b", "overwrite": True}, {"path": "/a"}]}
    child = {name: [{"path": "/c"}, {"path": "/b", "user": {"id": 1}}]}
    assert merged("storage", parent, child) == {
        name: [{"overwrite": True, "path": "/b", "user": {"id": 1}}, {"path": "/a"}, {"path": "/c"}]
    }


@pytest.mark.parametrize(("was", "is_now"), [("files", "links"), ("links", "directories"), ("directories", "files")])
def test_a_path_that_the_child_makes_another_kind_of_node_is_that_alone(was: str, is_now: str) -> None:
    parent = {was: [{"path": "/a"}, {"path": "/b"}]}
    child = {is_now: [{"path": "/a"}]}
    assert merged("storage", parent, child) == {was: [{"path": "/b"}], is_now: [{"path": "/a"}]}


def test_a_list_that_loses_its_last_entry_is_left_out() -> None:
    assert merged("storage", {"files": [{"path": "/a"}]}, {"links": [{"path": "/a"}]}) == {"links": [{"path": "/a"}]}


def test_users_and_their_lists_of_words_merge_without_repeats() -> None:
    parent = {"users": [{"name": "core", "sshAuthorizedKeys": ["b", "a"], "groups": ["x"], "uid": 1}]}
    child = {"users": [{"name": "core", "sshAuthorizedKeys": ["c", "a"], "shell": "/sh"}, {"name": "z"}]}
    assert merged("passwd", parent, child) == {
        "users": [
            {
                "groups": ["x"],
                "name": "core",
                "sshAuthorizedKeys": ["b", "a", "c"],
                "shell": "/sh",
                "uid": 1,
            },
            {"name": "z"},
        ]
    }


def test_groups_merge_by_name() -> None:
    parent = {"groups": [{"name": "a", "gid": 1}]}
    child = {"groups": [{"name": "b"}, {"name": "a", "system": True}]}
    assert merged("passwd", parent, child) == {"groups": [{"gid": 1, "name": "a", "system": True}, {"name": "b"}]}


def test_units_and_drop_ins_merge_by_name() -> None:
    parent = {
        "units": [
            {
                "name": "a.service",
                "enabled": True,
                "dropins": [{"name": "x.conf", "contents": "1"}, {"name": "y.conf"}],
            }
        ]
    }
    child = {
        "units": [
            {"name": "b.service"},
            {
                "name": "a.service",
                "enabled": False,
                "dropins": [{"name": "x.conf", "contents": "2"}, {"name": "z.conf"}],
            },
        ]
    }
    assert merged("systemd", parent, child) == {
        "units": [
            {
                "dropins": [
                    {"contents": "2", "name": "x.conf"},
                    {"name": "y.conf"},
                    {"name": "z.conf"},
                ],
                "enabled": False,
                "name": "a.service",
            },
            {"name": "b.service"},
        ]
    }


def test_a_kernel_argument_is_in_one_list_only() -> None:
    parent = {"shouldExist": ["a", "b"], "shouldNotExist": ["c"]}
    child = {"shouldExist": ["c", "d"], "shouldNotExist": ["b"]}
    assert merged("kernelArguments", parent, child) == {
        "shouldExist": ["a", "c", "d"],
        "shouldNotExist": ["b"],
    }


def test_merging_with_nothing_changes_nothing() -> None:
    whole = config(storage={"files": [{"path": "/a", "append": [{"source": "data:,"}]}]})
    assert butane.merge(whole, config()) == whole
    assert butane.merge(config(), whole) == whole


def test_the_newer_spec_is_the_result_s() -> None:
    old = {"ignition": {"version": "3.3.0"}}
    assert butane.merge(config(), old) == config()
    assert butane.merge(old, config()) == config()


def test_neither_config_is_changed() -> None:
    parent = config(storage={"files": [{"path": "/a", "append": [{"source": "data:,"}]}]})
    child = copy.deepcopy(parent)
    before = copy.deepcopy(parent)
    result = butane.merge(parent, child)
    result["storage"]["files"][0]["append"].append({})
    assert parent == child == before


@pytest.mark.parametrize("part", [{"storage": {"trees": []}}, {"nonsense": 1}])
def test_a_field_that_is_not_known_is_refused_and_not_dropped(part: Config) -> None:
    with pytest.raises(ValueError, match="is not known"):
        butane.merge(config(**part), config())
    with pytest.raises(ValueError, match="is not known"):
        butane.to_json(config(**part))


def test_json_says_what_its_version_says_of_nothing() -> None:
    empty = {"storage": {"luks": [{"clevis": {}, "device": "/dev/a", "name": "a"}]}}
    assert butane.to_json({"ignition": {"version": "3.2.0"}} | empty) == (
        b'{"ignition":{"version":"3.2.0"},"storage":{"luks":[{"clevis":{},"device":"/dev/a","name":"a"}]}}\n'
    )
    assert b"clevis" not in butane.to_json({"ignition": {"version": "3.3.0"}} | empty)
    old = {"ignition": {"config": {"merge": [{"source": None}]}, "version": "3.0.0"}}
    assert butane.to_json(old) == b'{"ignition":{"config":{"merge":[{"source":null}]},"version":"3.0.0"}}\n'


def test_json_has_the_order_of_ignition_s_structs_whatever_the_order_given() -> None:
    whole = {
        "systemd": {"units": [{"name": "a", "contents": "<"}]},
        "ignition": {"version": "3.4.0"},
        "passwd": {"users": []},
    }
    assert butane.to_json(whole) == (
        b'{"ignition":{"version":"3.4.0"},"systemd":{"units":[{"contents":"\\u003c","name":"a"}]}}\n'
    )


PARTS: tuple[dict[str, Any], ...] = (
    {"foo": {}},
    {"storage": []},
    {"storage": {"files": {}}},
    {"storage": {"files": [None]}},
    {"storage": {"files": [{"path": []}]}},
    {"storage": {"files": [{"path": "/a", "mode": True}]}},
    {"storage": {"files": [{"path": "/a", "mode": 1.5}]}},
    {"storage": {"files": [{"path": "/a", "contents": {"source": b"x"}}]}},
    {"storage": {"luks": [{"name": "a", "cex": {}}]}},
    {"kernelArguments": {"shouldExist": [["a"]]}},
    {"systemd": {"units": [{"name": "a.service", "enabled": "yes"}]}},
)
STRANGE: tuple[Any, ...] = (
    *(None, [], "x", {"foo": 1}, {"ignition": []}, {"ignition": {"version": 3}}),
    *({"ignition": {"version": "3.4.0"}, **parts} for parts in PARTS),
)


@pytest.mark.parametrize("strange", STRANGE, ids=repr)
@pytest.mark.parametrize(
    "does",
    [
        butane.check,
        butane.explain,
        butane.to_json,
        lambda config: butane.merge(config, {"ignition": {"version": "3.4.0"}}),
        lambda config: butane.merge({}, config),
    ],
    ids=["check", "explain", "to_json", "merged into", "merged"],
)
def test_what_is_no_ignition_config_is_a_value_error(does: Callable[[Any], Any], strange: Any) -> None:
    with pytest.raises(ValueError, match=r"^(\$.* (must be|is not known)|fcos has no version for)"):
        does(strange)


@pytest.mark.parametrize("version", ["1.0.0", "1.2.0", "1.7.0"])
def test_a_config_is_printed_as_its_own_version_prints_it(version: str) -> None:
    merge = "merge: [{verification: {}}]" if version == "1.0.0" else "replace: {}"
    luks = "" if version == "1.0.0" else ", luks: [{name: a, device: /dev/a, clevis: {}}]"
    text = f"variant: fcos\nversion: {version}\nignition: {{config: {{{merge}}}}}\nstorage: {{files: []{luks}}}\n"
    translation = butane.translate(text)
    assert butane.to_json(translation.config) == translation.json
