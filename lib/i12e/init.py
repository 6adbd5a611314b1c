"""./doit init: a cluster of the user's own, from a key to the hosts' files.

What is there stays, and it is said so; what is missing is made, in an order in which each step needs
only those before it. cluster.yaml is the last: while it is missing, the environment does not exist, and
a run that was killed is completed by the next one.

    keys  ->  rule in .sops.yaml  ->  tokens, sealed and opened again  ->  hosts' files  ->  cluster.yaml
"""

from __future__ import annotations

import json
import os
import secrets as random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from i12e import answers as replies
from i12e import backup_keys, files, keys, newkey, questions, screen, sealed, templates, workbench, yamlfile
from i12e import paths as places
from i12e.answers import Answers
from i12e.build import Build
from i12e.errors import Problem, UsageError, UserError
from i12e.fields import Wrong
from i12e.model import load_fleet
from i12e.paths import CLUSTER_FILE, DEFAULT, EXAMPLE, Paths, host_names
from i12e.questions import Question
from i12e.screen import Terminal
from i12e.secrets import demo_recipients
from i12e.workbench import RULES

_PATTERN = r"secrets/([^/]+/)?[^/]+\.yaml$"
_COMMENT = "Yours: whoever holds one of these keys opens your secrets. ./doit secrets_rekey changes them."
_TOKENS = ("server_token", "agent_token")
_SECOND = (
    "\nA second key that opens your secrets, for the day on which the first one is lost:\n"
    "  paper    a new one, for you to write down\n"
    "  age1...  the public half of one that you or somebody else has\n"
    "  none"
)


@dataclass
class _Site:
    """What is there of an environment, and what is to be made of it."""

    paths: Paths
    environ: Mapping[str, str]
    own: str = ""
    """The recipient of the user's own key, where one was found."""
    pair: keys.Pair | None = None
    """The user's own key, where it is to be made."""
    others: list[str] = field(default_factory=list)
    """Further recipients for a new rule."""
    for_backups: keys.Pair = field(default_factory=keys.make)
    """The key that opens a new cluster's backups, where it is to be made."""
    backup_file: Path | None = None
    """Where that key is, or is to be; None where cluster.yaml is there."""
    planned: dict[str, str] = field(default_factory=dict)
    """The texts of the files below hosts/ that are to be made."""

    @property
    def secret(self) -> str:
        """The file of the tokens."""
        return f"{self.paths.secrets}/cluster.yaml"

    @property
    def key_file(self) -> Path:
        """Where sops looks for keys."""
        return keys.key_file(self.environ)

    def rule(self) -> sealed.Rule | None:
        """Return the rule by which the tokens are sealed, if there is one."""
        return sealed.load_rules(self.paths.root).of(self.secret)

    def has(self, path: str) -> bool:
        """Given a path, tell whether something is there."""
        return os.path.lexists(self.paths.root / path)


def make(build: Build, yes: bool, paper: bool, recipient: str, **given: str) -> None:
    """Given what the options say, make what is missing of the environment; ask for the rest on the terminal.

    Raise UsageError with everything that is wrong with the options, or missing where nobody can be asked.
    """
    site = _Site(build.paths, os.environ)
    with build.request.pause(), screen.terminal() as terminal:
        wanted = _wanted(site)
        answers, problems = replies.from_options(wanted, given)
        problems += _read_recipients(site, recipient) + _no_terminal(site, wanted, terminal, yes, paper)
        _complete(site, wanted, answers, problems, None if yes else terminal)
        _find_key(site)
        if site.rule() is None and terminal and not (yes and not paper):
            _offer_second(site, terminal, paper)
    _write(build, site)
    _close(
        build, site, [question for question in questions.CLUSTER if given.get(question.key) and question not in wanted]
    )


def _wanted(site: _Site) -> list[Question]:
    """Return the questions whose answers are needed for what is missing."""
    if not site.has(site.paths.cluster_file):
        return list(questions.CLUSTER)
    no_hosts = not host_names(site.paths)
    return [question for question in questions.CLUSTER if no_hosts and question.key in ("servers", "agents")]


def _read_recipients(site: _Site, recipient: str) -> list[Problem]:
    """Take over the public keys of --recipient; return what is wrong with them."""
    problems: list[Problem] = []
    for text in filter(None, (part.strip() for part in recipient.split(","))):
        try:
            site.others.append(_public(site, text))
        except Wrong as wrong:
            shown = f'"{text}" ' if wrong.show else ""
            problems.append(replies.of_option("recipient", f"{shown}{wrong.rule}", wrong.remedy))
    return problems


def _public(site: _Site, text: str) -> str:
    found = keys.recipient(text)
    if found in demo_recipients(site.paths.root):
        raise Wrong("is the demo key, which everybody has")
    return found


def _no_terminal(
    site: _Site, wanted: Sequence[Question], terminal: Terminal | None, yes: bool, paper: bool
) -> list[Problem]:
    if terminal:
        return []
    problems: list[Problem] = []
    if paper:
        rule = "a new key is shown on a terminal only, and here is none"
        problems.append(replies.of_option("paper", rule, "--recipient takes the public half of one"))
    if not yes and (wanted or site.rule() is None):
        rule = "there is no terminal to ask on"
        problems.append(Problem("", None, None, rule, "--yes takes the default of what no option says"))
    return problems


def _complete(
    site: _Site, wanted: Sequence[Question], given: Answers, problems: list[Problem], terminal: Terminal | None
) -> None:
    """Plan the hosts' files by the options and, for what they leave open, the person's answers or the defaults."""
    pins = _pins(site.paths.root)
    defaults = replies.Defaults("home" if site.paths.env == DEFAULT else site.paths.env, pins["k3s"], site.environ)
    if terminal is None:
        wrong = {problem.message.partition(":")[0] for problem in problems}
        left = [question for question in wanted if f"--{question.option}" not in wrong]
        problems += replies.fill(left, given, defaults)
    if problems:
        raise UsageError(problems)
    open_ = [question for question in wanted if question.key not in given]
    answers = given
    if terminal and open_:
        terminal.say(_opening(site))
        answers = replies.ask_all(terminal, wanted, given, {}, defaults)
    while found := _plan(site, answers, pins):
        if not (terminal and open_):
            raise UsageError(found)
        terminal.say("\n" + "\n".join(map(str, found)) + "\n\nOnce more: Enter takes what you said before.\n")
        answers = replies.ask_all(terminal, wanted, given, answers, defaults)


def _opening(site: _Site) -> str:
    where = f"{site.paths.hosts}/ and {site.paths.secrets}/"
    return f"A cluster of your own, in {where}. Enter takes what is in [ ], Ctrl-C leaves everything as it is.\n"


def _pins(root: Path) -> dict[str, str]:
    """Return the releases that the example has: those that the templates are tested with."""
    file = f"hosts/{EXAMPLE}/{CLUSTER_FILE}"
    try:
        data = yamlfile.load((root / file).read_bytes(), file).data
    except FileNotFoundError:
        rule = "is missing: its releases are the ones to begin with"
        raise UserError(Problem(file, None, None, rule, f"git checkout hosts/{EXAMPLE}")) from None
    return {"k3s": str(data["k3s"]["version"]), "kube_vip": str(data["api"]["vip"]["version"])}


# --- the hosts' files


def _plan(site: _Site, answers: Answers, pins: dict[str, str]) -> list[Problem]:
    """Write the hosts' files in memory; return what the model says of them, together with those that are there."""
    site.planned = {}
    if "servers" in answers:
        for role, key in (("server", "servers"), ("agent", "agents")):
            for number, address in enumerate(filter(None, answers[key].split(",")), start=1):
                values = {"address": _flow(address)}
                site.planned[site.paths.host_file(f"{role}-{number}")] = _text(site, role, values)
    if "name" in answers:
        values = {key: _scalar(value) for key, value in {**pins, **answers}.items()}
        values |= {"vip": answers["vip"] and _scalar(answers["vip"]), "network": _flow(answers["network"])}
        site.backup_file = backup_keys.key_file(site.paths, answers["name"], site.environ)
        newkey.refuse_inside(site.paths, site.backup_file)
        there = backup_keys.recipients_of(site.backup_file)
        values |= {"backup": ", ".join(there or [site.for_backups.recipient])}
        if not there and os.path.lexists(site.backup_file):
            rule = "holds no private key of age's: one for the backups would have to be there"
            return [Problem(places.shown(site.backup_file), None, None, rule, "put it elsewhere")]
        site.planned[site.paths.cluster_file] = _text(site, "cluster", values)
    return _problems(site) if site.planned else []


def _text(site: _Site, name: str, values: Mapping[str, str]) -> str:
    text = templates.fill((site.paths.root / f"templates/init/{name}.yaml.j2").read_text(), values)
    return f"{site.paths.modeline('cluster' if name == 'cluster' else 'host')}\n{text}"


def _scalar(text: str) -> str:
    """Return a text as YAML: plain where that means the same, else in quotes."""
    plain = bool(text) and yamlfile.examine(f"x: {text}\n".encode(), "").data == {"x": text}
    return text if plain else json.dumps(text, ensure_ascii=False)


def _flow(text: str) -> str:
    """Return an address or network as an entry of a YAML list in brackets."""
    return json.dumps(text) if ":" in text else text


def _problems(site: _Site) -> list[Problem]:
    paths = site.paths

    def read(path: str) -> bytes:
        place = paths.root / path
        return place.read_bytes() if os.path.lexists(place) else _planned(site, path)

    new = [Path(path).stem for path in site.planned if path != paths.cluster_file]
    fleet = load_fleet(paths.hosts, paths.env, sorted({*host_names(paths), *new}), read)
    return [
        problem if site.has(problem.file) else Problem(problem.file, None, None, problem.message, problem.remedy)
        for problem in fleet.problems  # a line of a file that is not there yet says nothing
    ]


def _planned(site: _Site, path: str) -> bytes:
    if path not in site.planned:
        raise FileNotFoundError(path)
    return site.planned[path].encode()


# --- keys


def _find_key(site: _Site) -> None:
    """Find the user's own key, or make one in memory; raise UserError if there is one that cannot be used."""
    demo = demo_recipients(site.paths.root)
    found = [name for name in keys.found(site.environ) if name not in demo]
    rule = site.rule()
    named = [name for name in found if rule and name in rule.recipients]
    site.own = next(iter([*named, *found]), "")
    if site.own or (rule and site.has(site.secret) and site.key_file.exists()):
        return
    if not site.key_file.exists():
        site.pair = keys.make()
        site.own = site.pair.recipient
    elif not site.others and rule is None:
        rule_ = "holds no key whose public half i12e can tell (one of a plugin or with a passphrase?)"
        remedy = "--recipient age1... names it"
        raise UsageError(Problem(places.shown(site.key_file), None, None, rule_, remedy))


def _offer_second(site: _Site, terminal: Terminal, paper: bool) -> None:
    """Let the person have a second key: one on paper, or a public one of theirs."""
    if not paper and not site.others:
        terminal.say(_SECOND)
    while not paper and not site.others:
        answer = replies.reply(terminal, "Which one [paper]:") or "paper"
        if answer == "none":
            return
        paper = answer == "paper"
        if not paper:
            terminal.say(
                "".join(
                    f"  {str(problem).removeprefix('--recipient: ')}\n" for problem in _read_recipients(site, answer)
                ).rstrip()
            )
    if paper:
        site.others.append(newkey.on_paper(terminal, "type it into a file and point SOPS_AGE_KEY_FILE at that"))


# --- making it


def _write(build: Build, site: _Site) -> None:
    """Make what is missing, each file whole or not at all; tell what was made and what was there."""
    workbench.tidy(site.paths)
    files.sweep(site.key_file.parent, site.key_file.name)
    if site.backup_file:
        files.sweep(site.backup_file.parent, site.backup_file.name)
    _write_key(build, site)
    _write_backup_key(build, site)
    _write_rule(build, site)
    _write_tokens(build, site)
    for path, text in site.planned.items():  # cluster.yaml is the last
        _create(build, path, text.encode(), 0o666)
    if not site.planned:
        build.tell("KEEP", site.paths.cluster_file, "it was there", result="kept")


def _write_key(build: Build, site: _Site) -> None:
    shown = places.shown(site.key_file)
    if site.pair and keys.save(site.pair, site.key_file):
        build.tell("WRITE", shown, f"your key, its public half is {site.own}")
        build.note(f"keep a copy of {shown} in a safe place: without a key nobody opens your secrets")
        return
    if site.pair:  # another run was faster
        site.pair = None
        _find_key(site)
    build.tell("KEEP", shown if site.key_file.exists() else "your key", site.own or "it was there", result="kept")
    if site.key_file.exists() and site.key_file.stat().st_mode & 0o077:
        build.note(f"warning: others may read {shown} (chmod 600 {shown})")


def _write_backup_key(build: Build, site: _Site) -> None:
    """Save the key that opens the backups, before any file names it."""
    file = site.backup_file
    if file is None:
        return
    name = yamlfile.examine(site.planned[site.paths.cluster_file].encode(), "").data["name"]
    if not os.path.lexists(file) and backup_keys.save(site.for_backups, file, name):
        build.tell("WRITE", places.shown(file), f"the key that opens backups: {site.for_backups.recipient}")
        build.note(newkey.keep(file))
        return
    found = backup_keys.recipients_of(file)
    if not all(recipient in site.planned[site.paths.cluster_file] for recipient in found):
        rule = "another run has just made it"
        raise UserError(Problem(places.shown(file), None, None, rule, "run init again"))
    build.tell("KEEP", places.shown(file), ", ".join(found), result="kept")
    newkey.warn_of_readers(build, file)


def _write_rule(build: Build, site: _Site) -> None:
    root, rule = site.paths.root, site.rule()
    wanted = list(dict.fromkeys(filter(None, [site.own, *site.others])))
    if rule is None:
        text = sealed.load_rules(root).with_rule(_PATTERN, wanted, _COMMENT)
        workbench.put(root / RULES, text.encode(), 0o666)
        build.tell("WRITE", RULES, f"a rule for {screen.count(len(wanted), 'key')}")
        if len(wanted) == 1:
            build.note("only one key opens your secrets: ./doit secrets_rekey --add age1... gives them a second one")
        return
    build.tell("KEEP", RULES, f"{rule.place} is the rule for {site.secret}", result="kept")
    for name in [name for name in wanted if name not in rule.recipients and rule.loc]:
        build.note(f"{name} is not in {rule.place}: whoever has access says ./doit secrets_rekey --add {name}")


def _write_tokens(build: Build, site: _Site) -> None:
    """Make random tokens and seal them; open the sealed file before it gets its name: so the key works."""
    paths, path = site.paths, site.secret
    if site.has(path):
        build.tell("KEEP", path, "it was there", result="kept")
        return
    rules = sealed.load_rules(paths.root)
    rule = rules.of(path)
    if rule and demo_recipients(paths.root).intersection(rule.recipients):
        raise UserError(
            Problem(
                RULES,
                rule.line,
                None,
                "this rule names the demo key, which everybody has",
                "take it out, then run init again",
            )
        )
    text = "".join(f"{name}: {random.token_hex(32)}\n" for name in _TOKENS)
    with workbench.workbench(paths, rules.text) as folder:
        files.replace(folder / path, workbench.seal(folder, path, text))
        try:
            workbench.opened(paths, path, folder / path)
        except UserError as error:
            raise UserError([*error.problems, _not_yours(site)]) from None
        _create(build, path, (folder / path).read_bytes(), 0o600, "two random tokens")


def _not_yours(site: _Site) -> Problem:
    rule = site.rule()
    text = f"your key {site.own or '(none was found)'} has to be among the recipients of this rule"
    return Problem(RULES, rule.line if rule else None, None, text, "add it there, then run init again")


def _create(build: Build, path: str, content: bytes, mode: int, remark: str = "") -> None:
    place = build.paths.root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    if files.create(place, content, mode):
        build.tell("WRITE", path, remark)
    else:
        build.tell("KEEP", path, "it was there", result="kept")


def _close(build: Build, site: _Site, unused: Sequence[Question]) -> None:
    """Say what a person has to know now; `unused` are the questions that options answered and nobody asked."""
    if unused:
        options = ", ".join(f"--{question.option}" for question in unused)
        there = site.paths.cluster_file
        build.note(f"not used: {options}, since {there} is there: edit that; a further host is a file beside it")
    keys_ = [places.shown(file) for file in (site.key_file, site.backup_file) if file]
    if any(step.result == "done" and step.what not in keys_ for step in build.told):
        env = "" if site.paths.env == DEFAULT else f"I12E_ENV={site.paths.env} "
        folders = " ".join(sorted({site.paths.hosts, site.paths.secrets}))
        build.note(f"now {env}./doit renders it; then git add {RULES} {folders}, and commit")
