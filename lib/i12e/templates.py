"""Jinja, as the templates of hosts use it: every look recorded, every fault told with template and line.

A template that has a fault is rendered on with a stand-in for what is missing, so that one report has
all faults of all templates; what was rendered then is thrown away.
"""

from __future__ import annotations

import functools
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from i12e import origins, yamlfile
from i12e.errors import Problem, UserError, did_you_mean
from i12e.files import ABSENT, Files
from i12e.secrets import Group, MaskedError, NoSuchFile, Secret, Vault, no_masks

LOCAL = "templates/local"
OURS = "templates"
GLOBALS = (
    *("host", "servers", "join_urls", "position", "reboot_window", "secrets", "embed", "local_file", "names"),
    *("butane_version", "artifacts", "releases", "cluster", "name", "release"),
)


_Value = TypeVar("_Value")


class Fault(Exception):
    """What is wrong with an expression of a template, and what to write instead."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class Templates:
    """The templates of a checkout, ours and the user's, which win; each is compiled once a run."""

    def __init__(self, files: Files, vault: Vault) -> None:
        self._files = files
        self._vault = vault
        self._jinja = _Environment(files, self._report)
        self._met: list[Problem] = []
        self._missing: set[str] = set()
        self._chain: list[str] = []

    def expand(self, name: str, context: Mapping[str, Any]) -> str:
        """Given a template's name and its variables, return its text; raise UserError with all its faults."""
        return self._expand(self._jinja, name, self._known(context))

    def trace(self, name: str, context: Mapping[str, Any], text: str) -> origins.Trace | None:
        """Given what expand() was given and what it returned, return where each piece of that came from.

        It is rendered once more for that; None if it does not come out the same.
        """
        known = self._known(context)
        embed = known["embed"]
        known["embed"] = lambda other, **more: origins.Embedded(embed(other, **more), self.locate(other))
        try:
            traced = self._expand(self._tracing, name, known)
        except UserError:
            return None
        if not isinstance(traced, origins.Traced) or traced != text:
            return None
        return origins.Trace(origins.piece(traced, self.locate(name), 1), self._tracing.sources)

    def embed_text(self, read: Callable[[], str]) -> str:
        """Given how a text is read, return it as one quoted YAML scalar; a problem is kept for the report."""
        return quote(self.attempt(read, ""))

    def attempt(self, read: Callable[[], _Value], stand_in: _Value) -> _Value:
        """Given how a value is had and what stands in for it, return it; a problem is kept for the report."""
        try:
            return read()
        except UserError as error:
            self._met.extend(error.problems)
            return stand_in

    def locate(self, name: str) -> str:
        """Given a template's name, return its path: the user's, or else ours."""
        return self._jinja.locate(name)

    def names(self, folder: str) -> list[str]:
        """Given a folder, return the names of the templates below it, ours and the user's; the listing is an input."""
        found = {name for place in (LOCAL, OURS) for name in self._files.tree(f"{place}/{folder}")}
        return sorted(f"{folder}/{name}" for name in found if not name.endswith(".md"))

    def syntax_problems(self) -> list[Problem]:
        """Compile every template, ours and the user's; return what cannot be read."""
        self._met = []
        for name in all_names(self._files.root):
            try:
                self._jinja.get_template(name)
            except jinja2.TemplateSyntaxError as error:
                self._met.append(self._syntax_problem(error))
            except UserError as error:
                self._met.extend(error.problems)
        return self._met

    def group(self, name: str) -> Any:
        """Given a secret file's name, return its secrets, or a stand-in that keeps the fault for the report."""
        try:
            return self._vault.group(name)
        except NoSuchFile as error:
            problem = error.problems[0]
            fault = Fault(f"{problem.file}: {problem.message}", problem.remedy)
            return _NoFile(name, functools.partial(self._absent, name, fault))
        except UserError as error:
            self._met.extend(error.problems)
        return _NoSecret("")

    def _absent(self, name: str, fault: Fault) -> None:
        """Keep it for the report that a secret file is missing, at the line that asks first: it may be misspelt."""
        if name not in self._missing:
            self._missing.add(name)
            self._report(fault)

    @functools.cached_property
    def _tracing(self) -> _Tracing:
        return _Tracing(self._files, self._report)

    def _known(self, context: Mapping[str, Any]) -> dict[str, Any]:
        known = {**context, "secrets": _Secrets(self), "names": self.names}
        known["embed"] = lambda other, **more: quote(self._try(self._jinja, other, {**known, **more}))
        return known

    def _expand(self, jinja: _Environment, name: str, known: Mapping[str, Any]) -> str:
        self._met, self._missing, self._chain = [], set(), []
        text = self._try(jinja, name, known)
        if self._met:
            raise UserError(self._met)
        return text

    def _try(self, jinja: _Environment, name: str, context: Mapping[str, Any]) -> str:
        if name in self._chain:
            self._report(Fault(f"{name} embeds itself: {' -> '.join([*self._chain, name])}"))
            return ""
        self._chain.append(name)
        try:
            with no_masks():
                return jinja.get_template(name).render(context)
        except UserError as error:
            self._met.extend(error.problems)
        except jinja2.TemplateSyntaxError as error:
            self._met.append(self._syntax_problem(error))
        except Exception as error:  # noqa: BLE001  # whatever an expression of a template raises is the template's fault
            self._met.append(self._problem(error, _place(error.__traceback__) or _here() or (self.locate(name), None)))
        finally:
            self._chain.pop()
        return ""

    def _report(self, fault: Fault) -> None:
        self._met.append(self._problem(fault, _here() or ("", None)))

    def _problem(self, error: Exception, place: tuple[str, int | None]) -> Problem:
        message, remedy = f"{type(error).__name__}: {error}", ""
        if isinstance(error, jinja2.TemplateNotFound):
            message = f"there is no template {error.name}"
            remedy = did_you_mean(str(error.name), all_names(self._files.root))
        elif isinstance(error, RecursionError):
            message, remedy = "includes itself, directly or by others", "break the circle"
        elif isinstance(error, (Fault, MaskedError)):
            message, remedy = str(error), getattr(error, "remedy", "")
        return Problem(*place, None, self._vault.redact(message), self._vault.redact(remedy))

    def _syntax_problem(self, error: jinja2.TemplateSyntaxError) -> Problem:
        message = str(error.message).rstrip(".")
        unknown = re.fullmatch(r"No (filter|test) named '(.*)'", message)
        known = self._jinja.filters if unknown and unknown[1] == "filter" else self._jinja.tests
        guess = did_you_mean(unknown[2], known) if unknown else ""
        return Problem(error.filename or str(error.name), error.lineno, None, message, guess)


class _Environment(jinja2.Environment):
    """Jinja whose every look for a template is recorded, found or not, from the cache or not."""

    def __init__(self, files: Files, report: Callable[[Fault], None]) -> None:
        self._files = files
        self._report = report
        super().__init__(
            loader=jinja2.FunctionLoader(self._source),
            undefined=type("Missing", (_Missing,), {"report": staticmethod(report)}),
            finalize=self._output,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            cache_size=-1,
            auto_reload=False,
        )
        self.filters.update({"quote": quote, "shell": shell_quote, "yaml": to_yaml})

    def locate(self, name: str) -> str:
        """Given a template's name, return its path: the user's, or else ours."""
        local = f"{LOCAL}/{name}"
        self._files.note(local)
        return f"{OURS}/{name}" if self._files.state(local) == ABSENT else local

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Given an object and a name after a dot, return what it is: a secret before a method of that name."""
        if type(obj) is Group and attribute in obj:  # isinstance() is slow for a Mapping, and this is every dot
            return obj[attribute]
        return super().getattr(obj, attribute)

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """Return the globals as one mapping: Jinja copies them for every text, and its chain is slow to copy."""
        return {**self.globals, **(d or {})}

    def _load_template(
        self,
        name: str,
        globals: MutableMapping[str, Any] | None,  # noqa: A002  # Jinja's name
    ) -> jinja2.Template:
        self._files.note(self.locate(name))
        return super()._load_template(name, globals)

    def _source(self, name: str) -> tuple[str, str, Callable[[], bool]] | None:
        path = self.locate(name)
        if ".." in name.split("/") or self._files.state(path) == ABSENT:
            return None
        try:
            return self._files.read(path).decode(), path, lambda: True
        except UnicodeDecodeError:
            raise UserError(Problem(path, None, None, "is not UTF-8 text")) from None
        except OSError as error:
            raise UserError(Problem(path, None, None, f"cannot be read: {error.strerror}")) from None

    def _output(self, value: Any) -> Any:
        try:
            return _plain(value)
        except Fault as fault:
            if _here() is None:  # a constant, while the template is compiled: Jinja asks again when it is rendered
                raise
            self._report(fault)
            return ""


class _Tracing(_Environment):
    """Jinja whose texts know where each of their pieces came from."""

    concat = staticmethod(origins.join)
    literal = staticmethod(origins.literal)

    def __init__(self, files: Files, report: Callable[[Fault], None]) -> None:
        super().__init__(files, report)
        self.sources: dict[str, str] = {}
        self.filters["indent"] = origins.by_line(self.filters["indent"])

    def piece(self, value: Any, file: str, line: int) -> origins.Traced:
        """Given what an expression gave, and where it stands, return its text with its origins."""
        plain = self._output(value)
        return origins.piece(plain if isinstance(plain, str) else str(plain), file, line)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        file = str(filename)
        self.sources[file] = source
        tree = super()._parse(source, name, filename)
        _Marks(file).visit(tree)
        return tree


class _Marks(NodeTransformer):
    """Changes a template's tree: what is output goes through the environment, which is told where it stands."""

    def __init__(self, file: str) -> None:
        self._file = file

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802  # Jinja's name
        """Given what is output, let each part of it be traced."""
        node.nodes = [self._marked(part) for part in node.nodes]
        return node

    def visit_FilterBlock(self, node: nodes.FilterBlock) -> list[nodes.Node]:  # noqa: N802  # Jinja's name
        """Given a block whose text goes through a filter, put an empty output before it that has its place."""
        empty = nodes.TemplateData("", lineno=node.lineno)
        return [nodes.Output([self._marked(empty)], lineno=node.lineno), self.generic_visit(node)]

    def _marked(self, part: nodes.Expr) -> nodes.Expr:
        line = min(node.lineno for node in (part, *part.find_all(nodes.Expr)) if node.lineno)  # some have none
        kind, value = "piece", part
        if isinstance(part, nodes.TemplateData):
            kind, value = "literal", nodes.Const(part.data)
        arguments = [value, nodes.Const(self._file), nodes.Const(line)]
        return nodes.Call(nodes.EnvironmentAttribute(kind), arguments, [], None, None, lineno=line)


class _Missing(jinja2.Undefined):
    """A name that is not there: every use is a fault that says what would have been, and goes on with nothing."""

    report: Callable[[Fault], None]

    def _fail_with_undefined_error(self, *args: Any, **kwargs: Any) -> Any:
        raise self._fault()

    def _fault(self) -> Fault:
        name, owner = str(self._undefined_name), self._undefined_obj
        if self._undefined_hint:
            return Fault(str(self._undefined_hint))
        if owner is jinja2.utils.missing:
            return Fault(f"{name} is not known in templates", did_you_mean(name, GLOBALS) or "see docs/templates.md")
        if owner is None:
            return Fault(f"{name} is asked of a value that is not set (null)", "test it with {% if %}")
        there = _keys(owner)
        listed = f"it has {', '.join(there)}" if there else ""
        return Fault(f"{_title(owner)} has no {name}", did_you_mean(name, there) or listed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._go_on(self)

    def __getitem__(self, key: Any) -> Any:
        return self._go_on(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._go_on(self)

    def __str__(self) -> str:
        return str(self._go_on(""))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._go_on(()))

    def __bool__(self) -> bool:
        return bool(self._go_on(False))

    def __len__(self) -> int:
        return int(self._go_on(0))

    def __eq__(self, other: object) -> bool:
        return bool(self._go_on(False))

    def __ne__(self, other: object) -> bool:
        return bool(self._go_on(True))

    def __hash__(self) -> int:
        return id(type(self))

    def _go_on(self, value: Any) -> Any:
        type(self).report(self._fault())
        return value


class _NoFile(_Missing):
    """Stands in for a secret file that is not there: it is not `defined`, and every other use is a fault."""

    def __init__(self, name: str, tell: Callable[[], None]) -> None:
        super().__init__(name=f"secrets.{name}")
        self._tell = tell

    def _go_on(self, value: Any) -> Any:
        self._tell()
        return value


class _Secrets:
    """`secrets.FILE.KEY` in a template."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._templates.group(name)

    def __getitem__(self, name: str) -> Any:
        return self._templates.group(name)

    def __str__(self) -> str:
        raise Fault("secrets is not a value", "write secrets.FILE.KEY")


class _NoSecret(Secret):
    """Stands in for what a file would have held that cannot be opened."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __getitem__(self, key: Any) -> Any:
        return self


def _here() -> tuple[str, int | None] | None:
    """Return file and line of the innermost template that is being rendered now."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001  # Jinja itself asks so; there is no other way
    while frame is not None:
        template = frame.f_globals.get("__jinja_template__")
        if template is not None:
            return str(template.filename), int(template.get_corresponding_lineno(frame.f_lineno))
        frame = frame.f_back
    return None


def _place(trace: TracebackType | None) -> tuple[str, int | None] | None:
    """Given a traceback that Jinja has rewritten, return file and line of the innermost template in it."""
    found: tuple[str, int | None] | None = None
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.startswith(f"{OURS}/"):
            found = (name, trace.tb_lineno)
        trace = trace.tb_next
    return found


def fill(text: str, values: Mapping[str, str]) -> str:
    """Given a template's text and its variables, return what it makes; for files that are written once, by init."""
    jinja = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701  # YAML
    return jinja.from_string(text).render(values)


def all_names(root: Path) -> list[str]:
    """Given the checkout, return the names of all templates, ours and the user's."""
    found: set[str] = set()
    for place in (root / LOCAL, root / OURS):
        files = (path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
        found.update(path.relative_to(place).as_posix() for path in files if path.suffix != ".md")
    return sorted(name for name in found if not name.startswith("local/"))


def _keys(owner: Any) -> list[str]:
    fields = getattr(type(owner), "model_fields", None)
    keys: Iterable[Any] = fields if fields is not None else owner if isinstance(owner, Mapping) else ()
    return sorted(str(key) for key in keys)


def _title(owner: Any) -> str:
    if isinstance(owner, Group):
        return f"secrets.{owner.place}"
    return type(owner).__name__.lower() if hasattr(type(owner), "model_fields") else f"a {type(owner).__name__}"


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if value is None:
        raise Fault("the value is not set (null), and would be written as None", "test it with {% if %}")
    if callable(value) and not isinstance(value, jinja2.Undefined):
        name = getattr(value, "__name__", "the value").strip("_<>")
        raise Fault(f"{name} is a function, not its result", "call it with ()")
    return value


def quote(value: Any) -> str:
    """Given a value, return its text as one quoted YAML scalar (JSON's form, which YAML reads alike)."""
    return _quoted(str(_plain(value)))


@functools.lru_cache(maxsize=256)  # most of what is embedded is the same for all hosts
def _quoted(text: str) -> str:
    return flow(text)


def shell_quote(value: Any) -> str:
    """Given a value, return its text as one word for a POSIX shell."""
    return shlex.quote(str(_plain(value)))


def to_yaml(value: Any) -> str:
    """Given a value of scalars, lists and mappings, return it as YAML in flow style."""
    return flow(value)


def flow(value: Any) -> str:
    """Given a value, return it as JSON that is YAML too; a secret comes out as itself."""
    return yamlfile.flow(value, _jsonable)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, jinja2.Undefined):
        return str(value)  # which reports the fault that names it
    raise TypeError(f"yaml cannot write a {type(value).__name__}")
