"""What Kubernetes keeps in its datastore below /registry/: which resource a key is of, and what a value says.

Keys: built-in resources lie below their own name, whatever their group, with the exceptions in
SpecialDefaultResourcePrefixes (kubernetes pkg/kubeapiserver/default_storage_factory_builder.go); custom resources, and
two groups of the apiserver itself, below GROUP/PLURAL. A group has a dot, which tells the two apart. The table was
made of test/integration/etcd/data.go of Kubernetes 1.36, which names the path of every resource.

Values: JSON (custom resources, the apiserver's own groups), or `k8s\\0` and a runtime.Unknown of Protocol Buffers
around the object; encrypted ones begin with `k8s:enc:PROVIDER:v1:KEY:` (apiserver pkg/storage/value/encrypt).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from i12e import ciphers, protobuf
from i12e.damaged import Damaged
from i12e.secrets import Secret

ROOT = b"/registry/"
KUBE_SYSTEM = b"/registry/namespaces/kube-system"
"""The key of the namespace whose UID is taken for the cluster's own."""
VOLUMES = "persistentvolumes"
"""The prefix of PersistentVolumes."""
HOSTNAME = "kubernetes.io/hostname"
"""The label of a node by which a volume that lies on it is bound to it."""


class Resource(NamedTuple):
    """A resource of the API: its group, empty for the core group, and its name in the plural."""

    group: str
    plural: str


_BUILT_IN = {
    "": """configmaps endpoints events limitranges namespaces nodes persistentvolumeclaims persistentvolumes pods
           podtemplates replicationcontrollers resourcequotas secrets serviceaccounts services""",
    "admissionregistration.k8s.io": """mutatingadmissionpolicies mutatingadmissionpolicybindings
           mutatingwebhookconfigurations validatingadmissionpolicies validatingadmissionpolicybindings
           validatingwebhookconfigurations""",
    "apps": "controllerrevisions daemonsets deployments replicasets statefulsets",
    "autoscaling": "horizontalpodautoscalers",
    "batch": "cronjobs jobs",
    "certificates.k8s.io": "certificatesigningrequests clustertrustbundles podcertificaterequests",
    "coordination.k8s.io": "leasecandidates leases",
    "discovery.k8s.io": "endpointslices",
    "flowcontrol.apiserver.k8s.io": "flowschemas prioritylevelconfigurations",
    "internal.apiserver.k8s.io": "storageversions",
    "networking.k8s.io": "ingressclasses ingresses ipaddresses networkpolicies servicecidrs",
    "node.k8s.io": "runtimeclasses",
    "policy": "poddisruptionbudgets",
    "rbac.authorization.k8s.io": "clusterrolebindings clusterroles rolebindings roles",
    "resource.k8s.io": """deviceclasses devicetaintrules resourceclaims resourceclaimtemplates
           resourcepoolstatusrequests resourceslices""",
    "scheduling.k8s.io": "podgroups priorityclasses workloads",
    "storage.k8s.io": """csidrivers csinodes csistoragecapacities storageclasses volumeattachments
           volumeattributesclasses""",
    "storagemigration.k8s.io": "storageversionmigrations",
}
_ELSEWHERE = {
    "endpoints": "services/endpoints",
    "ingresses": "ingress",
    "nodes": "minions",
    "replicationcontrollers": "controllers",
    "services": "services/specs",
}
RESOURCES = {
    _ELSEWHERE.get(plural, plural): Resource(group, plural)
    for group, plurals in _BUILT_IN.items()
    for plural in plurals.split()
}
"""The built-in resources by their prefix, but for those that lie below GROUP/PLURAL."""

INTERNAL = frozenset({"masterleases", "peerserverleases", "ranges"})
"""Prefixes of what the apiserver keeps for itself: no API shows it."""

_PROTOBUF = b"k8s\0"
_ENCRYPTED = b"k8s:enc:"
_UNKNOWN_RAW, _METADATA, _UID, _SECRET_DATA = 2, 1, 5, 2  # numbers of protobuf fields
_MAP_KEY, _MAP_VALUE = 1, 2
# The way from a PersistentVolume to what it demands of nodes: spec.nodeAffinity.required.nodeSelectorTerms[].
# matchExpressions[], and of such a one key, operator and values (k8s.io/api/core/v1/types.go).
_SPEC, _AFFINITY, _REQUIRED, _TERMS, _EXPRESSIONS = 2, 9, 1, 1, 1
_KEY, _OPERATOR, _VALUES = 1, 2, 3


class Unreadable(Exception):
    """An encrypted value that the encryption config does not open; says why, and nothing of either."""


def prefix(key: bytes) -> str | None:
    """Given a key of the datastore, return its resource's prefix ("pods", "services/specs", "k3s.cattle.io/addons").

    None if it is no object's key: not below /registry/, or nothing follows the prefix (kine's own /registry/health).
    """
    if not key.startswith(ROOT):
        return None
    first, _, rest = key[len(ROOT) :].partition(b"/")
    if b"." in first or first == b"services":
        second, _, rest = rest.partition(b"/")
        first += b"/" + second
    return first.decode("utf-8", "backslashreplace") if rest else None


def resource(prefix: str) -> Resource | None:
    """Given a prefix, return the resource of the API that lies there; None if that is not known, or there is none."""
    group, found, plural = prefix.partition("/")
    if found and "." in group:
        return Resource(group, plural)
    return RESOURCES.get(prefix)


def uid_of(value: bytes) -> str:
    """Given an object's value, return its UID; raise Damaged if it has none, or is encrypted."""
    if value.startswith(_PROTOBUF):
        metadata = protobuf.bytes_of(_object(value), _METADATA)
        raw = None if metadata is None else protobuf.bytes_of(metadata, _UID)
        uid = None if raw is None else raw.decode("ascii", "replace")
    else:
        metadata = _json(value).get("metadata")
        uid = metadata.get("uid") if isinstance(metadata, dict) else None
    if not uid or not isinstance(uid, str) or not uid.isascii():
        raise Damaged("an object has no UID")
    return uid


def secret_data(value: bytes) -> dict[str, Secret]:
    """Given a Secret's value, decrypted, return its data; raise Damaged if it is none.

    Bytes that are no UTF-8 are in it as surrogate escapes (PEP 383).
    """
    if value.startswith(_PROTOBUF):
        return {key: _secret(content) for key, content in _map(_object(value), _SECRET_DATA)}
    data = _json(value).get("data") or {}
    if not isinstance(data, dict) or not all(isinstance(content, str) for content in data.values()):
        raise Damaged("a Secret's data is not a mapping to texts")
    try:
        return {key: _secret(base64.b64decode(content, validate=True)) for key, content in data.items()}
    except (binascii.Error, ValueError):
        raise Damaged("a Secret's data is no base64") from None


def node_key(name: str) -> bytes:
    """Given a node's name, return its key in the datastore."""
    return ROOT + b"minions/" + name.encode()


def hosts_of(value: bytes) -> frozenset[str]:
    """Given a PersistentVolume's value, return the hosts by whose names it is bound to nodes; raise Damaged.

    None of them where it may be on any node, or is bound by another label.
    """
    if not value.startswith(_PROTOBUF):
        return bound_to(_json(value))
    below = [_object(value)]
    for number in (_SPEC, _AFFINITY, _REQUIRED, _TERMS, _EXPRESSIONS):
        below = [part for message in below for part in _texts(message, number)]
    found: set[str] = set()
    for expression in below:
        key, operator = protobuf.bytes_of(expression, _KEY), protobuf.bytes_of(expression, _OPERATOR)
        if key == HOSTNAME.encode() and operator == b"In":
            found.update(host.decode("utf-8", "replace") for host in _texts(expression, _VALUES))
    return frozenset(found)


def bound_to(volume: dict[str, Any]) -> frozenset[str]:
    """Given a PersistentVolume as the API has it, return what hosts_of() returns; raise Damaged."""
    try:
        required = ((volume["spec"].get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or []
        return frozenset(
            str(host)
            for term in required
            for each in term.get("matchExpressions") or []
            if each.get("key") == HOSTNAME and each.get("operator") == "In"
            for host in each.get("values") or []
        )
    except (KeyError, TypeError, AttributeError):
        raise Damaged("a PersistentVolume is none") from None


def decrypted(key: bytes, value: bytes, config: Secret | None) -> bytes:
    """Given a key, its value and the EncryptionConfig of the bootstrap row, return the value in clear.

    A value that is not encrypted is returned as it is, and needs no config. Raise Unreadable if the config, which is
    JSON, has no key that opens it, or the value is of a provider whose key is elsewhere (kms).
    """
    if not value.startswith(_ENCRYPTED):
        return value
    provider, version, name, sealed = _sealed(value)
    if version != "v1" or provider not in ("aescbc", "aesgcm", "secretbox"):
        raise Unreadable(f"a value is encrypted by {provider} {version}, whose key is not in the bootstrap row")
    if config is None:
        raise Unreadable(f"a value is encrypted by {provider}, and there is no encryption config")
    for candidate in _keys(config, provider, name):
        try:
            if provider == "aesgcm":
                return ciphers.open_gcm(candidate, sealed, key)
            if provider == "aescbc":
                return ciphers.open_cbc(candidate, sealed)
            return ciphers.open_box(candidate, sealed)
        except ciphers.Unopened:
            continue
    raise Unreadable(f"no key of the encryption config opens a value that is encrypted by {provider}")


def _sealed(value: bytes) -> tuple[str, str, str, bytes]:
    """Given an encrypted value, return provider, version, the key's name and what is sealed."""
    parts = value[len(_ENCRYPTED) :].split(b":", 3)
    if len(parts) < 4:
        raise Unreadable("a value begins as an encrypted one and is none")
    provider, version, name = (part[:80].decode("ascii", "replace") for part in parts[:3])
    return provider, version, name, parts[3]


def _keys(config: Secret, provider: str, name: str) -> Iterator[bytes]:
    """Yield the keys of that provider and name, of whatever resources: after a change there may be several."""
    wrong = Unreadable("the encryption config is not what Kubernetes takes")
    try:
        parsed: Any = json.loads(config.reveal())
        for entry in parsed["resources"]:
            for offered in entry["providers"]:
                for key in (offered.get(provider) or {}).get("keys", ()):
                    if key["name"] == name:
                        yield base64.b64decode(key["secret"], validate=True)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise wrong from None


def _object(value: bytes) -> bytes:
    raw = protobuf.bytes_of(value[len(_PROTOBUF) :], _UNKNOWN_RAW)
    if raw is None:
        raise Damaged("a Kubernetes value has no object in it")
    return raw


def _texts(message: bytes, wanted: int) -> Iterator[bytes]:
    """Given a message and the number of a field that may be there often, yield what is in it; raise Damaged."""
    for number, value in protobuf.fields(message):
        if number == wanted:
            if isinstance(value, int):
                raise Damaged(f"the protobuf field {wanted} is a number")
            yield value


def _map(message: bytes, wanted: int) -> Iterator[tuple[str, bytes]]:
    """Given a message and the number of a map from texts to bytes, yield what is in it."""
    for entry in _texts(message, wanted):
        key = protobuf.bytes_of(entry, _MAP_KEY) or b""
        yield key.decode("utf-8", "replace"), protobuf.bytes_of(entry, _MAP_VALUE) or b""


def _json(value: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        raise Damaged("an object is neither JSON nor Kubernetes' protobuf") from None
    if not isinstance(parsed, dict):
        raise Damaged("an object is JSON, but no mapping")
    return parsed


def _secret(content: bytes) -> Secret:
    return Secret(content.decode("utf-8", "surrogateescape"))
