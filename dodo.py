"""i12e's tasks: a table of contents. `./doit` renders what changed, `./doit list` shows the rest.

Each creator names its tasks and what they do; the work is in lib/i12e.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from i12e import checks, engine, paths, questions

ROOT = Path(__file__).resolve().parent
DOIT_CONFIG = engine.configure(ROOT, default_tasks=["render", "helm_values"])
BUILD = DOIT_CONFIG["build"]


def task_build() -> Iterator[engine.TaskDict]:
    """Hosts, secrets and templates to one Ignition config a host and the values of each Helm release."""
    yield from engine.build_tasks(DOIT_CONFIG)


def task_init() -> engine.TaskDict:
    """A cluster of your own: key, secrets, host files, from questions or from options."""
    options = [engine.option(question.option, question.ask) for question in questions.CLUSTER]
    options += [
        engine.option("recipient", "public keys (age1..., with commas) that open the secrets too"),
        engine.option("paper", "make a second key and show it once, to be written down", bool, False),
        engine.option("yes", "ask nothing: what no option says is the default", bool, False),
    ]
    return engine.asking("init", engine.later("init.make", BUILD), "make a cluster of your own", options)


def task_secrets() -> Iterator[engine.TaskDict]:
    """The secret files: edited, and sealed to other people."""
    name = engine.option("name", "the secret file, without its ending; a new one is made")
    for file in (None, *paths.secret_names(BUILD.paths)):
        task = "secrets_edit" if file is None else f"secrets_edit:{file}"
        yield engine.asking(task, engine.later("edit.edit", BUILD, file), "edit a secret file in your editor", [name])
    yield engine.asking(
        "secrets_rekey",
        engine.later("rekey.rekey", BUILD),
        "seal all secrets to the recipients of .sops.yaml",
        [
            engine.option("add", "public keys (age1..., with commas) that shall open the secrets too"),
            engine.option("retire", "public keys that shall not any more"),
        ],
    )


def task_secrets_check() -> engine.TaskDict:
    """See that nothing under secrets/ is plain; also the pre-commit hook."""
    return engine.aside(
        "secrets_check",
        engine.later("sealed.check", ROOT),
        "find what is plain under secrets/ (also the pre-commit hook)",
        "all sealed",
    )


def task_lock() -> engine.TaskDict:
    """What hosts download, with hashes: into artifacts.lock (--check: compare only)."""
    return engine.lock_task(DOIT_CONFIG)


def task_show() -> Iterator[engine.TaskDict]:
    """What a host is rendered to, for a person to look at (--ignition, --reveal)."""
    yield from engine.show_tasks(DOIT_CONFIG)


def task_deploy() -> Iterator[engine.TaskDict]:
    """The hosts brought to their configs (os_deploy), what that would do (plan), and the way back (os_rollback)."""
    yield from engine.deploy_tasks(DOIT_CONFIG)


def task_status() -> engine.TaskDict:
    """Hosts and cluster on one screen."""
    return engine.status_task(DOIT_CONFIG)


def task_backup() -> Iterator[engine.TaskDict]:
    """Backups of the cluster: taken and proven (backup), listed, verified, drilled, pruned; recovery_kit."""
    yield from engine.backup_tasks(DOIT_CONFIG)


def task_restore() -> engine.TaskDict:
    """A backup, put onto these or other hosts, and proven."""
    return engine.restore_task(DOIT_CONFIG)


def task_spark() -> Iterator[engine.TaskDict]:
    """A bare host, made the first server of a backup's cluster; the operator may leave meanwhile."""
    yield from engine.spark_tasks(DOIT_CONFIG)


def task_dns() -> engine.TaskDict:
    """The API's name, made the healthy servers; nobody else's name is taken."""
    return engine.dns_task(DOIT_CONFIG)


def task_os_install() -> Iterator[engine.TaskDict]:
    """What a person does to make a host of a blank machine (--platform, --url, --reinstall)."""
    yield from engine.install_tasks(DOIT_CONFIG)


def task_kubeconfig() -> engine.TaskDict:
    """The cluster's kubeconfig, merged into your own by context name (--server)."""
    server = engine.option(
        "server", "where kubectl reaches the API: an address, a name or a URL [default: VIP or name]"
    )
    put = engine.later("kubeconfig.run", BUILD)
    return engine.silent(engine.aside("kubeconfig", put, "put the cluster's kubeconfig into yours", "", [server]))


def task_schema() -> engine.TaskDict:
    """The JSON Schemas of cluster and host files, and docs/reference.md."""
    return engine.aside(
        "schema",
        partial(checks.write_schemas, ROOT),
        "make the JSON Schemas and the reference of cluster and host files",
        "docs/schema, docs/reference.md",
    )


def task_bench() -> engine.TaskDict:
    """How long a fleet takes, beside bare doit and other tools: the tables of docs/performance.md."""
    return engine.aside(
        "bench",
        partial(checks.run_benchmarks, ROOT),
        "measure how long a fleet takes, beside other tools",
        "measured",
        checks.BENCHMARKS,
    )


def task_lab() -> Iterator[engine.TaskDict]:
    """Hosts on this machine, to play with and to test on: docs/simulated.md."""
    hosts = partial(checks.lab_up, ROOT)
    yield engine.aside("lab_up", hosts, "boot hosts on this machine, for the environment lab", "up", checks.LAB_UP)
    end = partial(checks.lab_down, ROOT)
    yield engine.aside("lab_down", end, "end the lab's hosts; nothing of them stays", "down", checks.LAB_DOWN)
    yield engine.aside("lab_status", partial(checks.lab_status, ROOT), "tell what the lab's hosts do", "told")


def task_test() -> engine.TaskDict:
    """The tests, with the packages that they need."""
    return engine.aside(
        "test", partial(checks.run_tests, ROOT), "run the tests (it fetches the packages that they need)", "all passed"
    )
