"""doit, as i12e uses it: states of files as dependencies, a database that keeps each finished task, one lock,
our exit statuses and our lines.

Exit statuses: 0 done; 1 failed, and every other error; 2 only from `plan` and `drift`: there are changes;
3 usage: an unknown task or option, or a dodo.py that cannot be read. A signal ends with 128 and its number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import importlib
import io
import json
import os
import signal
import sqlite3
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, ClassVar, NoReturn

from doit.cmd_base import Command, DoitCmdBase, check_tasks_exist
from doit.cmd_clean import Clean as DoitClean
from doit.cmd_forget import Forget as DoitForget
from doit.cmd_info import Info as DoitInfo
from doit.cmd_list import List as DoitList
from doit.cmd_run import Run as DoitRun
from doit.cmdparse import CmdParseError
from doit.dependency import FileChangedChecker
from doit.doit_cmd import DoitMain
from doit.exceptions import BaseFail, InvalidCommand, InvalidDodoFile, TaskFailed, UnmetDependency
from doit.task import Task

from i12e import lock, paths, screen
from i12e.build import HOST, RELEASE, TASKS, Build, Product
from i12e.errors import CHANGES, FAILED, USAGE, Changes, Problem, UsageError, UserError, did_you_mean
from i12e.files import Files, private_folder

TaskDict = dict[str, Any]
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

NEW = "init"  # the task that makes an environment: for it alone, the environment need not be there
_builds: dict[str, Build] = {}  # by database: doit makes backend and checker itself, from names and classes


PLUGINS = {
    "BACKEND": {"i12e": "i12e.engine:backend"},
    "COMMAND": {
        "run": "i12e.engine:Run",
        "list": "i12e.engine:List",
        "info": "i12e.engine:Info",
        "forget": "i12e.engine:Forget",
        "clean": "i12e.engine:Clean",
        "ignore": "i12e.engine:NotOffered",
        "strace": "i12e.engine:NotOffered",
        "tabcompletion": "i12e.engine:NotOffered",
        "dumpdb": "i12e.engine:NotOffered",
        "reset-dep": "i12e.engine:NotOffered",
    },
}


def main(args: list[str]) -> int:
    """Given the arguments of ./doit, run it; return the exit status.

    A bare `doit` in the activated environment does the same by what pyproject.toml says, which takes
    longer to read than all hosts take to be looked at.
    """
    DoitMain.BIN_NAME = "doit"
    if sys.stdout is None or sys.stderr is None:
        return FAILED  # closed before we were started: there is nobody to tell
    if "" in args:
        return _usage("an argument is empty: an unset variable?")
    args = _with_values(args)
    for word in args:
        if "=" in word and not word.startswith("-"):  # doit would take it for a variable, and say nothing
            return _usage(f"{word}: there is no such task (./doit list shows them; options begin with --)")
    return int(DoitMain(None, (), PLUGINS).run(args))


def _with_values(args: list[str]) -> list[str]:
    """Given arguments, return them with each option's value that has a `=` in its option's own word.

    doit would take it for a variable, and the next word for the value.
    """
    found: list[str] = []
    for word in args:
        before = found[-1] if found else ""
        if "=" in word and not word.startswith("-") and before.startswith("--") and "=" not in before:
            found[-1] = f"{before}={word}"
        else:
            found.append(word)
    return found


# --- for dodo.py


def configure(root: Path, default_tasks: Sequence[str]) -> TaskDict:
    """Given the checkout and the tasks that run when none is named, return DOIT_CONFIG.

    Raise UserError for an I12E_ENV that does not exist.
    """
    place = paths.find(root, os.environ, NEW in (Run.words or ()))
    build = Build(place)
    database = str(place.root / place.state)
    _builds[database] = build
    return {
        "backend": "i12e",
        "dep_file": database,
        "check_file_uptodate": functools.partial(Checker, build.files),
        "default_tasks": list(default_tasks),
        "par_type": "thread",
        "verbosity": 2,
        "minversion": "0.37.0",
        "action_string_formatting": "both",
        "build": build,
    }


_OF_THE_MACHINE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EEXIST, errno.EISDIR, errno.ENOTDIR),  # of build/: something else stands where a file or folder belongs
)


def step(action: Callable[..., Any]) -> Callable[..., Any]:
    """Given an action, return one whose UserError is a failed task with all its problems, without a traceback."""

    @functools.wraps(action)
    def run(*arguments: Any, **named: Any) -> Any:
        try:
            return action(*arguments, **named)
        except UserError as error:
            return Failed(error.problems, isinstance(error, UsageError))
        except OSError as error:
            if error.errno not in _OF_THE_MACHINE:
                raise
            return Failed(
                [Problem(str(error.filename or ""), None, None, str(error.strerror), "mend that, run it again")]
            )
        except Changes:
            return Changed("there are changes")

    return run


class Failed(TaskFailed):
    """A task that a user's mistake stopped; carries the problems. `usage`: they are of the command line."""

    def __init__(self, problems: Sequence[Problem], usage: bool = False) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = list(problems)
        self.usage = usage


class Changed(TaskFailed):
    """How doit is told of Changes."""


def each(
    verb: str,
    hosts: Iterable[str],
    action: Callable[..., Any],
    doc: str,
    params: Sequence[TaskDict] = (),
    reads: bool = False,
    **meta: Any,
) -> Iterator[TaskDict]:
    """Given a verb, hosts and an action of (host, or None for all, **params), yield the tasks VERB and VERB:HOST.

    Both are plain tasks with the same options: doit's groups would drop the options of their subtasks. A run that
    names none of VERB:HOST gets VERB alone: to make a task of each verb for each of a thousand hosts takes longer than
    to find that there is nothing to do.
    """
    for host in (None, *(hosts if _may_name_hosts(verb) else ())):
        yield {
            "basename": verb if host is None else f"{verb}:{host}",
            "doc": doc if host is None else f"{doc} ({host})",
            "actions": [(step(action), [host])],
            "params": list(params),
            "uptodate": [False],
            "meta": {"verb": verb.upper(), "what": host or "", "reads": reads, **meta},
            "io": {"capture": False},
        }


def _may_name_hosts(verb: str) -> bool:
    words = Run.words
    return words is None or any(word.startswith(f"{verb}:") or "*" in word for word in words)


def build_tasks(config: TaskDict) -> Iterator[TaskDict]:
    """Given DOIT_CONFIG, yield the tasks of the build (see i12e.build)."""
    build: Build = config["build"]
    yield task("_model", build.check_model, file_dep=build.model_inputs(), targets=build.model_outputs())
    sets = build.sets()
    for set_id in sets:
        inputs = build.recorded(f"_inputs:{set_id}") or []
        digest = functools.partial(build.digest_inputs, set_id, inputs)
        yield task(f"_inputs:{set_id}", digest, file_dep=inputs, targets=[build.paths.inputs(set_id)])
    yield task("_prepare", build.prepare, task_dep=["_model", *(f"_inputs:{set_id}" for set_id in sets)])
    for product in build.products:
        yield _product_task(build, product)
    for kind, (_, _, doc) in _KINDS.items():
        products = [product.task for product in build.products if product.kind == kind]
        remove = functools.partial(build.remove_orphans, kind)
        yield {**task(TASKS[kind], remove, task_dep=["_model", *products]), "doc": doc}


_KINDS = {
    HOST: ("RENDER", "render", "render the Ignition config of every host whose inputs changed"),
    RELEASE: ("VALUES", "make the Helm values of", "make the Helm values of every release whose inputs changed"),
}
"""By the kind of a product: the verb of its line, what its task does, what the task of all does."""


def task(name: str, action: Callable[..., Any], **more: Any) -> TaskDict:
    """Given a name, an action and further keys of doit's, return a task whose action's UserError is its failure."""
    return {"basename": name, "actions": [(step(action),)], "io": {"capture": False}, **more}


def aside(name: str, action: Callable[..., Any], doc: str, what: str, params: Sequence[TaskDict] = ()) -> TaskDict:
    """Given a name, an action that changes nothing of ours, its doc, what is told when it went well, return its task.

    `params` are the action's options.
    """
    meta = {"verb": name.upper(), "what": what, "reads": True}
    return task(name, action, doc=doc, params=list(params), meta=meta)


def silent(made: TaskDict) -> TaskDict:
    """Given a task, return it without a line of its own: its steps tell all there is."""
    return {**made, "meta": {**made["meta"], "silent": True}}


def asking(name: str, action: Callable[..., Any], doc: str, params: Sequence[TaskDict] = ()) -> TaskDict:
    """Given a name, an action that may wait for a person or an editor, its doc and options, return its task.

    The run holds the lock as always. Around every wait the action says `with build.request.pause():`; inside of it
    the lock is free for other runs, behind it the lock is held again. Others may have written meanwhile, so what
    the action decides from then on it reads anew. Such a run does one task after another, whatever -n says: the
    lock is not to be given back below another task's feet, and a person answers one question at a time.
    """
    return task(name, action, doc=doc, params=list(params), meta={"waits": True})


def option(name: str, help_: str, kind: type = str, default: Any = "") -> TaskDict:
    """Given an option's name (without the dashes), its help, type and default, return it as doit wants it."""
    return {"name": name.replace("-", "_"), "long": name, "type": kind, "default": default, "help": help_}


def later(name: str, *arguments: Any) -> Callable[..., Any]:
    """Given MODULE.FUNCTION of ours and arguments, return an action that imports it when it is run.

    What the action itself gets goes behind the arguments. So naming the tasks does not wait for what only one of
    them needs.
    """
    module, _, function = name.rpartition(".")

    def run(*more: Any, **named: Any) -> Any:
        return getattr(importlib.import_module(f"i12e.{module}"), function)(*arguments, *more, **named)

    return run


_SHOWN = 20  # hosts that a message names


def show_tasks(config: TaskDict) -> Iterator[TaskDict]:
    """Given DOIT_CONFIG, yield show:HOST for each host, and show, which only says how it is used."""
    build: Build = config["build"]
    options = (
        {
            "name": "ignition",
            "long": "ignition",
            "type": bool,
            "default": False,
            "help": "as Ignition, decoded",
        },
        {"name": "reveal", "long": "reveal", "type": bool, "default": False, "help": "with the values of secrets"},
    )
    doc = "print the Butane text that a host is rendered to"
    yield from _printing("show", build, functools.partial(_show, build), doc, options, reads=True)


_PLATFORMS = ("metal", "pxe", "qemu", "ec2", "hetzner", "openstack", "vmware", "virtualbox", "user-data")


def install_tasks(config: TaskDict) -> Iterator[TaskDict]:
    """Given DOIT_CONFIG, yield os_install:HOST for each host, and os_install, which only says how it is used."""
    build: Build = config["build"]
    options = (
        option("platform", f"where the machine is: {', '.join(_PLATFORMS)}", default="metal"),
        option("url", "where the config will be: the machine gets a small one that fetches exactly that"),
        option("reinstall", "over an old installation, keeping what can be kept (Fedora CoreOS)", bool, False),
    )
    doc = "tell how a blank machine becomes a host, and make the files for it"
    yield from _printing("os_install", build, later("install.run", build), doc, options)


_GATES = (
    option("yes", "do not ask", bool, False),
    option("only-plan", "only say what would be done", bool, False),
    option("force", "reset it although etcd would lose its quorum; say why"),
)
_PATIENCE = (
    option("timeout", "how long a host may take to come back, and again to be healthy", default="15m"),
    option("drain-timeout", "how long its pods may take to leave", default="2m"),
    option("no-backup", "reset hosts of a living cluster without a fresh backup; say why"),
    option("no-dns", "leave the API's name as it is, although servers are reset; say why"),
)


def deploy_tasks(config: TaskDict) -> Iterator[TaskDict]:
    """Given DOIT_CONFIG, yield plan, os_deploy and os_rollback, each for all hosts and for each."""
    build: Build = config["build"]
    doc = "tell what os_deploy would do; exit status 2 if that is anything"
    yield from each("plan", build.hosts, later("rollout.plan", build), doc, reads=True, silent=True)
    doc = "tell what on the hosts is not as their configs say; exit status 2 if anything is"
    yield from each("drift", build.hosts, later("status.find_drift", build), doc, reads=True, silent=True)
    many = (*_GATES, option("parallel", "so many agents at once", int, 1), *_PATIENCE)
    doc = "bring hosts to their configs, one server at a time, and prove each"
    yield from each("os_deploy", build.hosts, later("rollout.run", build), doc, many, waits=True, silent=True)
    rollback = later("rollout.rollback", build)
    doc = "put back the config that was last proven on a host"
    params = (*_GATES, *_PATIENCE)
    yes = (option("yes", "do not ask", bool, False),)
    trust = "pin the machine that answers as a host, after you have looked"
    yield from _of_one("host_trust", build, later("trust.run", build), trust, yes, waits=True, silent=True)
    yield from _of_one("os_rollback", build, rollback, doc, params, waits=True, silent=True)


def _of_one(
    verb: str, build: Build, action: Callable[..., Any], doc: str, options: Sequence[TaskDict], **meta: Any
) -> Iterator[TaskDict]:
    """Yield the tasks of a verb that is for one host; the verb alone names the hosts."""
    names = [*build.hosts[:_SHOWN], *(["..."] if len(build.hosts) > _SHOWN else [])]
    usage = f"{verb}: of which host? ./doit {verb}:HOST, with one of {', '.join(names)}"
    for made in each(verb, build.hosts, action, doc, options, **meta):
        alone = {"usage": usage} if made["basename"] == verb else {}
        yield {**made, "meta": {**made["meta"], **alone}}


def backup_tasks(config: TaskDict) -> Iterator[TaskDict]:
    """Given DOIT_CONFIG, yield the tasks of backups: take one, list, verify, drill and prune them, and the kit."""
    build: Build = config["build"]
    yield asking(
        "backup_keys",
        later("newkey.make", build),
        "make the key that opens the backups, apart from the key of the secrets",
        [option("paper", "make one more, shown once, to be written down", bool, False)],
    )
    one_store = option("store", "this store alone [default: all]")
    one = option("backup", "the id of a backup [default: the newest good one]")
    yield _backups(
        "backup",
        later("backup.run", build),
        "take a backup of the cluster, read it back and prove it",
        [
            option("scheduled", "only if the slot of the schedule has none yet", bool, False),
            one_store,
            option("wait-lease", "how long to wait for another machine that is at work", default="0"),
        ],
    )
    yield _backups(
        "backup_list",
        later("backup_list.run", build),
        "tell what backups there are; exit status 1 if the newest good one is too old",
        [one_store, option("alarm", "tell also those whom cluster.yaml names, if it is too old", bool, False)],
        reads=True,
    )
    yield _backups(
        "backup_verify",
        later("backup_verify.run", build),
        "read a backup whole, open it with its key and check it",
        [
            one,
            one_store,
            option("all", "all backups", bool, False),
            option("sealed", "without the key: only that the sealed files are as they were stored", bool, False),
        ],
        reads=True,
    )
    yield _backups(
        "drill",
        later("drill.run", build),
        "prove that the newest good backup restores, and tell how long that takes",
        [
            one,
            {**option("from", "the store that it comes from [default: whichever has the newest]"), "name": "store"},
            option("on", "a host, USER@ADDRESS, or lab: k3s restores it there, with no way out [default: offline]"),
            option("offline", "without a host, as it is where no --on is given", bool, False),
        ],
        reads=True,
    )
    yield _backups(
        "recovery_kit",
        later("recovery_kit.run", build),
        "tell what brings the cluster back when this machine is gone too; exit status 1 if something is at risk",
        [option("paper", "show the private key of the backups once, on a terminal, to be written down", bool, False)],
        reads=True,
    )
    yield _backups(
        "backup_prune",
        later("backup_prune.run", build),
        "remove the backups that no rule of the cluster's file keeps",
        [
            one_store,
            option("dry-run", "only say what would be removed", bool, False),
            option("yes", "do not ask", bool, False),
        ],
    )


def _backups(
    name: str, action: Callable[..., Any], doc: str, params: Sequence[TaskDict], reads: bool = False
) -> TaskDict:
    meta = {"verb": name.upper(), "what": "", "reads": reads, "silent": True, "waits": not reads}
    return task(name, action, doc=doc, params=list(params), meta=meta)


def restore_task(config: TaskDict) -> TaskDict:
    """Given DOIT_CONFIG, return the task that puts a backup onto hosts."""
    params = [
        option("backup", "the id of a backup [default: the newest good one]"),
        option("to", "the server that it is put onto; the others join it [default: the first one]"),
        {**option("from", "the store that it comes from [default: whichever has the newest]"), "name": "store"},
        option("move", "OLD=NEW[,OLD=NEW...]: paths and volumes of hosts that are no more, and who gets them"),
        option("only-plan", "only say what would be done", bool, False),
        option("yes", "do not ask", bool, False),
        option("timeout", "how long a host may take to come back, and again to be healthy", default="15m"),
    ]
    doc = "put a backup onto these or other hosts, and prove that it is there"
    return _backups("restore", later("restore.run", config["build"]), doc, params)


def spark_tasks(config: TaskDict) -> Iterator[TaskDict]:
    """Given DOIT_CONFIG, yield spark_deploy, for the first server and for each host."""
    build: Build = config["build"]
    params = (
        option("backup", "the id of a backup [default: the newest good one]"),
        {**option("from", "the store that it comes from [default: whichever has the newest]"), "name": "store"},
        option("push", "send the backup over ssh, to a host without a way out", bool, False),
        option("yes", "do not ask", bool, False),
        option("only-plan", "only say what would be done", bool, False),
        option("timeout", "how long a host may take to come back, and again to be healthy", default="15m"),
    )
    doc = "make a bare host the first server of a backup's cluster, mostly by itself"
    yield from each("spark_deploy", build.hosts, later("spark.run", build), doc, params, waits=True, silent=True)


def dns_task(config: TaskDict) -> TaskDict:
    """Given DOIT_CONFIG, return the task that makes the API's name the healthy servers."""
    params = (
        option("only-plan", "only say what would be done", bool, False),
        option("take-over", "take the name from the cluster, or the epoch of this one, that has it", bool, False),
        option("yes", "do not ask", bool, False),
        option("permissions", "only say what the provider has to allow", bool, False),
    )
    meta = {"verb": "DNS", "what": "", "reads": False, "silent": True, "waits": True}
    doc = "make the API's name the healthy servers"
    return task("dns", later("api_name.run", config["build"]), doc=doc, params=params, meta=meta)


def status_task(config: TaskDict) -> TaskDict:
    """Given DOIT_CONFIG, return the task that tells how hosts and cluster are."""
    doc = "tell how the hosts and the cluster are"
    meta = {"verb": "STATUS", "what": "", "reads": True, "silent": True}
    return task("status", later("status.run", config["build"]), doc=doc, meta=meta)


def _printing(
    verb: str, build: Build, action: Callable[..., Any], doc: str, options: Sequence[TaskDict], reads: bool = False
) -> Iterator[TaskDict]:
    """Yield the tasks of a verb that prints a text of one host; the verb alone names the hosts."""
    names = [*build.hosts[:_SHOWN], *(["..."] if len(build.hosts) > _SHOWN else [])]
    usage = f"{verb}: of which host? ./doit {verb}:HOST, with one of {', '.join(names)}"
    for made in each(verb, build.hosts, action, doc, options, reads):
        alone = {"usage": usage} if made["basename"] == verb else {}
        yield {**made, "meta": {**made["meta"], "prints": True, **alone}}


def _show(build: Build, host: str, ignition: bool, reveal: bool) -> None:
    build.said[f"show:{host}"] = build.show(host, ignition, reveal)


def lock_task(config: TaskDict) -> TaskDict:
    """Given DOIT_CONFIG, return the task of the lock file of what hosts fetch (see i12e.pin).

    It takes no lock of the run's: it writes one file of the user's, at once, and waits for servers.
    """
    params = (
        {"name": "check", "long": "check", "type": bool, "default": False, "help": "only compare; write nothing"},
        {
            "name": "trust",
            "long": "trust",
            "type": list,
            "default": [],
            "help": "download what this names (age, say) and take the hash of what comes, where no list gives one",
        },
    )
    return {
        "basename": "lock",
        "doc": "pin what hosts fetch, by URL and sha256, in artifacts.lock",
        "actions": [(step(_lock), [config["build"]])],
        "params": params,
        "uptodate": [False],
        "meta": {"reads": True},
        "io": {"capture": False},
    }


def _lock(build: Build, check: bool, trust: list[str]) -> None:
    from i12e import pin  # which imports what a no-op has no use for

    hosts = build.checked_hosts()
    client, path = pin.client_for(hosts, screen.say), build.paths.artifacts
    if check:
        told = pin.check(build.files, path, hosts, client)
    else:
        told = pin.lock(build.files, path, hosts, client, trust, screen.meter)
    for line in told:
        build.tell(**line)


def _product_task(build: Build, product: Product) -> TaskDict:
    first = [build.paths.cluster_file, *([build.paths.host_file(product.name)] if product.kind == HOST else [])]
    verb, doc, _ = _KINDS[product.kind]
    return {
        "basename": product.task,
        "doc": f"{doc} {product.name}",
        "actions": [(_place, [build, product])],
        "file_dep": build.inputs(product) or first,
        "task_dep": ["_model", "_prepare"],
        "targets": [product.output],
        "clean": [(build.clean, [product])],
        "meta": {"verb": verb, "what": product.name, "kind": product.kind},
        "io": {"capture": False},
    }


@step
def _place(build: Build, product: Product, task: Task) -> None:
    task.file_dep = set(build.place(product))


# --- doit's parts, ours


class Checker(FileChangedChecker):
    """doit's view of files: a state, which a file that is not there and a folder have too."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def exists(self, path: str) -> bool:
        """Given a target, tell whether it is there as it was made: one that was edited by hand is made again."""
        return self._files.is_output(path)

    def info(self, path: str) -> str:
        """Given a dependency, return its state; one that is gone is a change, not an error."""
        return self._files.state(path)

    def check_modified(self, path: str, now: str, before: str) -> bool:
        """Given a dependency's state now and before, tell whether it changed."""
        return now != before

    def get_state(self, path: str, before: str | None) -> str | None:
        """Given a dependency and the state that is saved, return the state to save, or None if it is that."""
        now = self._files.state(path)
        return None if now == before else now


def backend(name: str, codec: Any = None, module_name: Any = None) -> Any:
    """Given the database's path, return the state of the build that was configured for it (doit's backend plugin)."""
    return _builds[name].state


class Reporter:
    """Our lines: what was done, what failed, one summary; or one JSON document.

    Where all that was asked for is a text (`prints`), standard output holds that alone.
    """

    desc = "i12e's lines"

    def __init__(self, build: Build, out: IO[str], as_json: bool, prints: bool = False) -> None:
        self.build = build
        self._prints = prints
        self.changes = False
        self.usage = False
        self._out = out
        self._json = as_json
        self._start = time.monotonic()
        self._started: dict[str, float] = {}
        self._results: list[TaskDict] = []
        self._problems: list[Problem] = []
        self._asides: list[str] = []
        self.current: Counter[str] = Counter()
        self._finished = False
        self._stopped: BaseException | None = None

    def initialize(self, tasks: Any, selected: Any) -> None:
        """Called by doit before the first task."""

    def get_status(self, task: Task) -> None:
        """Called by doit when it looks at a task."""

    def execute_task(self, task: Task) -> None:
        """Called by doit when a task starts."""
        self._started[task.name] = time.monotonic()

    def add_success(self, task: Task) -> None:
        """Called by doit when a task is done and its state is set: save it now, a kill shall not lose it."""
        with self.build.mutex:
            self.build.state.commit()
        for product in self.build.removed:
            place = self.build.paths.hosts if product.kind == HOST else self.build.paths.cluster_file
            self._tell("REMOVE", product.name, "removed", 0.0, f"it is no more in {place}", product.task)
        self.build.removed.clear()
        self._tell_steps(task)
        if _shown(task) and task.name not in self.build.unused:
            same = task.name in self.build.same
            spent = time.monotonic() - self._started.get(task.name, self._start)
            self._tell(
                task.meta["verb"],
                task.meta["what"],
                "done",
                spent,
                "same output" if same else "",
                task.name,
                text=self.build.said.pop(task.name, None),
            )

    def add_failure(self, task: Task, fail: BaseFail) -> None:
        """Called by doit when a task failed."""
        with self.build.mutex:
            self.build.state.commit()
        self._tell_steps(task)
        if isinstance(fail, UnmetDependency):
            return
        if isinstance(fail, Changed):
            self.changes = True
            return
        if isinstance(fail, Failed):
            self._problems += fail.problems
            self.usage |= fail.usage
        else:
            self._problems.append(_nowhere(f"{task.name}: {fail.get_msg().rstrip()}"))
        meta = task.meta or {}
        spent = time.monotonic() - self._started.get(task.name, self._start)
        self._results.append(_result(task.name, meta.get("verb"), meta.get("what"), "failed", spent))

    def skip_uptodate(self, task: Task) -> None:
        """Called by doit for a task with nothing to do."""
        if _shown(task):
            self.current[task.meta.get("kind", "")] += 1

    def skip_ignore(self, task: Task) -> None:
        """Called by doit for a task that `doit ignore` put aside."""
        self._aside(f"{task.name} is ignored (./doit forget {task.name} ends that)")

    def cleanup_error(self, fail: BaseFail) -> None:
        """Called by doit when a teardown failed."""
        self._aside(fail.get_msg())

    def runtime_error(self, message: str) -> None:
        """Called by doit when it cannot go on."""
        self._problems.append(_nowhere(message))

    def teardown_task(self, task: Task) -> None:
        """Called by doit before a teardown."""

    def complete_run(self) -> None:
        """Called by doit at the end, also of a run that was interrupted."""
        if self._finished:
            return
        self._finished = True
        self._stopped = sys.exc_info()[1]
        if self.build.state.damaged:
            self._aside(f"{self.build.paths.state} was damaged and has been made anew: it is only a cache")
        for text in self.build.notes:
            self._aside(text)
        for text in self.build.warnings() if not self._problems else ():
            self._aside(f"warning: {text}")
        if self._json:
            self._out.write(json.dumps(self._document(), indent=2) + "\n")
            return
        for problem in self._problems:
            print(problem, file=sys.stderr)
        if not self._prints:
            self._out.write(self._summary() + "\n")

    @property
    def failed(self) -> bool:
        """Whether anything failed."""
        return bool(self._problems)

    @property
    def status(self) -> int:
        """The exit status that the run has come to."""
        if self._interrupted:
            return TERMINATED if isinstance(self._stopped, SystemExit) else INTERRUPTED
        return FAILED if self._problems else CHANGES if self.changes else 0

    @property
    def _interrupted(self) -> bool:
        return isinstance(self._stopped, (KeyboardInterrupt, SystemExit))

    def _tell(
        self, verb: str, what: str, result: str, seconds: float, remark: str = "", task: str = "",
        facts: TaskDict | None = None, text: str | None = None,
    ) -> None:  # fmt: skip
        told = _result(task, verb, what, result, seconds, remark) | (facts or {})
        self._results.append(told if text is None else {**told, "text": text})
        if not self._json:
            self._out.write(screen.line(verb, what, remark) + "\n" if text is None else text)
            self._out.flush()

    def _tell_steps(self, task: Task) -> None:
        for step in self.build.told:
            self._tell(step.verb, step.what, step.result, 0.0, step.remark, task.name, step.facts, step.text)
        self.build.told.clear()

    def _aside(self, text: str) -> None:
        self._asides.append(text)
        if not self._json:
            print(text, file=sys.stderr)

    def _summary(self) -> str:
        env, seconds = self.build.paths.env, f"{time.monotonic() - self._start:.1f} s"
        done, removed = (sum(result["result"] == name for result in self._results) for name in ("done", "removed"))
        parts = [f"{done} done" if done else "", f"{removed} removed" if removed else ""]
        nothing = "what was done to hosts is told above" if self.build.touched else "nothing was written"
        if self._problems:
            before = f"{done} done before that" if done else nothing
            return f"{env}: {screen.count(len(self._problems), 'problem')}, {before} ({seconds})"
        if self._interrupted:
            return f"{env}: interrupted, {', '.join(filter(None, parts)) or nothing} ({seconds})"
        if not done and not removed:
            asked = any(result["result"] in ("planned", "told") for result in self._results)
            parts = ["there are changes" if self.changes else "nothing to do" if not asked else "nothing was changed"]
        current = [screen.count(self.current[kind], kind) for kind in _KINDS if self.current[kind]]
        parts.append(f"{' and '.join(current)} up to date" if current else "")
        return f"{env}: {', '.join(filter(None, parts))} ({seconds})"

    def _document(self) -> TaskDict:
        return {
            "environment": self.build.paths.env,
            "results": self._results,
            "up_to_date": self.current.total(),
            "interrupted": self._interrupted,
            "problems": [dataclasses.asdict(problem) for problem in self._problems],
            "warnings": self._asides,
            "seconds": round(time.monotonic() - self._start, 3),
            "status": self.status,
        }


def _nowhere(message: str) -> Problem:
    return Problem("", None, None, message)


def _result(task: str, verb: str | None, what: str | None, result: str, seconds: float, remark: str = "") -> TaskDict:
    """Return an entry of a run's JSON document."""
    told = {"task": task, "verb": verb, "what": what, "result": result}
    return {**told, "seconds": round(seconds, 3), "remark": remark}


def _shown(task: Task) -> bool:
    """Tell whether a task has a line of its own; one that is silent tells all there is by its steps."""
    return bool(task.meta and "verb" in task.meta and not task.meta.get("silent"))


# --- commands


_wait_option = {
    "name": "wait",
    "long": "wait",
    "type": str,
    "default": "0",
    "help": "wait so long for another run to end, e.g. 90s, 5m [default: do not wait]",
}
_json_option = {
    "name": "as_json",
    "long": "json",
    "type": bool,
    "default": False,
    "help": "print one JSON document instead of lines",
}


# Options of doit that are ours to set, and --single: without what a task depends on, ours mean nothing.
_FIXED = ("reporter", "outfile", "par_type", "auto_delayed_regex", "single")


class _Command(DoitCmdBase):
    """What our commands share: user's mistakes without a traceback, the lock, names that are checked, JSON."""

    # doit's own database and checker are not for choosing: the names stay, the options go.
    base_options = tuple({**option, "long": "", "short": ""} for option in DoitCmdBase.base_options)
    sel_tasks: Any
    task_list: list[Task]
    as_json = False
    nothing: ClassVar[TaskDict] = {}
    """What its JSON document holds, beside what all hold, while there is nothing to tell."""

    def parse_execute(self, in_args: list[str]) -> int:
        """Given the arguments, run the command; return its exit status. --json stands before or behind the others."""
        self.as_json = "--json" in in_args
        options = ["--json"] if self.as_json else []
        try:
            return int(super().parse_execute([*options, *(word for word in in_args if word != "--json")]))
        except CmdParseError as error:
            return self._explain(error)

    def execute(self, params: Any, args: list[str]) -> int:
        """Run the command; return its exit status."""
        try:
            return int(super().execute(params, args) or 0)
        except KeyboardInterrupt:
            _say("interrupted: what was done is kept, the same command goes on from there")
            return INTERRUPTED
        except Exception as error:  # noqa: BLE001  # a bug of ours too is told here, with all of it
            return self._explain(error)

    def tell(self, problems: Sequence[Problem | str], status: int) -> int:
        """Given what stopped the command and its exit status, tell it, by --json as a document; return the status."""
        if self.as_json:
            self.write_json(status, problems)
        _say(*problems)
        return status

    def write_json(self, status: int, problems: Sequence[Problem | str] = (), **told: Any) -> None:
        """Given the exit status, problems and what else is told, print the JSON document (docs/json.md)."""
        build = _builds.get(getattr(getattr(self, "dep_manager", None), "name", ""))
        listed = [problem if isinstance(problem, Problem) else _nowhere(problem) for problem in problems]
        document = {
            "environment": build.paths.env if build else None,
            **self.nothing,
            **told,
            "problems": [dataclasses.asdict(problem) for problem in listed],
            "status": status,
        }
        print(json.dumps(document, indent=2))

    def _explain(self, error: Exception) -> int:
        match error:
            case UserError():
                return self.tell(error.problems, FAILED)
            case lock.Held():
                return self.tell([f"{error} (--wait TIME waits for it)"], FAILED)
            case CmdParseError():
                said = str(error).partition(" (parsing options")[0].removeprefix("Error parsing Task: ")
                return self.tell([f"{said}: ./doit help {self.name} and ./doit help TASK show the options"], USAGE)
            case InvalidCommand():
                return self.tell([self._unknown(error.not_found) if error.not_found else str(error)], USAGE)
            case InvalidDodoFile():
                return self.tell([str(error)], USAGE)
        told = _of_the_machine(error)
        if told is None:
            traceback.print_exception(error)
        return self.tell([told or ""], FAILED)

    @property
    def build(self) -> Build:
        """The build that this command is about."""
        return _builds[self.dep_manager.name]

    def locked(self, what: str, wait: str) -> lock.Lock:
        """Given what is done and how long to wait, return the lock; raise lock.Held if another run keeps it."""
        place = self.build.paths
        private_folder(place.root / place.build)
        try:
            seconds = lock.seconds(wait)
        except ValueError:
            raise InvalidCommand(f'--wait "{wait}": write a time such as 90s, 5m or 1h') from None
        held = lock.take(place.root / place.lock, what, seconds)
        if held.waited or self.build.state.is_outdated():
            _start_again(held)
        return held

    def _unknown(self, name: str) -> str:
        known = [task.name for task in getattr(self, "task_list", ()) if not task.name.startswith("_")]
        words = [*known, *(command.get_name() for command in DoitMain.DOIT_CMDS)]
        hint = did_you_mean(name, words, alike=0.75) or next(
            (f"did you mean {task}?" for task in known if task.endswith(f":{name}")), ""
        )
        return f"{name}: there is no such task ({hint or './doit list shows them'})"


class Run(_Command, DoitRun):
    """doit's run, with our reporter, lock and exit statuses."""

    name = "run"
    words: ClassVar[list[str] | None] = None
    """What the command line of a run says, while the tasks are made; None for other commands."""
    nothing: ClassVar = {"results": [], "up_to_date": 0, "interrupted": False, "warnings": [], "seconds": 0.0}
    cmd_options = (
        *(option for option in DoitRun.cmd_options if option["name"] not in _FIXED),
        _wait_option,
        _json_option,
    )

    def parse_execute(self, in_args: list[str]) -> int:
        """Given the arguments, run: --wait too stands before or behind the tasks."""
        first, rest = _gather(in_args)
        Run.words = rest
        try:
            return int(super().parse_execute([*first, *rest]))
        finally:
            Run.words = None

    def _execute(
        self, verbosity: Any, always: bool, continue_: bool, num_process: int,
        force_verbosity: bool, failure_verbosity: int, pdb: bool, wait: str, as_json: bool, pos_args: list[str],
    ) -> int:  # fmt: skip
        build = self.build
        tasks = {task.name: task for task in self.task_list}
        names = self.sel_tasks or []
        if NEW in names and _beside(tasks, NEW, names):
            raise InvalidCommand(f"{NEW} runs alone: first ./doit {NEW}, then the others")
        asked_for = [tasks[name] for name in names if name in tasks]  # among the names are options of tasks
        for usage in filter(None, (_meta(task, "usage") for task in asked_for)):
            raise InvalidCommand(usage)
        prints = bool(asked_for) and all(_meta(task, "prints") for task in asked_for)
        reporter = Reporter(build, sys.stdout, as_json, prints)
        build.request.progress = screen.progress
        # doit forgets a task that failed. Ours write all or nothing, so what was recorded of the last success stays
        # true, and a mistake that is taken back leaves nothing to do.
        self.dep_manager.remove_success = lambda task: None
        asked = _closure(tasks, names)
        build.request.wanted = [product for product in build.products if product.task in asked]
        build.request.named = frozenset(names)
        build.request.always = always
        build.request.save_set = self._save_set
        reads = asked and all(_meta(tasks[name], "reads") for name in asked)
        build.state.read_only = bool(reads)
        held = None if reads else self.locked(" ".join(["doit", *names]), wait)
        if held and any(_meta(tasks[name], "waits") for name in asked):
            num_process = 0
            build.request.pause = functools.partial(_pause, build, held)
        if build.request.wanted:  # first of all, so that the hosts' tasks find nothing to wait for and keep their order
            self.sel_tasks = ["_prepare", *names]
            reporter.current += self._leave_out(build, tasks, always)
        before = signal.signal(signal.SIGTERM, _terminate) if _main_thread() else None
        try:
            result = super()._execute(
                sys.stdout, verbosity, always, continue_, reporter, num_process, "thread", False,
                False, force_verbosity, failure_verbosity, pdb,
            )  # fmt: skip
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)
            build.close()
            if held:
                held.release()
        if reporter.changes and not reporter.failed:
            return CHANGES
        if reporter.usage:
            return USAGE
        return FAILED if result else 0

    def _leave_out(self, build: Build, tasks: dict[str, Task], always: bool) -> Counter[str]:
        """Take the products that are up to date out of the run, if what all share is: doit has nothing to do with them.

        Return how many they are, by kind. The values of no release go too.
        """
        shared = [task for name, task in tasks.items() if name == "_model" or name.startswith("_inputs:")]
        if always or any(self.dep_manager.get_status(task, tasks).status != "up-to-date" for task in shared):
            return Counter()
        wanted = build.request.wanted
        unused = {product.task for product in wanted if build.is_unused(product)} - build.request.named
        done = [product for product in wanted if product.task not in unused and build.is_current(product)]
        current = {product.task for product in done} | unused
        build.request.wanted = [product for product in wanted if product.task not in current]
        self.sel_tasks = [name for name in self.sel_tasks if name not in current]
        self.task_list = [task for task in self.task_list if task.name not in current]
        for task in self.task_list:
            if not current.isdisjoint(task.task_dep):
                task.task_dep = [name for name in task.task_dep if name not in current]
        return Counter(product.kind for product in done)

    def _save_set(self, set_id: str, inputs: list[str]) -> None:
        task = Task(f"_inputs:{set_id}", None, file_dep=inputs)
        task.values, task.result = {}, None
        self.dep_manager.save_success(task)


class _Looking(_Command):
    """What looks at tasks without running them: a product's status is worked out down to the inputs of its set."""

    def _execute_looking(self, execute: Callable[[], Any]) -> Any:
        work_out = self.dep_manager.get_status
        products = {product.task: product for product in self.build.products}

        def get_status(task: Task, tasks: Any, get_log: bool = False) -> Any:
            status = work_out(task, tasks, get_log)
            product = products.get(task.name)
            changed = self.build.changed(product) if product and status.status == "up-to-date" else []
            if changed:
                status.set_reason("changed_file_dep", changed)
            return status

        self.dep_manager.get_status = get_status
        return execute()


class List(_Looking, DoitList):
    """doit's list, without a line for each host."""

    name = "list"
    nothing: ClassVar = {"tasks": []}
    cmd_options = (*DoitList.cmd_options, _json_option)

    def _execute(
        self, subtasks: bool, quiet: bool, status: bool, private: bool, list_deps: bool, template: Any, sort: str,
        as_json: bool, pos_args: list[str],
    ) -> int:  # fmt: skip
        self._listed: list[TaskDict] = []
        listing = functools.partial(super()._execute, subtasks, quiet, status, private, list_deps, template, sort)
        done = int(self._execute_looking(lambda: listing(pos_args)))
        if as_json:
            self.write_json(done, tasks=self._listed)
        return done

    def _print_task(self, template: str, task: Task, status: bool, list_deps: bool, tasks: dict[str, Task]) -> None:
        if not self.as_json:
            super()._print_task(template, task, status, list_deps, tasks)
            return
        now = self.dep_manager.get_status(task, tasks).status if status else None
        inputs = sorted(task.file_dep) if list_deps else None
        self._listed.append({**_named(task), "status": now, "inputs": inputs})

    def _list_all(self, include_subtasks: bool) -> list[Task]:
        found: list[Task] = super()._list_all(True)
        return [task for task in found if include_subtasks or ":" not in task.name]


class Info(_Looking, DoitInfo):
    """doit's info, with all recorded inputs of a task."""

    name = "info"
    nothing: ClassVar = {"task": None}
    cmd_options = (*DoitInfo.cmd_options, _json_option)

    def _execute(self, pos_args: list[str], hide_status: bool = False, as_json: bool = False) -> int:
        if len(pos_args) == 1:
            self._check(pos_args)
            if as_json:
                return int(self._execute_looking(lambda: self._as_json(pos_args[0], hide_status)))
        show = functools.partial(super()._execute, pos_args, hide_status)
        status = int(self._execute_looking(show))
        inputs = self.build.explain(pos_args[0])
        if inputs:
            self.outstream.write("\ninputs of the last time (of its own, and of the set that it shares):\n")
            self.outstream.writelines(f" - {path}\n" for path in inputs)
        return FAILED if status else 0

    def _as_json(self, name: str, hide_status: bool) -> int:
        tasks = {task.name: task for task in self.task_list}
        found = None if hide_status else self.dep_manager.get_status(tasks[name], tasks, get_log=True)
        status = FAILED if found and found.status != "up-to-date" else 0
        self.write_json(status, task=_described(tasks[name], found, self.build.explain(name)))
        return status

    def _check(self, names: list[str]) -> None:
        check_tasks_exist({task.name: task for task in self.task_list}, names)


_REASONS = {
    "changed": "changed_file_dep",
    "added": "added_file_dep",
    "removed": "removed_file_dep",
    "missing": "missing_file_dep",
    "missing_outputs": "missing_target",
}


def _named(task: Task) -> TaskDict:
    """Given a task, return how JSON names it: by VERB:WHAT, the host or release on its own, and what it is for."""
    return {"name": task.name, "what": task.name.partition(":")[2] or None, "doc": task.doc or ""}


def _described(task: Task, status: Any, recorded: list[str]) -> TaskDict:
    """Given a task, doit's finding on it (None: not asked for) and its recorded inputs, return all that is known."""
    reasons = status.reasons if status else {}
    return {
        **_named(task),
        "status": status.status if status else None,
        "always": bool(reasons.get("has_no_dependencies") or reasons.get("uptodate_false")) if status else None,
        "reasons": {ours: sorted(reasons.get(doits) or ()) for ours, doits in _REASONS.items()} if status else None,
        "inputs": recorded or sorted(task.file_dep),
        "outputs": list(task.targets),
        "after": list(task.task_dep),
        "options": [f"--{option['long']}" for option in task.params],
    }


class Forget(_Command, DoitForget):
    """doit's forget, under the lock; without a name it forgets all, since every task is one of a build."""

    name = "forget"
    cmd_options = (*DoitForget.cmd_options, _wait_option)

    def _execute(self, forget_sub: bool, forget_disable_default: bool, forget_all: bool, wait: str) -> None:
        held = self.locked("doit forget", wait)
        try:
            super()._execute(forget_sub, forget_disable_default, forget_all or self.sel_default_tasks)
        finally:
            held.release()


class Clean(_Command, DoitClean):
    """doit's clean, under the lock."""

    name = "clean"
    nothing: ClassVar = {"results": []}
    cmd_options = (*DoitClean.cmd_options, _wait_option, _json_option)

    def clean_tasks(self, tasks: Iterable[Task], dryrun: bool, cleanforget: bool) -> None:
        """Given tasks, remove what they made, with a line for each that made something."""
        for task in {task.name: task for task in tasks}.values():
            if task.clean_actions and any(Path(target).exists() for target in task.targets):
                self._cleaned.append({"task": task.name, "result": "not done" if dryrun else "done"})
                if not self.as_json:
                    remark = "not done: --dry-run" if dryrun else ""
                    self.outstream.write(screen.line("CLEAN", task.name, remark) + "\n")
                task.clean(io.StringIO(), dryrun)
            if cleanforget and not dryrun:
                self.dep_manager.remove(task.name)
        self.dep_manager.close()

    def _execute(
        self,
        dryrun: bool,
        cleandep: bool,
        cleanall: bool,
        cleanforget: bool,
        wait: str,
        as_json: bool,
        pos_args: Any = None,
    ) -> None:
        self._cleaned: list[TaskDict] = []
        held = self.locked("doit clean", wait)
        try:
            super()._execute(dryrun, cleandep, cleanall, cleanforget, pos_args)
        finally:
            held.release()
        if as_json:
            self.write_json(0, results=self._cleaned)


class NotOffered(Command):
    """A command of doit that leans on doit's own database or dependencies, which ours are not."""

    doc_purpose = "not offered: it is for doit's own database (./doit info TASK shows a task's inputs)"

    def execute(self, params: Any, args: list[str]) -> int:
        """Say so."""
        return _usage("this command of doit is not offered here: ./doit info TASK shows a task's inputs")


def _gather(args: list[str]) -> tuple[list[str], list[str]]:
    """Given arguments, return those that hold for the whole run, wherever they stand, and the others."""
    first: list[str] = []
    rest: list[str] = []
    left = list(args)
    while left:
        word = left.pop(0)
        if word == "--wait" and left:
            first += [word, left.pop(0)]
        elif word == "--json" or word.startswith("--wait="):
            first.append(word)
        else:
            rest.append(word)
    return first, rest


def _closure(tasks: dict[str, Task], names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    todo = [name for name in names if name in tasks]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [dep for dep in (*tasks[name].task_dep, *tasks[name].setup_tasks) if dep in tasks]
    return found


def _beside(tasks: dict[str, Task], name: str, words: Sequence[str]) -> list[str]:
    """Given tasks, the name of one and the words of the command line, return the other tasks that these name."""
    takes = {f"--{param['long']}" for param in tasks[name].params if param["type"] is not bool}
    pairs = zip(["", *words], words, strict=False)
    return [word for before, word in pairs if word in tasks and word != name and before not in takes]


def _meta(task: Task, key: str) -> Any:
    return (task.meta or {}).get(key)


@contextlib.contextmanager
def _pause(build: Build, held: lock.Lock) -> Iterator[None]:
    with build.mutex:
        build.state.commit()  # what was done so far is for the others to see
    with held.paused(_say):
        yield


def _main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def _start_again(held: lock.Lock) -> NoReturn:
    """Another run ended between our reading of the state and our lock: what we know is of before, so look anew."""
    held.release()
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # ourselves


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    print("terminated: what was done is kept, the same command goes on from there", file=sys.stderr)
    sys.exit(TERMINATED)


def _of_the_machine(error: Exception) -> str | None:
    """Given an exception, return what it says of the machine: no room, no permission, nobody who reads our output."""
    if isinstance(error, BrokenPipeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # Python would complain at exit
        return ""
    if isinstance(error, sqlite3.Error):
        return f"the state of the build: {error} (is there room, and may you write to build/?)"
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return f"{error.filename or 'the output'}: {error.strerror} (whose is it? mend that and run the same again)"
    return None


def _say(*problems: Problem | str) -> None:
    for problem in filter(str, problems):
        print(problem, file=sys.stderr)


def _usage(message: str) -> int:
    print(message, file=sys.stderr)
    return USAGE
