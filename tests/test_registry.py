"""What keys and values of Kubernetes say; values as Kubernetes writes them, made here byte by byte."""

from __future__ import annotations

import base64
import contextlib
import json
import os

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from nacl.secret import SecretBox

import rows
from i12e import protobuf, registry
from i12e.damaged import Damaged
from i12e.registry import Resource, Unreadable
from i12e.secrets import Secret

UID = "8a5c3f5e-5f0d-4ad3-9d83-0a1a5b0c7e11"
KEY = b"/registry/secrets/kube-system/sentinel"


@pytest.mark.parametrize(
    ("key", "prefix", "resource"),
    [
        ("/registry/pods/default/web-1", "pods", Resource("", "pods")),
        ("/registry/minions/server-1", "minions", Resource("", "nodes")),
        ("/registry/services/specs/default/web", "services/specs", Resource("", "services")),
        ("/registry/services/endpoints/default/web", "services/endpoints", Resource("", "endpoints")),
        ("/registry/controllers/default/rc", "controllers", Resource("", "replicationcontrollers")),
        ("/registry/ingress/default/web", "ingress", Resource("networking.k8s.io", "ingresses")),
        ("/registry/ingressclasses/traefik", "ingressclasses", Resource("networking.k8s.io", "ingressclasses")),
        ("/registry/deployments/default/web", "deployments", Resource("apps", "deployments")),
        ("/registry/clusterroles/system:node", "clusterroles", Resource("rbac.authorization.k8s.io", "clusterroles")),
        (
            "/registry/apiregistration.k8s.io/apiservices/v1.apps",
            "apiregistration.k8s.io/apiservices",
            Resource("apiregistration.k8s.io", "apiservices"),
        ),
        (
            "/registry/apiextensions.k8s.io/customresourcedefinitions/addons.k3s.cattle.io",
            "apiextensions.k8s.io/customresourcedefinitions",
            Resource("apiextensions.k8s.io", "customresourcedefinitions"),
        ),
        ("/registry/k3s.cattle.io/addons/kube-system/ccm", "k3s.cattle.io/addons", Resource("k3s.cattle.io", "addons")),
        ("/registry/masterleases/192.0.2.11", "masterleases", None),
        ("/registry/ranges/serviceips", "ranges", None),
        ("/registry/inventions/default/new", "inventions", None),
    ],
)
def test_a_key_is_of_a_resource(key: str, prefix: str, resource: Resource | None) -> None:
    assert registry.prefix(key.encode()) == prefix
    assert registry.resource(prefix) == resource


@pytest.mark.parametrize(
    "key", [b"", b"/bootstrap/0123456789ab", b"/registry/", b"/registry/health", b"compact_rev_key", b"/registry/a.b/c"]
)
def test_what_is_no_objects_key_has_no_prefix(key: bytes) -> None:
    assert registry.prefix(key) is None


@given(st.binary(max_size=60))
def test_any_bytes_may_be_a_key(key: bytes) -> None:
    registry.prefix(registry.ROOT + key)


def test_every_built_in_resource_has_one_prefix_and_is_not_internal() -> None:
    assert len(set(registry.RESOURCES.values())) == len(registry.RESOURCES)
    assert not registry.INTERNAL & set(registry.RESOURCES)
    assert len(registry.RESOURCES) == sum(len(plurals.split()) for plurals in registry._BUILT_IN.values())


def message(*fields: tuple[int, bytes | int]) -> bytes:
    """Given numbers and values, return a protobuf message."""
    made = b""
    for number, value in fields:
        if isinstance(value, int):
            made += number_of(number << 3) + number_of(value)
        else:
            made += number_of(number << 3 | 2) + number_of(len(value)) + value
    return made


def number_of(number: int) -> bytes:
    """Given a number, return it as a varint."""
    made = b""
    while number > 127:
        made += bytes([number & 127 | 128])
        number >>= 7
    return made + bytes([number])


def stored(kind: str, *fields: tuple[int, bytes | int]) -> bytes:
    """Given an object's kind and fields besides its metadata, return it as the apiserver stores it."""
    metadata = message((1, b"sentinel"), (2, b""), (3, b"kube-system"), (4, b""), (5, UID.encode()), (6, b""), (7, 0))
    raw = message((1, metadata), *fields)
    return b"k8s\0" + message((1, message((1, b"v1"), (2, kind.encode()))), (2, raw), (3, b""), (4, b""))


SECRET = stored(
    "Secret", (2, message((1, b"value"), (2, b"planted \xff"))), (2, message((1, b"empty"))), (3, b"Opaque")
)


def test_the_uid_is_read_from_both_forms() -> None:
    assert registry.uid_of(stored("Namespace", (2, b""))) == UID
    assert registry.uid_of(json.dumps({"kind": "Namespace", "metadata": {"uid": UID}}).encode()) == UID


WITHOUT = [
    *(
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"metadata": 5}',
        b'{"metadata": {"uid": ""}}',
        b'{"metadata": {"uid": 5}}',
        b"[" * 9999,
    ),
    *(b"k8s\0", b"k8s\0" + message((2, b"")), b"k8s\0" + message((2, 5)), b"k8s\0" + message((2, message((1, b""))))),
    *(b"k8s\0" + b"\x80" * 20, b"k8s\0" + b"\x12\xff\xff\xff\xff\x0f", b"k8s\0\x13", b"k8s\0\x02\x00", b"\xff"),
]


@pytest.mark.parametrize("value", WITHOUT, ids=range(len(WITHOUT)))
def test_a_value_without_a_uid_is_damaged(value: bytes) -> None:
    with pytest.raises(Damaged):
        registry.uid_of(value)


def test_the_data_of_a_secret_is_read_from_both_forms_and_not_shown() -> None:
    data = {"value": base64.b64encode(b"planted \xff").decode(), "empty": ""}
    for value in (SECRET, json.dumps({"kind": "Secret", "data": data}).encode()):
        found = registry.secret_data(value)
        assert {key: content.reveal() for key, content in found.items()} == {"value": "planted \udcff", "empty": ""}
        assert "planted" not in repr(found)
    assert registry.secret_data(b'{"kind": "Secret"}') == {}


def affinity(*expressions: tuple[str, str, tuple[str, ...]]) -> bytes:
    """Given keys, operators and values, return a PersistentVolume that demands them, each in a term of its own."""
    made = [
        message((1, key.encode()), (2, operator.encode()), *((3, value.encode()) for value in values))
        for key, operator, values in expressions
    ]
    required = message(*((1, message((1, each))) for each in made))
    spec = message((1, b""), (5, b"Delete"), (9, message((1, required))), (8, b"Filesystem"))
    return stored("PersistentVolume", (2, spec), (3, message((1, b"Bound"))))


def as_json(*expressions: tuple[str, str, tuple[str, ...]]) -> bytes:
    """Return the same as JSON."""
    terms = [
        {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}
        for key, operator, values in expressions
    ]
    return json.dumps({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}}).encode()


EXPRESSIONS = st.lists(
    st.tuples(
        st.sampled_from((registry.HOSTNAME, "topology.kubernetes.io/zone")),
        st.sampled_from(("In", "NotIn")),
        st.lists(st.sampled_from(("agent-1", "agent-2", "agent-3")), max_size=2).map(tuple),
    )
)


@given(EXPRESSIONS)
def test_the_hosts_that_a_volume_is_bound_to_are_read_from_both_forms(
    expressions: list[tuple[str, str, tuple[str, ...]]],
) -> None:
    wanted = {
        host for key, operator, values in expressions if (key, operator) == (registry.HOSTNAME, "In") for host in values
    }
    assert registry.hosts_of(affinity(*expressions)) == registry.hosts_of(as_json(*expressions)) == wanted


def test_a_volume_that_may_be_anywhere_is_bound_to_no_host() -> None:
    for value in (stored("PersistentVolume", (2, message((5, b"Delete")))), b'{"spec": {}}'):
        assert registry.hosts_of(value) == set()


@pytest.mark.parametrize(
    "value", [b"k8s\0", stored("PersistentVolume", (2, 5)), b"k8s:enc:aescbc:v1:a:b", b"{}", b'{"spec": []}', b"[]"]
)
def test_what_is_no_volume_is_damaged(value: bytes) -> None:
    with pytest.raises(Damaged):
        registry.hosts_of(value)


@given(st.binary(max_size=80))
def test_any_bytes_may_be_a_volumes_value(value: bytes) -> None:
    for content in (value, b"k8s\0" + value):
        with contextlib.suppress(Damaged):
            registry.hosts_of(content)


@pytest.mark.parametrize(
    "value", [b'{"data": 5}', b'{"data": {"a": 5}}', b'{"data": {"a": "?planted"}}', b"k8s\0\x12\x02\x10\x01"]
)
def test_what_is_no_secret_is_damaged_and_not_shown(value: bytes) -> None:
    with pytest.raises(Damaged) as caught:
        registry.secret_data(value)
    assert "planted" not in str(caught.value)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_damaged(value: bytes) -> None:
    for read in (registry.uid_of, registry.secret_data):
        for form in (value, b"k8s\0" + value):
            with contextlib.suppress(Damaged):
                read(form)


@given(st.lists(st.tuples(st.integers(1, 2**28), st.binary(max_size=300) | st.integers(0, 2**64 - 1)), max_size=8))
def test_the_fields_of_a_message_are_read_as_they_were_written(fields: list[tuple[int, bytes | int]]) -> None:
    assert list(protobuf.fields(message(*fields))) == fields


def test_fields_of_fixed_size_are_read() -> None:
    assert list(protobuf.fields(b"\x09" + b"12345678" + b"\x15" + b"1234")) == [(1, b"12345678"), (2, b"1234")]


def aescbc(key: bytes, plain: bytes) -> bytes:
    """Encrypt as the provider aescbc does."""
    iv, pad = os.urandom(16), 16 - len(plain) % 16
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return iv + cipher.update(plain + bytes([pad]) * pad) + cipher.finalize()


def aesgcm(key: bytes, plain: bytes, place: bytes = KEY) -> bytes:
    """Encrypt as the provider aesgcm does: bound to the key in the datastore."""
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plain, place)


def secretbox(key: bytes, plain: bytes) -> bytes:
    """Encrypt as the provider secretbox does."""
    return bytes(SecretBox(key).encrypt(plain))


PROVIDERS = {"aescbc": aescbc, "aesgcm": aesgcm, "secretbox": secretbox}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_value_is_decrypted_with_the_key_that_it_names(provider: str) -> None:
    keys = {"new": os.urandom(32), "old": os.urandom(32)}
    config = Secret(rows.encryption_config(provider, keys))
    for name, key in keys.items():
        value = f"k8s:enc:{provider}:v1:{name}:".encode() + PROVIDERS[provider](key, SECRET)
        assert registry.decrypted(KEY, value, config) == SECRET


@pytest.mark.parametrize("provider", PROVIDERS)
def test_another_key_a_missing_one_and_no_config_are_unreadable(provider: str) -> None:
    for _ in range(300):  # CBC's padding fits by chance now and then, and then something else comes out
        key, other = os.urandom(32), os.urandom(32)
        value = f"k8s:enc:{provider}:v1:k:".encode() + PROVIDERS[provider](key, SECRET)
        for config in (rows.encryption_config(provider, {"k": other}), rows.encryption_config(provider, {"x": key})):
            with contextlib.suppress(Unreadable):
                assert registry.decrypted(KEY, value, Secret(config)) != SECRET
    with pytest.raises(Unreadable):
        registry.decrypted(KEY, value, None)
    with pytest.raises(Unreadable):
        registry.decrypted(KEY, value[:40], Secret(rows.encryption_config(provider, {"k": key})))


def test_a_value_that_was_moved_to_another_key_is_unreadable_under_aesgcm() -> None:
    key = os.urandom(32)
    value = b"k8s:enc:aesgcm:v1:k:" + aesgcm(key, SECRET, b"/registry/secrets/default/other")
    with pytest.raises(Unreadable):
        registry.decrypted(KEY, value, Secret(rows.encryption_config("aesgcm", {"k": key})))


def test_a_value_in_clear_needs_no_config() -> None:
    assert registry.decrypted(KEY, SECRET, None) == SECRET


@pytest.mark.parametrize(
    "value",
    [
        b"k8s:enc:",
        b"k8s:enc:kms:v2:name:xyz",
        b"k8s:enc:aescbc:v2:k:xyz",
        b"k8s:enc:aescbc:v1:k",
        b"k8s:enc:aescbc:v1:k:",
    ],
)
def test_what_no_key_of_ours_opens_is_unreadable(value: bytes) -> None:
    with pytest.raises(Unreadable):
        registry.decrypted(KEY, value, Secret(rows.encryption_config("aescbc", {"k": bytes(32)})))


CONFIGS = [
    *("", "{", "[]", "null", "{}", '{"resources": 5}', '{"resources": [{"providers": [5]}]}'),
    '{"resources": [{"providers": [{"aescbc": {"keys": [{"name": "k", "secret": "?planted"}]}}]}]}',
    rows.encryption_config("aescbc", {"k": b"short"}),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_an_encryption_config_that_is_none_makes_values_unreadable_and_is_not_shown(config: str) -> None:
    with pytest.raises(Unreadable) as caught:
        registry.decrypted(KEY, b"k8s:enc:aescbc:v1:k:" + bytes(32), Secret(config))
    assert "planted" not in str(caught.value)
