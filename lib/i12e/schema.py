"""The JSON Schemas of cluster and host files, by which an editor completes and checks them.

Fields, defaults and descriptions come from `settings`, the forms of values from `patterns`, and from `rules` what one
file can break alone. docs/editor.md lists what is left to ./doit; tests compare both.

Draft-07, which every version of the YAML language server reads. Where a value may also be null, or one text for a
list, its `type` is a list: so the other keywords stay where they are, and a fault has the place of the value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

from i12e.patterns import FORMS
from i12e.rules import _NAME, REFUSED, RENDERED, SERVER_FLAGS
from i12e.settings import (
    ALARMS,
    FORM,
    HOST_KEYS,
    PROVIDERS,
    SHARED,
    SINGLE,
    STORES,
    UNIT,
    Cluster,
    Host,
    Retention,
    Settings,
)

Node = dict[str, Any]
Path = tuple[str, ...]

DRAFT = "http://json-schema.org/draft-07/schema#"
MODELS: dict[str, type[Settings]] = {"cluster": Cluster, "host": Host}
ITEM, VALUE = "[]", "*"
"""Steps of a path: an entry of a list, a value of a mapping whose keys are the user's."""

WORDS = "x-default"
"""In a tree: the default in words, as the docstring says it; None for entries, which have none."""
_ENTRIES = ("items", "additionalProperties", "propertyNames")
KEEPS = tuple(Retention.model_fields)
_INTERNAL = (FORM, SINGLE, WORDS)
_KEPT = (
    *("type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems"),
    *("uniqueItems", "items", "properties", "required", "additionalProperties", "propertyNames", "default"),
    *("anyOf", UNIT, FORM, SINGLE),
)


def schema(kind: str) -> Node:
    """Given `cluster` or `host`, return the JSON Schema of such a file."""
    root = tree(kind)
    for key in sorted(root["properties"]):
        node = root["properties"][key]
        if kind == "host" and key in SHARED:
            _override(node)
        if (key in SHARED or kind == "cluster") and key not in root["required"]:
            _nullable(node)  # a section with nothing but comments in it says nothing
    return {"$schema": DRAFT, "title": f"i12e: a {kind}'s file", **_published(root)}


def tree(kind: str) -> Node:
    """Given `cluster` or `host`, return what its file may hold, each key on its own, as a schema with our words in it.

    The keys that both files share are as the cluster's file has them.
    """
    raw = MODELS[kind].model_json_schema()
    root = _node(raw, raw["$defs"])
    if kind == "host":
        root["properties"] = {key: node for key, node in root["properties"].items() if key in HOST_KEYS}
        root["required"] = [key for key in root["required"] if key in HOST_KEYS - SHARED]
    for path, part in _rules(kind):
        _add(at(root, path), part)
    return root


def keys(root: Node) -> Iterator[tuple[Path, Node, bool]]:
    """Given a tree, yield every key that has a name: its path, what it may be, and whether it must be there."""
    yield from _keys(root, ())


def _keys(node: Node, path: Path) -> Iterator[tuple[Path, Node, bool]]:
    for key, child in node.get("properties", {}).items():
        yield (*path, key), child, key in node.get("required", ())
        yield from _keys(child, (*path, key))
    for step, child in ((ITEM, node.get("items")), (VALUE, node.get("additionalProperties"))):
        if isinstance(child, dict):
            yield from _keys(child, (*path, step))


def at(root: Node, path: Path) -> Node:
    """Given a tree and a path, return the part there; raise KeyError if there is none."""
    for step in path:
        names = {ITEM: "items", VALUE: "additionalProperties"}
        root = root[names[step]] if step in names else root["properties"][step]
    return root


# --- from what pydantic gives


def _node(raw: Node, defs: Node) -> Node:
    """Given a part of pydantic's schema, return it without references, titles and unions with null."""
    if "$ref" in raw:
        section = defs[raw["$ref"].rpartition("/")[2]]
        told = {"description": _joined(section, raw)}
        return _node({**section, **{key: value for key, value in raw.items() if key != "$ref"}, **told}, defs)
    choices = [part for part in raw.get("anyOf", ()) if part.get("type") != "null"]
    if len(choices) == 1:
        rest = {key: value for key, value in raw.items() if key != "anyOf"}
        found = _node({**choices[0], **rest} if "$ref" not in choices[0] else choices[0] | rest, defs)
        if len(raw["anyOf"]) > 1:
            _nullable(found)
        return found
    return _plain(raw, defs)


def _joined(section: Node, raw: Node) -> str:
    """Return the description of a section: its class's, with the default that its field tells."""
    own, told = _default_words(raw.get("description", ""))[1], section.get("description", "")
    return f"{told} Default: {own}." if own else str(told)


def _plain(raw: Node, defs: Node) -> Node:
    node = {key: raw[key] for key in _KEPT if key in raw}
    text, words = _default_words(raw.get("description", ""))
    node["description"], node[WORDS] = text, words
    for key in _ENTRIES:
        if isinstance(node.get(key), dict):
            node[key] = _node(node[key], defs) | {WORDS: None}
    if "properties" in node:
        node["properties"] = {key: _node(child, defs) for key, child in node["properties"].items()}
        node.pop("default", None)  # its keys have theirs
        node.setdefault("required", [])
    if "anyOf" in node:
        node["anyOf"] = [_node(part, defs) for part in node["anyOf"]]
    if node.get("type") == "array":
        _of_list(node)
    elif node.get("type") == "object" and "properties" not in node:
        node.setdefault("default", {})
    if node.get("default", ...) is None:
        del node["default"]  # an editor would write null
    _formed(node)
    node["examples"] = [_in_order(node, example) for example in raw.get("examples") or _examples(node)]
    return node


def _of_list(node: Node) -> None:
    for wrong, right in (("minLength", "minItems"), ("maxLength", "maxItems")):  # pydantic, behind a validator
        if wrong in node:
            node[right] = node.pop(wrong)
    if node.get(SINGLE):
        node["type"] = ["array", *_types(node["items"])]
        node |= {key: node["items"][key] for key in ("pattern", "patternErrorMessage") if key in node["items"]}


def _formed(node: Node) -> None:
    """Say of a value with a form what JSON Schema can say of it."""
    form = FORMS.get(node.get(FORM, ""))
    if form is None:
        return
    node |= form.schema
    if form.unit:
        node.setdefault(UNIT, form.unit)
    if "pattern" in form.schema:
        node["patternErrorMessage"] = f"not {form.what}, like {form.example}"


def _examples(node: Node) -> list[Any]:
    """Return one example, made of what is known of a value and of its parts; none where nothing is."""
    found = _example(node)
    return [] if found is None else [found]


def _example(node: Node) -> Any:
    default = node.get("default")
    if FORM in node and node[FORM] in FORMS:
        return FORMS[node[FORM]].example
    if "enum" in node:
        return next((choice for choice in node["enum"] if choice != default), None)
    if "boolean" in _types(node):
        return not default
    if "properties" in node:
        parts = node["properties"]
        chosen = node["required"] or list(parts)[:1]
        return _if_all({key: _of(parts[key]) for key in chosen})
    if "items" in node:
        return _if_all([_of(node["items"])])
    if isinstance(node.get("additionalProperties"), dict) and "propertyNames" in node:
        return _if_all({_of(node["propertyNames"]): _of(node["additionalProperties"])})
    return None


def _in_order(node: Node, example: Any) -> Any:
    """Return an example with its keys in the order of the fields: pydantic sorts them."""
    if isinstance(example, list) and "items" in node:
        return [_in_order(node["items"], item) for item in example]
    if isinstance(example, dict) and isinstance(node.get("additionalProperties"), dict):
        return {key: _in_order(node["additionalProperties"], item) for key, item in example.items()}
    if isinstance(example, dict) and "properties" in node:
        parts = {key: part for key, part in node["properties"].items() if key in example}
        return {key: _in_order(part, example[key]) for key, part in parts.items()}
    return example


def _of(node: Node) -> Any:
    return next(iter(node["examples"]), None)


def _if_all(parts: Any) -> Any:
    known = [*parts, *parts.values()] if isinstance(parts, dict) else parts
    return None if None in known else parts


def _types(node: Node) -> list[str]:
    types = node.get("type", ["string"] if FORM in node else [])
    return types if isinstance(types, list) else [types]


def _nullable(node: Node) -> None:
    if _types(node) and "null" not in _types(node):
        node["type"] = [*_types(node), "null"]
    if "enum" in node and None not in node["enum"]:
        node["enum"] = [*node["enum"], None]


_DEFAULT = re.compile(r"\s*\bDefault: (.+?)\.(?=\s|$)", re.DOTALL)


def _default_words(docstring: str) -> tuple[str, str]:
    """Given a docstring, return it without the sentence on its default, and that; a paragraph is one line."""
    text = "\n\n".join(" ".join(part.split()) for part in docstring.split("\n\n"))
    found = _DEFAULT.search(text)
    return (text[: found.start()] + text[found.end() :], found[1]) if found else (text, "")


# --- what a host's file may leave out


def _override(node: Node) -> None:
    """Make of a key of the cluster's file one of a host's, which is merged into that: nothing must be there."""
    node[WORDS] = None if node[WORDS] is None else "the cluster's"
    node.pop("default", None)
    if "properties" in node:
        node["required"] = []
    values = node.get("additionalProperties")
    for child in (*node.get("properties", {}).values(), *([values] if is_part(values) else [])):
        _override(child)


def is_part(node: Any) -> TypeGuard[Node]:
    """Given what stands in a tree, tell whether it is a part of it, and not a rule that was added."""
    return isinstance(node, dict) and WORDS in node


# --- what values must not be together, as far as one file shows it


def _rules(kind: str) -> Iterator[tuple[Path, Node]]:
    """Given a kind of file, yield what is to be added where; the comments name the rule in `rules`."""
    yield ("k3s", "config"), _config()  # _config, _config_value
    for net in ("cluster_cidr", "service_cidr"):  # _cidrs
        yield ("network", net), {"allOf": [{"not": _two_of(family)} for family in ("^[0-9.]+/", ":")]}
    named = ["name"] if kind == "host" else []  # a host's file without it has the cluster's
    yield ("os",), {"allOf": [_etcd_lock(), _one_day(named)]}  # _os
    yield (), {"allOf": [_no_sysexts()]}
    if kind == "cluster":
        yield ("helm", VALUE), {"allOf": list(_release())}  # of_releases
        yield ("backup", "recipients"), {"uniqueItems": True}  # of_backup
        yield ("backup", "stores"), {"uniqueItems": True}
        yield ("backup", "keep"), {"not": {"required": list(KEEPS), "properties": {key: {"const": 0} for key in KEEPS}}}
        yield ("backup", "stores", ITEM), _kinds(STORES)
        yield ("backup", "alarms", ITEM), _kinds(ALARMS)
        yield ("dns",), {"allOf": [_needs("provider", provider) for provider in PROVIDERS]}  # of_dns
    else:
        yield (), {"allOf": [_of_servers()]}  # _config
        yield ("addresses",), {"uniqueItems": True}  # _twice
        yield ("files",), {"uniqueItems": True}
        yield ("files", ITEM), _contents()  # _files
        yield ("units",), {"uniqueItems": True}
        yield ("units", ITEM), _purpose()  # _units
        yield ("units", ITEM, "dropins"), {"uniqueItems": True}


def _config() -> Node:
    single: Node = {"type": ["string", "number", "boolean"]}
    refused = "|".join(sorted({**RENDERED, **REFUSED}))
    name = _NAME.pattern.removesuffix(r"\Z")
    told = "not a setting that may stand here: i12e writes it itself (see docs/reference.md), or k3s has none such"
    return {
        "propertyNames": {"pattern": rf"^(?!(?:{refused})\+?$){name}$", "patternErrorMessage": told},
        "additionalProperties": {"type": [*single["type"], "array"], "items": single},
    }


def _of_servers() -> Node:
    flags = "|".join(sorted(SERVER_FLAGS))
    config = {"propertyNames": {"not": {"pattern": rf"^(?:{flags})\+?$"}}}
    return _if("role", "agent", {"k3s": {"properties": {"config": config}}})


def _two_of(family: str) -> Node:
    return {"type": "array", "minItems": 2, "items": {"type": "string", "pattern": family}}


def _etcd_lock() -> Node:
    return _if("name", "fcos", {"update": {"properties": {"strategy": {"not": {"const": "etcd-lock"}}}}})


def _no_sysexts() -> Node:
    fcos = {"os": {"required": ["name"], "properties": {"name": {"const": "fcos"}}}}
    none = {"artifacts": {"properties": {"sysexts": {"anyOf": [{"additionalProperties": {"type": "null"}}]}}}}
    return {"if": {"required": ["os"], "properties": fcos}, "then": {"properties": none}}


def _one_day(named: list[str]) -> Node:
    window = {"properties": {"days": {"maxItems": 1}}}
    return _if("name", "flatcar", {"update": {"properties": {"window": window}}}, named)


def _release() -> Iterator[Node]:
    """Yield what a Helm release must and must not say, by where its chart comes from."""
    nothing = {"type": "null", "errorMessage": "cannot be there: the chart is packaged, or comes from elsewhere"}
    packaged = {"properties": {"packaged": {"const": True}}, "required": ["packaged"]}
    none = {"properties": dict.fromkeys(("chart", "repository", "version", "namespace"), nothing)}
    yield {"if": packaged, "then": none, "else": {"allOf": [_there("chart"), _there("namespace")]}}
    for chart, needed, refused in (
        (r"^\./", (), ("repository", "version")),
        ("^oci://", ("version",), ("repository",)),
        (r"^(?!\./|oci://)", ("repository", "version"), ()),
    ):
        from_there = {"properties": {"chart": {"type": "string", "pattern": chart}}, "required": ["chart"]}
        where = {"allOf": [from_there, {"not": packaged}]}
        yield {"if": where, "then": {"properties": dict.fromkeys(refused, nothing)}}
        yield from ({"if": where, "then": _there(key)} for key in needed)
    packed = {"pattern": r"^(?!\./)|\.tgz$", "patternErrorMessage": "no packed chart (.tgz), as k3s takes it"}
    yield _if("manifest", True, {"chart": packed})


def _contents() -> Node:
    both = {"type": "null", "errorMessage": "cannot be there beside contents: keep one"}
    local = {"if": _there("contents"), "then": {"properties": {"local": both}}}
    return {"anyOf": [_there("contents"), _there("local")], "allOf": [local]}


def _purpose() -> Node:
    dropins = {"required": ["dropins"], "properties": {"dropins": {"minItems": 1}}}
    return {"anyOf": [_there("enabled"), _there("contents"), dropins]}


def _kinds(kinds: Sequence[str]) -> Node:
    """Return that of some keys exactly one is there: all behind the first are refused."""
    refused = []
    for place, kind in enumerate(kinds):
        nothing = {"enum": [None, False], "errorMessage": f"cannot be there beside {kind}: an entry of its own"}
        refused.append({"if": _chosen(kind), "then": {"properties": dict.fromkeys(kinds[place + 1 :], nothing)}})
    return {"anyOf": [_chosen(kind) for kind in kinds], "allOf": refused[:-1]}


def _chosen(key: str) -> Node:
    return {"required": [key], "properties": {key: {"not": {"enum": [None, False]}}}}


def _there(key: str) -> Node:
    return {"required": [key], "properties": {key: {"not": {"type": "null"}}}}


def _if(key: str, value: str | bool, then: Node, required: list[str] | None = None) -> Node:
    """Return that where a key has a value, other keys are so; the key must be there unless `required` is given."""
    wanted = [key] if required is None else required
    return {"if": {"properties": {key: {"const": value}}, "required": wanted}, "then": {"properties": then}}


def _needs(key: str, value: str) -> Node:
    """Return that where a key has a value, there is a key of that name beside it."""
    return {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": _there(value)}


def _add(node: Node, part: Node) -> None:
    for key, value in part.items():
        node[key] = [*node.get(key, ()), *value] if key == "allOf" else value


# --- for editors


def _published(node: Node) -> Node:
    """Given a tree, return it as an editor gets it: our words in the description, where an editor shows them."""
    form = FORMS.get(node.get(FORM, ""))
    found: Node = {"description": description(node)} if node["description"] else {}
    found |= {key: value for key, value in node.items() if key not in (*_INTERNAL, "description")}
    if not found["examples"] or (form and form.octal):
        del found["examples"]
    if form and form.octal:
        found.pop("default", None)  # an editor would write it in decimal
    if not found.get("required", True):
        del found["required"]
    if "properties" in found:
        found["properties"] = {key: _published(child) for key, child in found["properties"].items()}
    for key in _ENTRIES:
        if is_part(found.get(key)):
            found[key] = _published(found[key])
    if "anyOf" in found:
        found["anyOf"] = [_published(part) if is_part(part) else part for part in found["anyOf"]]
    return found


def description(node: Node) -> str:
    """Given a part of a tree, return its description with unit and default, which JSON Schema shows nobody."""
    lines = [node["description"]]
    if node.get(UNIT):
        lines.append(f"Unit: {node[UNIT]}.")
    if default(node):
        lines.append(f"Default: {default(node)}.")
    form = FORMS.get(node.get(FORM, ""))
    if form and form.octal:
        lines.append(f"Example: {written(form.example, octal=True)}.")
    return "\n\n".join(lines)


def default(node: Node) -> str:
    """Given a part of a tree, return its default in words: as a file has it, or what its docstring says."""
    value, words = node.get("default", ...), node[WORDS]
    if words is None:
        return ""
    if not words and "properties" in node:
        return "what its keys have"
    if words or value is ...:
        return str(words)
    return "none" if value in ([], {}) else written(value, octal=is_octal(node))


def is_octal(node: Node) -> bool:
    """Given a part of a tree, tell whether it is a number that files write in octal."""
    form = FORMS.get(node.get(FORM, ""))
    return bool(form and form.octal)


_PLAIN_TEXT = re.compile(r"(?=.*[A-Za-z])[\w/][\w./:=@+-]*(?<!:)(?: [\w./=@+-]+)*|\d+(?:\.\d+){3}(?:/\d+)?", re.ASCII)
_NO_TEXT = re.compile(r"true|false|null|Null|NULL|0x[0-9a-fA-F]+|0o[0-7]+|\d[\d.]*[eE][+-]?\d+")


def written(value: Any, octal: bool = False) -> str:
    """Given a value, return it as a person would write it into a file, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(key)}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if octal:
        return f"0{value:o}"
    if isinstance(value, str) and _PLAIN_TEXT.fullmatch(value) and not _NO_TEXT.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)
