"""What may be written into a cluster's and a host's file: fields, defaults and their meaning.

The one home of pydantic. The docstring below each field is its description in the JSON Schema and in
docs/reference.md, and says `Default: ...` where the value alone does not; `_said` gives an example of its own
and the unit. How single values look is in `fields`, what they must not be together is in `rules`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, TypeVar, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
)

from i12e import fields
from i12e.errors import did_you_mean
from i12e.fields import Fault, Loc, Wrong

FORM, SINGLE, UNIT = "x-form", "x-single", "x-unit"
"""Our words in a model's JSON Schema: which form of `fields` a value has, that a list of one may be written as its
only entry, in what a value is counted."""


class _Form(AfterValidator):
    """A form of `fields`, which the JSON Schema names; what an editor can check of it is in `patterns`."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return handler(core) | {FORM: self.func.__name__}


class _RawForm(BeforeValidator):
    """A form of `fields` that looks at what the file says before its type is looked at."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return handler(core) | {FORM: self.func.__name__}


class _Listed(BeforeValidator):
    """Lets a single text stand for a list of one."""

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return handler(core) | {SINGLE: True}


def _text(form: Callable[[str], str]) -> Any:
    return _Form(form)


def _said(example: Any, unit: str = "") -> Any:
    """Return what is said of a field beside its docstring: an example, as a file has it, and the unit."""
    return Field(examples=[example], json_schema_extra={UNIT: unit} if unit else None)


_ONE_OR_MORE = _Listed(lambda value: (value,) if isinstance(value, str) else value)


Label = Annotated[str, _text(fields.label)]
DnsName = Annotated[str, _text(fields.dns_name)]
San = Annotated[str, _text(fields.san)]
Address = Annotated[str, _text(fields.address)]
Network_ = Annotated[str, _text(fields.network)]
Networks = Annotated[tuple[Network_, ...], _ONE_OR_MORE, Field(min_length=1, max_length=2)]
Interface = Annotated[str, _text(fields.interface)]
SshKey = Annotated[str, _text(fields.ssh_key)]
Keep = Annotated[str, _text(fields.keep)]
Local = Annotated[str, _text(fields.local)]
User = Annotated[str, _text(fields.user)]
Recipient = Annotated[str, _text(fields.recipient)]
Slot = Annotated[str, _text(fields.slot)]
Span = Annotated[str, _text(fields.span)]
KeyName = Annotated[str, _text(fields.key_name)]
Script = Annotated[str, _text(fields.script)]
Command = Annotated[tuple[Annotated[str, _text(fields.argument)], ...], _ONE_OR_MORE, Field(min_length=1)]
Mode = Annotated[int, _RawForm(fields.mode)]


class Settings(BaseModel):
    """What all parts have in common: no unknown keys, and nobody changes them afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class Snapshots(Settings):
    """k3s's own scheduled etcd snapshots, the second net below the backups. Not on SQLite."""

    schedule: Annotated[str, _text(fields.cron)] = "0 */6 * * *"
    """When: cron's five fields (host's time), or a word like @daily. Default: "0 */6 * * *", every 6 hours."""
    retention: Annotated[StrictInt, Field(ge=1, le=1000), _said(24, unit="snapshots")] = 12
    """How many snapshots k3s keeps on each server, 1 to 1000. Default: 12."""


class K3s(Settings):
    """k3s itself."""

    version: Annotated[str, _text(fields.k3s_version)]
    """The release, pinned: vMAJOR.MINOR.PATCH+k3sN, or a candidate: vMAJOR.MINOR.PATCH-rcN+k3sN."""
    datastore: Literal["etcd", "sqlite"] = "etcd"
    """Where the cluster's state lives: etcd (1 or more servers) or sqlite (one). Default: etcd."""
    secrets_encryption: Literal["secretbox", "aescbc", "none"] = "secretbox"
    """How Secrets are encrypted in the datastore. Default: secretbox."""
    disable: tuple[Annotated[str, _text(fields.component)], ...] = ()
    """Packaged components that k3s does not deploy, like traefik. Default: none."""
    snapshots: Snapshots = Snapshots()
    """k3s's own etcd snapshots."""
    config: Annotated[dict[str, Any], _said({"kubelet-arg": ["max-pods=200"]})] = Field(default_factory=dict)
    """Further settings of k3s's config.yaml, verbatim. What i12e writes itself is refused. Default: none.

    Of the cluster's, an agent gets only those that k3s's agents are known to have (with another one it would
    not start); in an agent's own file, a setting that only servers have is refused, and one that i12e does not
    know is passed on."""


class Vip(Settings):
    """A virtual address of the API, held by kube-vip on one of the servers."""

    address: Annotated[Address, _said("192.0.2.10")]
    """The address, in the hosts' network and of no host."""
    version: Annotated[str, _text(fields.release_tag)]
    """The release of kube-vip, pinned: vX.Y.Z."""
    interface: Interface
    """The network interface of the servers that carries the address."""


class Api(Settings):
    """Where the Kubernetes API is reached."""

    name: DnsName
    """The API's DNS name; the server certificate carries it (tls-san)."""
    sans: tuple[San, ...] = ()
    """Further names and addresses that the server certificate carries. Default: none."""
    vip: Vip | None = None
    """The virtual address. Default: none."""


class Network(Settings):
    """The hosts' network and the cluster's."""

    hosts: Annotated[tuple[Network_, ...], _ONE_OR_MORE, _said(["192.0.2.0/24"])] = ()
    """The networks that the hosts live in; all addresses must be inside. An agent elsewhere says its own.
    Default: not checked."""
    backend: Literal["wireguard-native", "vxlan", "host-gw", "none"] = "wireguard-native"
    """flannel's backend; none: you bring a plugin. Default: wireguard-native (encrypted)."""
    interface: Interface | None = None
    """The network interface for traffic between nodes. Default: the one of the default route."""
    cluster_cidr: Annotated[Networks, _said(["10.42.0.0/16", "2001:db8:42::/56"])] = ("10.42.0.0/16",)
    """The pods' network; two, of IPv4 and of IPv6, make dual stack. Default: 10.42.0.0/16."""
    service_cidr: Annotated[Networks, _said(["10.43.0.0/16", "2001:db8:43::/112"])] = ("10.43.0.0/16",)
    """The services' network, of the same families in the same order. Default: 10.43.0.0/16."""


class Window(Settings):
    """When a host may reboot for an update of its OS."""

    start: Annotated[str, _text(fields.clock), _said("03:30", unit="HH:MM, UTC")] = "02:00"
    """Start, HH:MM in UTC. Default: 02:00."""
    length: Annotated[str, _text(fields.length)] = "1h"
    """How long, like 30m, 1h or 1h30m; less than 24h. Default: 1h."""
    days: tuple[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ...] = ()
    """On which days; on Flatcar one at most. Default: every day."""
    stagger: StrictBool = True
    """Whether hosts have windows of their own. Default: true.

    Servers one after the other from the start, agents spread (by their names) over the first four windows: with 1h
    from 02:00, at 02:00, 03:00, 04:00 or 05:00. False: all hosts at the start."""


class Update(Settings):
    """How the OS updates itself."""

    strategy: Annotated[Literal["reboot", "etcd-lock", "off"], _said("off")] = "reboot"
    """reboot: in the window; etcd-lock: with a lock in an etcd (Flatcar); off: never by itself. Default: reboot."""
    window: Window = Window()
    """The window for reboots."""


class Os(Settings):
    """The operating system."""

    name: Literal["flatcar", "fcos"] = "flatcar"
    """flatcar: Flatcar Container Linux; fcos: Fedora CoreOS (has no reset). Default: flatcar."""
    arch: Literal["amd64", "arm64"] = "amd64"
    """The processor, for what hosts fetch by the lock file. Default: amd64."""
    update: Update = Update()
    """Updates of the OS."""


class Artifacts(Settings):
    """Programs and system extensions that hosts get beside k3s, each pinned to a release.

    They need a lock file: `./doit lock`."""

    etcdctl: Annotated[Annotated[str, _text(fields.release_tag)] | None, _said("v3.6.7")] = None
    """The release of etcd whose etcdctl and etcdutl servers on etcd get: vX.Y.Z. Default: none."""
    rclone: Annotated[Annotated[str, _text(fields.release_tag)] | None, _said("v1.71.0")] = None
    """The release of rclone: vX.Y.Z. Default: none."""
    age: Annotated[Annotated[str, _text(fields.release_tag)] | None, _said("v1.3.1")] = None
    """The release of age: vX.Y.Z. Default: none."""
    sysexts: dict[Annotated[str, _text(fields.sysext)], Annotated[str, _text(fields.sysext_version)] | None] = Field(
        default_factory=dict
    )
    """System extensions of Flatcar's bakery (extensions.flatcar.org), NAME: VERSION; null for none. Default: none."""


class File(Settings):
    """A file on the host."""

    path: Annotated[str, _text(fields.file_path)]
    """Where it goes: an absolute path."""
    mode: Mode = 0o644
    """Permissions, octal. Default: 0644."""
    contents: Annotated[str | None, _said("welcome\n")] = None
    """The text itself. Default: none, `local` says it."""
    local: Annotated[Local | None, _said("example.conf")] = None
    """Or a file below hosts/ENV/files/ that holds it. Default: none, `contents` says it."""
    user: User | None = None
    """Owner. Default: root."""
    group: User | None = None
    """Group. Default: root."""


class Dropin(Settings):
    """A file that changes a unit without replacing it."""

    name: Annotated[str, _text(fields.dropin)]
    """Its name, like 10-memory.conf."""
    contents: Annotated[str, _said("[Service]\nMemoryMax=1G\n")]
    """Its text."""


class Unit(Settings):
    """A systemd unit of the host."""

    name: Annotated[str, _text(fields.unit)]
    """Its name with suffix, like backup.timer."""
    enabled: StrictBool | None = None
    """Whether systemd starts it at boot. Default: as the OS has it."""
    contents: Annotated[str | None, _said("[Service]\nExecStart=/opt/bin/backup\n")] = None
    """Its text. Default: none, the unit comes with the OS."""
    dropins: tuple[Dropin, ...] = ()
    """Drop-ins. Default: none."""


class Ssh(Settings):
    """How i12e reaches the hosts: with the OpenSSH of your machine, whose own config, agent and known hosts count."""

    user: Annotated[str, _text(fields.user), _said("core")] = "core"
    """The user to log in as, who may run anything by `sudo -n`. Default: core."""
    port: Annotated[StrictInt, Field(ge=1, le=65535), _said(2222, unit="a TCP port")] = 22
    """The port. Default: 22."""
    address: Annotated[str, _text(fields.machine)] | None = None
    """The address or name to connect to, for a host that is reached otherwise than by its first address.
    Default: the host's first address."""
    config: Annotated[Local | None, _said("ssh_config")] = None
    """A config file of ssh in the environment's own directory, used instead of yours (ssh -F). Default: none, yours."""


class Shared(Settings):
    """What a cluster's file says for all hosts, and a host's file may say for itself."""

    k3s: K3s
    """k3s itself."""
    api: Api
    """Where the Kubernetes API is reached."""
    network: Network = Network()
    """The hosts' network and the cluster's."""
    os: Os = Os()
    """The operating system and its updates."""
    ssh_keys: Annotated[tuple[SshKey, ...], _ONE_OR_MORE, Field(min_length=1)]
    """The public keys that may log in as `core`, one at least."""
    mirror: Annotated[str, _text(fields.url)] | None = None
    """The base URL that artifacts are fetched from. Default: where their makers publish them."""
    artifacts: Artifacts = Artifacts()
    """Programs and system extensions beside k3s."""
    ssh: Ssh = Ssh()
    """How the hosts are reached."""
    keep: tuple[Keep, ...] = ()
    """Further paths that a reset keeps, of letters, digits and . _ / @ : - only. Default: none."""
    keep_images: StrictBool = False
    """Whether a reset keeps the images and containers that the host has, so that they are not pulled again.
    Default: false, containerd starts empty."""


class Release(Settings):
    """A Helm release. Its values are templates/helm/RELEASE.yaml.j2, or templates/local/helm/RELEASE.yaml.j2."""

    chart: Annotated[str, _text(fields.chart)] | None = None
    """The chart: its name in the repository, oci://HOST/PATH, or a path below the checkout, ./PATH.
    Default: none, for a packaged one."""
    repository: Annotated[Annotated[str, _text(fields.url)] | None, _said("https://charts.example.com")] = None
    """The URL of the repository that has the chart. Default: none, for one of an OCI registry or of the checkout."""
    version: Annotated[str, _text(fields.chart_version)] | None = None
    """The chart's version, pinned. Default: none, for a chart of the checkout."""
    namespace: Annotated[Label | None, _said("monitoring")] = None
    """The namespace that it goes to, which is made if it is not there. Default: none, for a packaged one."""
    manifest: StrictBool = False
    """Whether the servers hand it to k3s, which installs it and keeps it so. Default: false, you run helm yourself."""
    failure_policy: Literal["abort", "reinstall"] = "abort"
    """What k3s does when an upgrade fails. abort: nothing; reinstall: it uninstalls the release first, with its data.
    Default: abort."""
    packaged: StrictBool = False
    """Whether it is a chart that k3s brings itself (traefik, traefik-crd): only values and failure_policy are yours.
    Default: false."""


Releases = Annotated[
    dict[Annotated[str, _text(fields.release)], Release],
    _said({"app": {"chart": "oci://registry.example.com/charts/app", "version": "1.2.3", "namespace": "web"}}),
]


class S3(Settings):
    """A bucket of S3, or of what speaks its language."""

    bucket: Annotated[str, _text(fields.bucket)]
    """The bucket, which has to be there."""
    region: Annotated[str, _text(fields.region)] | None = None
    """The region that it is in. Default: what the machine's own settings of AWS say."""
    endpoint: Annotated[str, _text(fields.endpoint)] | None = None
    """The URL of the service, where it is not Amazon's. Default: Amazon's."""
    path_style: StrictBool = False
    """Whether the bucket stands in the URL's path and not in the host's name, as most own servers want it.
    Default: false."""
    prefix: Annotated[str, _text(fields.prefix)] = ""
    """The folder in the bucket. Default: none, the bucket itself."""
    lock_days: Annotated[StrictInt, Field(ge=1, le=36500), _said(30, unit="days")] | None = None
    """For how many days nobody can delete a backup (object lock, which the bucket must have).
    Default: none, not locked."""


class Store(Settings):
    """A place that backups go to: a folder, a bucket or a remote of rclone's."""

    name: Annotated[Label, _said("nas")]
    """Its name, by which tasks and secrets/ENV/backup.yaml call it."""
    folder: Annotated[str, _text(fields.folder)] | None = None
    """A folder of the machine that takes the backup. Default: none, it is of another kind."""
    s3: S3 | None = None
    """A bucket. Its keys are secrets/ENV/backup.yaml: NAME: {access_key, secret_key}, perhaps session_token.
    Default: none, it is of another kind."""
    rclone: Annotated[str, _text(fields.remote)] | None = None
    """A remote of rclone's, REMOTE:PATH. Its config is secrets/ENV/backup.yaml: NAME: {rclone_conf: ...}, or your own.
    Default: none, it is of another kind."""

    @property
    def kind(self) -> str:
        """Which kind of place it is: folder, s3 or rclone."""
        return next((kind for kind in STORES if getattr(self, kind) is not None), "")


STORES = ("folder", "s3", "rclone")
"""The kinds of stores; one of them has exactly one."""


class Retention(Settings):
    """Which backups a prune keeps: each that one of these rules names. It always keeps the newest good one."""

    last: Annotated[StrictInt, Field(ge=0, le=10000), _said(3, unit="backups")] = 7
    """The newest, however many there are a day. Default: 7."""
    hourly: Annotated[StrictInt, Field(ge=0, le=10000), _said(48, unit="backups")] = 24
    """The newest of each of the last hours that have one. Default: 24."""
    daily: Annotated[StrictInt, Field(ge=0, le=10000), _said(14, unit="backups")] = 7
    """The newest of each of the last days (UTC) that have one. Default: 7."""
    weekly: Annotated[StrictInt, Field(ge=0, le=10000), _said(8, unit="backups")] = 5
    """The newest of each of the last weeks (Monday to Sunday, UTC) that have one. Default: 5."""
    monthly: Annotated[StrictInt, Field(ge=0, le=10000), _said(24, unit="backups")] = 12
    """The newest of each of the last months (UTC) that have one. Default: 12."""


class ExtraPath(Settings):
    """A path on hosts that backups have too: with links, permissions and owners, without other file systems in it."""

    path: Annotated[str, _text(fields.backed_up)]
    """The path: a folder with all that is in it, or a file."""
    hosts: Annotated[tuple[Label, ...], _ONE_OR_MORE, Field(min_length=1), _said(["server-1"])] | None = None
    """The hosts that have it, servers or agents. Default: all hosts."""
    before: Annotated[Script, _said("systemctl stop app")] | None = None
    """A command that is run on the host, as root, before the files are read: one that makes them whole.
    Default: none, the files are as after a power failure."""
    after: Annotated[Script, _said("systemctl start app")] | None = None
    """A command that is run on the host, as root, when the files were read, also when that failed. Default: none."""

    def on(self, host: str) -> bool:
        """Given a host's name, tell whether the path is to be taken from it."""
        return self.hosts is None or host in self.hosts


class Alarm(Settings):
    """Somebody to be told of a backup that failed or is too old: by a command, a webhook, Pushover or a ping."""

    command: Annotated[Command, _said(["/usr/local/bin/notify", "backup"])] | None = None
    """A program of the machine that takes the backup, with arguments; it gets what happened as JSON on its input.
    Default: none, it is of another kind."""
    webhook: KeyName | None = None
    """A POST of JSON. The URL is a secret: secrets/ENV/alarms.yaml has it, under this key.
    Default: none, it is of another kind."""
    pushover: StrictBool = False
    """A message by Pushover; secrets/ENV/pushover.yaml has user_key and token.
    Default: false, it is of another kind."""
    ping: Annotated[KeyName, _said("healthchecks")] | None = None
    """A URL that every good backup calls, and URL/fail every failed one, as healthchecks.io has it: it tells also when
    nothing calls any more. The URL is a secret: secrets/ENV/alarms.yaml has it, under this key.
    Default: none, it is of another kind."""

    @property
    def kind(self) -> str:
        """Which kind of alarm it is: command, webhook, pushover or ping."""
        return next((kind for kind in ALARMS if getattr(self, kind)), "")


ALARMS = ("command", "webhook", "pushover", "ping")
"""The kinds of alarms; one of them has exactly one."""


class Backup(Settings):
    """Backups of the cluster: how often, where to, for how long, and who can open them."""

    recipients: Annotated[tuple[Recipient, ...], _ONE_OR_MORE] = ()
    """The age public keys whose private ones open the backups: of their own, apart from the keys of the repo's secrets.
    `./doit backup_keys` makes one. Default: none, and no backup can be taken."""
    every: Slot | None = None
    """The schedule: one backup in each span of this length, counted in UTC. It divides a day (5m, 30m, 1h, 6h...)
    or is whole days, up to 31d. Default: none, backups are taken by hand only."""
    fresh: Span = "1h"
    """How old the newest good backup may be for os_deploy to reset a host without taking a new one. Default: 1h."""
    stores: Annotated[tuple[Store, ...], _said([{"name": "nas", "folder": "/mnt/nas/backups"}])] = ()
    """Where backups go: each backup to all of them. Default: one folder, ~/.local/share/i12e/backups."""
    keep: Retention = Retention()
    """Which backups a prune keeps."""
    paths: Annotated[tuple[ExtraPath, ...], _said([{"path": "/srv/data", "hosts": ["server-1"]}])] = ()
    """What backups have of the hosts' files, beside what every backup has. Default: none."""
    alarms: Annotated[tuple[Alarm, ...], _said([{"command": ["/usr/local/bin/notify", "backup"]}])] = ()
    """Who is told when a backup failed or is too old. Default: none, only the exit status tells."""

    @property
    def slot_seconds(self) -> int | None:
        """The length of the schedule's slots in seconds, None without a schedule."""
        return None if self.every is None else fields.seconds(self.every)

    @property
    def fresh_seconds(self) -> int:
        """How old a fresh backup may be, in seconds."""
        return fields.seconds(self.fresh)


class Route53(Settings):
    """A hosted zone of Amazon's Route53. Its keys are secrets/ENV/dns.yaml: route53: {access_key, secret_key}, perhaps
    session_token; without them, AWS's own settings hold."""

    zone_id: Annotated[str, _text(fields.hosted_zone)]
    """The hosted zone's id."""


class Rfc2136(Settings):
    """A name server that takes dynamic updates (RFC 2136), signed by TSIG. The key's secret is secrets/ENV/dns.yaml:
    rfc2136: {secret}."""

    server: Annotated[str, _text(fields.machine), _said("192.0.2.53")]
    """The zone's primary server: its address or name."""
    port: Annotated[StrictInt, Field(ge=1, le=65535), _said(5353, unit="a TCP and UDP port")] = 53
    """Its port. Default: 53."""
    key_name: Annotated[DnsName, _said("i12e-key")]
    """The name of the key, as the server knows it."""
    algorithm: Literal["hmac-sha256", "hmac-sha224", "hmac-sha384", "hmac-sha512"] = "hmac-sha256"
    """The key's algorithm. Default: hmac-sha256."""


class Cloudflare(Settings):
    """A zone of Cloudflare's. Its token is secrets/ENV/dns.yaml: cloudflare: {token}."""

    zone_id: Annotated[str, _text(fields.cloud_zone)]
    """The zone's id, as the dashboard shows it."""


class Dns(Settings):
    """The API's name, kept equal to the healthy servers: no load balancer is needed."""

    provider: Annotated[Literal["route53", "rfc2136", "cloudflare", "none"], _said("rfc2136")]
    """Who has the zone. none: i12e tells what is to be entered by hand."""
    zone: Annotated[DnsName, _said("example.com")]
    """The zone that api.name is in."""
    ttl: Annotated[StrictInt, Field(ge=5, le=3600), _said(60, unit="seconds")] | None = None
    """For how long resolvers keep the addresses: so long a server that died is still asked for.
    Default: 30; with cloudflare 60, the least it takes (30 of zones of its Enterprise plan)."""
    join: Literal["name", "addresses"] = "name"
    """By what hosts join the cluster. name: by api.name alone, so that a new server changes no other host's config;
    addresses: by api.vip or the servers' own, for hosts whose resolver does not know the zone. With provider none,
    hosts join as without dns. Default: name."""
    route53: Route53 | None = None
    """The zone at Route53. Default: none, for another provider."""
    rfc2136: Rfc2136 | None = None
    """The zone at a name server of your own. Default: none, for another provider."""
    cloudflare: Cloudflare | None = None
    """The zone at Cloudflare. Default: none, for another provider."""

    @property
    def ttl_seconds(self) -> int:
        """The TTL that holds."""
        return self.ttl or (60 if self.provider == "cloudflare" else 30)


PROVIDERS = ("route53", "rfc2136", "cloudflare")
"""The providers of DNS that have settings of their own."""
_DNS = {"provider": "rfc2136", "zone": "example.com", "rfc2136": {"server": "192.0.2.53", "key_name": "i12e-key"}}


class Cluster(Shared):
    """A cluster's file, `cluster.yaml`."""

    name: Annotated[Label, _said("my-cluster")]
    """The cluster's name: small letters, digits and `-`."""
    helm: Releases = Field(default_factory=dict)
    """The Helm releases by their names. Default: none."""
    backup: Backup = Backup()
    """Backups."""
    dns: Annotated[Dns, _said(_DNS)] | None = None
    """How the API's name is kept. Default: none, it is yours to keep."""

    @property
    def join_name(self) -> str:
        """The name by which hosts join, "" where they do by the VIP or by addresses."""
        kept = self.dns is not None and self.dns.provider != "none" and self.dns.join == "name"
        return self.api.name if kept else ""


class Host(Shared):
    """A host's file, with what it has from its cluster."""

    name: str
    """The host's name: its file's."""
    cluster: str
    """The cluster's name."""
    env: str
    """The environment."""
    join_name: str
    """The name by which it joins the cluster, "" where it does by the VIP or by addresses."""
    role: Literal["server", "agent"]
    """server: runs the control plane and the datastore; agent: runs pods only."""
    addresses: Annotated[tuple[Address, ...], _ONE_OR_MORE, Field(min_length=1)]
    """The host's addresses, the first is the node's; in dual stack one of each family."""
    mac: Annotated[str, _text(fields.mac)] | None = None
    """The mac address of its network card. Default: not known."""
    labels: dict[Annotated[str, _text(fields.label_key)], Annotated[str, _text(fields.label_value)]] = Field(
        default_factory=dict
    )
    """The node's labels. Default: none."""
    taints: tuple[Annotated[str, _text(fields.taint)], ...] = ()
    """The node's taints, key=value:Effect. Default: none."""
    files: Annotated[tuple[File, ...], _said([{"path": "/etc/motd", "contents": "welcome\n"}])] = ()
    """Further files. Default: none."""
    units: Annotated[tuple[Unit, ...], _said([{"name": "fstrim.timer", "enabled": True}])] = ()
    """Further systemd units. Default: none."""
    butane: tuple[Local, ...] = ()
    """Butane snippets below hosts/ENV/butane/; what they say wins. Default: none."""


OWN = ("name", "cluster", "env", "join_name")
"""Fields of a Host that its file does not say: they come from the file's own place, and from the cluster."""
SHARED = frozenset(Shared.model_fields)
HOST_KEYS = frozenset(Host.model_fields) - set(OWN)

_Model = TypeVar("_Model", bound=Settings)

# what to write where a key that must be there is missing
_EXAMPLES: dict[Loc, str] = {
    ("name",): "name: my-cluster",
    ("k3s",): "k3s: {version: v1.35.4+k3s1}",
    ("k3s", "version"): "version: v1.35.4+k3s1",
    ("api",): "api: {name: k8s.example.com}",
    ("api", "name"): "name: k8s.example.com",
    ("api", "vip", "address"): "address: 192.0.2.10",
    ("api", "vip", "version"): "version: v1.0.1",
    ("api", "vip", "interface"): "interface: eth0",
    ("ssh_keys",): "ssh_keys: [ssh-ed25519 AAAA... name]",
    ("dns", "provider"): "provider: route53, rfc2136, cloudflare or none",
    ("dns", "zone"): "zone: example.com",
    ("role",): "role: server or role: agent",
    ("addresses",): "addresses: [192.0.2.11]",
}
# what a person probably meant by a key in a host's file where it is not the spelling
_MOVED: dict[Loc, str] = {
    ("name",): "the file's name is the host's name",
    ("k3s", "token"): "tokens are secrets: secrets/ENV/cluster.yaml",
    ("token",): "tokens are secrets: secrets/ENV/cluster.yaml",
    ("address",): "write addresses: [...]",
    ("helm",): "cluster.yaml has the releases",
    ("backup",): "cluster.yaml says it for all hosts",
    ("dns",): "cluster.yaml says it for all hosts",
}
# secrets that a person might write where the backups are described
_IN_BACKUP, _IN_ALARMS = (f"it is a secret: secrets/ENV/{name}.yaml" for name in ("backup", "alarms"))
_SECRET = {
    **dict.fromkeys(("access_key", "secret_key", "session_token", "rclone_conf", "password"), _IN_BACKUP),
    **dict.fromkeys(("url", "headers"), _IN_ALARMS),
    **dict.fromkeys(("token", "user_key"), "it is a secret: secrets/ENV/pushover.yaml"),
}
_IN_DNS = dict.fromkeys(
    ("access_key", "secret_key", "session_token", "token", "api_token", "secret", "key"),
    "it is a secret: secrets/ENV/dns.yaml",
)
# values that once were right: k3s#7297
_GONE: dict[Loc, str] = {
    ("backend", "ipsec"): "k3s v1.27 removed it, wireguard-native encrypts too",
    ("backend", "wireguard"): "k3s v1.27 removed it, write wireguard-native",
}
# text that a person wrote as a number, and that quotes alone would not mend
_LIKE = {
    "version": "like v1.35.4+k3s1",
    "length": "like 30m, 1h or 1h30m",
    "start": 'like "02:00"',
    "mac": 'like "52:54:00:12:34:56"',
    "addresses": "like 192.0.2.11",
    "address": "like 192.0.2.10",
    "hosts": "like 192.0.2.0/24",
    "every": "like 6h",
    "fresh": "like 1h",
}
_SHAPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_BOOLS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def check(model: type[_Model], data: Any) -> tuple[_Model | None, list[Fault]]:
    """Given a class and what a file says, return its instance, or None and all its faults."""
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
        return None, [_fault(model, dict(detail)) for detail in details]


def keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """Return the keys that a mapping at this path may have."""
    found: type[BaseModel] | None = model
    named = False
    for step in loc:
        if named:  # the name of an entry, as of a release: its class is the mapping's
            named = False
        elif isinstance(step, str) and found is not None:
            field = found.model_fields.get(step)
            named = field is not None and get_origin(field.annotation) is dict
            found = next(_models(field.annotation), None) if field else None
    keys = found.model_fields if found is not None else {}
    return [key for key in keys if found is not Host or key not in OWN]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the classes of ours inside an annotation like tuple[File, ...] or Vip | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models(part)


def _fault(model: type[Settings], detail: dict[str, Any]) -> Fault:
    """Given one finding of pydantic's, return it in plain words."""
    kind, value = detail["type"], detail.get("input")
    loc: Loc = detail["loc"]
    context = detail.get("ctx") or {}
    wrong = context.get("error")
    if loc[-1] == "[key]" and isinstance(wrong, Wrong):  # pydantic's mark of a mapping's key
        return Fault(loc[:-1], wrong.rule, wrong.remedy, key=True)
    if isinstance(wrong, Wrong):
        return Fault(loc, wrong.rule, wrong.remedy, shown(value) if wrong.show else "")
    if kind == "extra_forbidden":
        return unknown_key(model, loc)
    if kind == "missing":
        example = _EXAMPLES.get(loc, "")
        return Fault(loc, "is missing", example and f"write {example}")
    if kind == "literal_error":
        return _choice(loc, value, context["expected"])
    if kind in _SHAPES:
        return _shape(loc, value, _SHAPES[kind])
    return _measure(loc, kind, value, context)


def shown(value: Any) -> str:
    """Return a value for a message: text in quotes, nothing when it is long or no scalar."""
    if value is None or isinstance(value, dict | list | tuple):
        return ""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 and text.isprintable() else ""


def unknown_key(model: type[BaseModel], loc: Loc) -> Fault:
    """Given the path of a key that does not exist, return what to say about it."""
    known = keys_at(model, loc[:-1])
    name = str(loc[-1])
    remedy = _MOVED.get(loc, "") if model is Host else ""
    if model is Cluster and len(loc) == 1 and name in HOST_KEYS:
        remedy = "a host's file says it, not the cluster's"
    if model is Cluster and loc[0] == "backup":
        remedy = _SECRET.get(name, "")
    if model is Cluster and loc[0] == "dns":
        remedy = _IN_DNS.get(name, "")
    remedy = remedy or did_you_mean(name, known) or _elsewhere(model, name)
    remedy = remedy or (f"known: {', '.join(sorted(known))}" if known else "")
    return Fault(loc, "is not a known key", remedy, key=True)


def _elsewhere(model: type[BaseModel], name: str) -> str:
    """Return where a key of this name belongs."""
    for section, field in model.model_fields.items():
        for part in _models(field.annotation):
            if name in part.model_fields:
                return f"write it below {section}:"
    return ""


def _choice(loc: Loc, value: Any, expected: str) -> Fault:
    words = expected.replace("'", "").replace(" or ", ", ").split(", ")
    if value is None:
        return Fault(loc, "is empty", f"one of {', '.join(words)}")
    remedy = _GONE.get((loc[-1], value), "") if isinstance(value, str) else ""
    for spelling in (value.lower(), value.capitalize()) if isinstance(value, str) else ():
        remedy = remedy or did_you_mean(spelling, words)
    return Fault(loc, f"is not one of {', '.join(words)}", remedy, shown(value))


def _shape(loc: Loc, value: Any, wanted: str) -> Fault:
    """Say that a value has the wrong shape, and how to write it."""
    if value is None:
        return Fault(loc, "is empty", f"give it {wanted}, or delete the key")
    remedy = ""
    if wanted == "text" and isinstance(value, bool | int | float):
        remedy = _LIKE.get(next((s for s in reversed(loc) if isinstance(s, str)), ""), "")
        remedy = remedy or "put it in quotes"
    elif wanted == "true or false" and isinstance(value, str):
        remedy = f"write {_BOOLS[value.lower()]}" if value.lower() in _BOOLS else ""
    elif wanted == "a list" and isinstance(value, str):
        remedy = "put it in [ ]"
    is_a = {dict: "a mapping", list: "a list", str: "text", bool: "a bool", tuple: "a list"}
    found = "" if shown(value) else f"is {is_a.get(type(value), 'a value')}, "
    return Fault(loc, f"{found}{'not' if found else 'is not'} {wanted}", remedy, shown(value))


def _measure(loc: Loc, kind: str, value: Any, context: dict[str, Any]) -> Fault:
    """Say that a value is too big or too small."""
    if kind == "too_short":
        return Fault(loc, "is an empty list", "one at least")
    if kind == "too_long":
        return Fault(loc, f"has more than {context['max_length']} entries")
    if kind == "greater_than_equal":
        return Fault(loc, f"is less than {context['ge']}", "", shown(value))
    if kind == "less_than_equal":
        return Fault(loc, f"is more than {context['le']}", "", shown(value))
    return Fault(loc, "has a value that does not fit", "", shown(value))
