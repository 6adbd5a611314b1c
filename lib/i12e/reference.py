"""What is made of the model for readers: the JSON Schemas in docs/schema, for editors, and docs/reference.md.

They are committed, so that an editor finds them in a fresh clone; a test says that they are current.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from i12e import schema
from i12e.paths import SCHEMAS
from i12e.patterns import FORMS
from i12e.schema import ITEM, VALUE, Node, default, is_octal, is_part, written
from i12e.settings import FORM, SHARED, SINGLE, UNIT

PAGE = "docs/reference.md"
_HEAD = """\
# The keys of cluster and host files

Made by `./doit schema` from what `./doit` itself checks by (`lib/i12e/settings.py`): edit that, not this.
`hosts/example` has most keys in use; [editor.md](editor.md) tells how an editor completes and checks them.

`cluster.yaml` says what all hosts have in common. A host's file, `NAME.yaml`, says what is its own, and may say again,
for that host alone, whatever is marked "both files": mappings are merged key by key, lists and single values are
replaced.
"""
_BOTH = "both files"
_ONE = {"cluster": "`cluster.yaml`", "host": "a host's file"}
_STEPS = {ITEM: "[]", VALUE: ".NAME"}


def write(root: Path) -> None:
    """Given the checkout, write the schemas and the page; a file that is current is left alone."""
    for name, text in texts().items():
        path = root / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f"{path.name}.new")
            new.write_text(text)
            os.replace(new, path)


def texts() -> dict[str, str]:
    """Return what each file is to hold, by its path."""
    schemas = {f"{SCHEMAS}/{kind}.json": schema.schema(kind) for kind in schema.MODELS}
    found = {name: json.dumps(made, indent=2, ensure_ascii=False) + "\n" for name, made in schemas.items()}
    return {**found, PAGE: page({kind: schema.tree(kind) for kind in schema.MODELS})}


def page(trees: Mapping[str, Node]) -> str:
    """Given the trees of all kinds of file, return the page: each key once, with all that is known of it."""
    parts = [_HEAD, *_contents(trees), ""]
    told: set[schema.Path] = set()
    for root in trees.values():
        for path, node, required in schema.keys(root):
            if path not in told:
                told.add(path)
                needed = _needed(root, path) if required else ""
                parts.append("\n".join(_key(path, node, needed, _place(trees, path[0]))))
    return "\n".join(parts)


def _needed(root: Node, path: schema.Path) -> str:
    """Given a key that must be there, return when."""
    above = [(name, required) for name, _, required in schema.keys(root) if name == path[: len(name)] != path]
    free = [name for name, required in above if not required]
    if free:
        return f"it must be there where `{_dotted(free[-1])}` is"
    return "`cluster.yaml` must have it" if path[0] in SHARED else "it must be there"


def _place(trees: Mapping[str, Node], key: str) -> str:
    kinds = [kind for kind, root in trees.items() if key in root["properties"]]
    return _BOTH if len(kinds) > 1 else _ONE[kinds[0]]


def _contents(trees: Mapping[str, Node]) -> Iterator[str]:
    names = {key: _place(trees, key) for root in trees.values() for key in root["properties"]}
    for place in (_BOTH, *_ONE.values()):
        links = (f"[`{name}`](#{name})" for name, found in names.items() if found == place)
        yield f"- {place}: {' · '.join(links)}"


def _key(path: schema.Path, node: Node, needed: str, place: str) -> Iterator[str]:
    yield f"{'##' if len(path) == 1 else '###'} `{_dotted(path)}`\n"
    yield f"{node['description']}\n"
    yield f"- **type**: {kind(node)}"
    if UNIT in node:
        yield f"- **unit**: {node[UNIT]}"
    if needed:
        yield f"- **default**: none, {needed}"
    elif default(node):
        yield f"- **default**: {_default(node)}"
    for example in node["examples"]:
        yield f"- **example**: `{path[-1]}: {written(example, octal=is_octal(node))}`"
    yield f"- **in**: {place}\n"


def _dotted(path: schema.Path) -> str:
    return "".join(_STEPS.get(step, f".{step}") for step in path).removeprefix(".")


def _default(node: Node) -> str:
    """Return a default, with what a file would hold marked as such."""
    told, value = default(node), node.get("default")
    text = "" if value in (None, [], {}) else written(value, octal=is_octal(node))
    shown = next((form for form in (text, text.strip("[]"), str(value)) if form and told.startswith(form)), "")
    return f"`{shown}`{told.removeprefix(shown)}" if shown else told


def kind(node: Node) -> str:
    """Given a part of a tree, return its type in words."""
    if "enum" in node:
        return "one of " + ", ".join(f"`{choice}`" for choice in node["enum"] if choice is not None)
    if node.get(FORM) in FORMS:
        return FORMS[node[FORM]].what
    if any(map(is_part, node.get("anyOf", ()))):
        return " or ".join(map(kind, node["anyOf"]))
    types = node.get("type", [])
    if "array" in types:
        return _list(node)
    if "properties" in node:
        return "a mapping"
    if "object" in types:
        parts = (node.get("propertyNames"), node.get("additionalProperties"))
        names = [kind(part) for part in parts if is_part(part)]
        return " of ".join(["a mapping", " to ".join(names)]) if names else "a mapping"
    if "boolean" in types:
        return "`true` or `false`"
    if "integer" in types:
        limits = [str(node[limit]) for limit in ("minimum", "maximum") if limit in node]
        return ", ".join(["a whole number", " to ".join(limits)]) if limits else "a whole number"
    return "text"


def _list(node: Node) -> str:
    least, most = node.get("minItems", 0), node.get("maxItems")
    count = f" ({least} to {most})" if most else " (one at least)" if least else ""
    alone = ", or one alone without brackets" if node.get(SINGLE) else ""
    return f"a list{count} of: {kind(node['items'])}{alone}"
