"""What cluster.yaml and secrets say of DNS: every message with its place, what is read of it, what an editor finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from conftest import Project
from i12e import credentials
from i12e.errors import UserError
from i12e.model import Fleet, load_fleet
from i12e.paths import Paths, host_names
from i12e.secrets import Secret
from i12e.settings import PROVIDERS, Dns
from test_model import CLUSTER, SERVER, cases, load, problems, warnings
from test_schema import ONLY_DOIT, around, of_doit, of_editor

# What stands at `dns:` in a cluster's good file, and what is then said of it.
BROKEN = """\
{provider: route53, zone: example.com}
=> 7:6: dns.route53: is missing, which the provider needs (write route53: {...})

{provider: rfc2136, zone: example.com, route53: {zone_id: Z1}}
=> 7:6: dns.rfc2136: is missing, which the provider needs (write rfc2136: {...})

{zone: example.com}
=> 7:6: dns.provider: is missing (write provider: route53, rfc2136, cloudflare or none)

{provider: none}
=> 7:6: dns.zone: is missing (write zone: example.com)

{provider: route54, zone: example.com}
=> 7:17: dns.provider: "route54" is not one of route53, rfc2136, cloudflare, none (did you mean route53?)

{provider: none, zone: example.net}
=> 7:29: dns.zone: "example.net" does not have api.name in it, k8s.example.com (name the zone that has it)

{provider: none, zone: xample.com}
=> 7:29: dns.zone: "xample.com" does not have api.name in it, k8s.example.com (name the zone that has it)

{provider: none, zone: Example.com.}
=> 7:29: dns.zone: "Example.com." is not a DNS name in small letters (write example.com)

{provider: none, zone: example.com, ttl: 4}
=> 7:47: dns.ttl: 4 is less than 5

{provider: none, zone: example.com, ttl: 3601}
=> 7:47: dns.ttl: 3601 is more than 3600

{provider: none, zone: example.com, ttl: 30s}
=> 7:47: dns.ttl: "30s" is not a whole number

{provider: route53, zone: example.com, route53: {}}
=> 7:54: dns.route53.zone_id: is missing

{provider: route53, zone: example.com, route53: {zone_id: /hostedzone/Z1}}
=> 7:64: dns.route53.zone_id: "/hostedzone/Z1" is a path (write Z1)

{provider: route53, zone: example.com, route53: {zone_id: example.com}}
=> 7:64: dns.route53.zone_id: "example.com" is not the id of a hosted zone (the zone's name goes to dns.zone)

{provider: route53, zone: example.com, route53: {zone_id: z1}}
=> 7:64: dns.route53.zone_id: "z1" is not the id of a hosted zone (like Z0123456789ABCDEFGHIJ)

{provider: route53, zone: example.com, route53: {zone_id: Z1, access_key: x}}
=> 7:68: dns.route53.access_key: is not a known key (it is a secret: secrets/ENV/dns.yaml)

{provider: route53, zone: example.com, route53: {zone_id: Z1, regon: x}}
=> 7:68: dns.route53.regon: is not a known key (known: zone_id)

{provider: cloudflare, zone: example.com, cloudflare: {zone_id: example.com}}
=> 7:70: dns.cloudflare.zone_id: "example.com" is not the id of a zone of Cloudflare's (the zone's name goes to dns.zone)

{provider: cloudflare, zone: example.com, cloudflare: {zone_id: abc}}
=> 7:70: dns.cloudflare.zone_id: "abc" is not the id of a zone of Cloudflare's (32 signs of 0-9 and a-f)

{provider: cloudflare, zone: example.com, cloudflare: {zone_id: aB3_aB3-aB3aB3aB3aB3aB3aB3aB3aB3aB3aB3aB}}
=> 7:70: dns.cloudflare.zone_id: may be a token, which is a secret (secrets/ENV/dns.yaml is for it)

{provider: cloudflare, zone: example.com, cloudflare: {token: x}}
=> 7:60: dns.cloudflare.zone_id: is missing
=> 7:61: dns.cloudflare.token: is not a known key (it is a secret: secrets/ENV/dns.yaml)

{provider: rfc2136, zone: example.com, rfc2136: {server: 192.0.2.53, key_name: k, secret: x}}
=> 7:88: dns.rfc2136.secret: is not a known key (it is a secret: secrets/ENV/dns.yaml)

{provider: rfc2136, zone: example.com, rfc2136: {server: 192.0.2.53, key_name: k, port: 0}}
=> 7:94: dns.rfc2136.port: 0 is less than 1

{provider: rfc2136, zone: example.com, rfc2136: {server: 192.0.2.53, key_name: K}}
=> 7:85: dns.rfc2136.key_name: "K" is not a DNS name in small letters (write k)

{provider: rfc2136, zone: example.com, rfc2136: {server: 192.0.2.53, key_name: k, algorithm: hmac-md5}}
=> 7:99: dns.rfc2136.algorithm: "hmac-md5" is not one of hmac-sha256, hmac-sha224, hmac-sha384, hmac-sha512 (did you mean hmac-sha512?)

{provider: rfc2136, zone: example.com, rfc2136: {key_name: k}}
=> 7:54: dns.rfc2136.server: is missing
"""  # noqa: E501  # a message is one line
RFC2136 = "rfc2136: {server: ns1.example.com, key_name: i12e.key}"


def with_dns(text: str) -> Fleet:
    """Given what stands at `dns:`, return the fleet of a cluster that has it."""
    return load(f"{CLUSTER}dns: {text}\n", server_1=SERVER)


@pytest.mark.parametrize(("text", "expected"), cases(BROKEN))
def test_what_is_wrong_is_told_with_its_place_and_remedy(text: str, expected: list[str]) -> None:
    assert problems(with_dns(text)) == [f"cluster.yaml:{line}" for line in expected]


@pytest.mark.parametrize("text", [text for text, _ in cases(BROKEN)])
def test_what_doit_finds_is_found_by_an_editor_or_listed_in_the_docs(text: str) -> None:
    fleet = with_dns(text)
    found, places = of_editor("cluster", f"{CLUSTER}dns: {text}\n"), of_doit(fleet, "cluster")
    for problem in fleet.problems:
        listed = any(rule.search(problem.message) for rule in ONLY_DOIT)
        assert listed or around(problem.message.partition(": ")[0]) & found, problem
    assert found <= set().union(*map(around, places))


GOOD = [
    "{provider: none, zone: example.com}",
    "{provider: none, zone: k8s.example.com, ttl: 5}",
    "{provider: none, zone: com, ttl: ~, route53: ~}",
    f"{{provider: rfc2136, zone: example.com, {RFC2136}}}",
    "{provider: rfc2136, zone: example.com, rfc2136: {server: '2001:db8::53', port: 5353, key_name: k, algorithm: hmac-sha512}}",  # noqa: E501
    "{provider: route53, zone: example.com, route53: {zone_id: Z0123456789ABCDEFGHIJ}}",
    "{provider: cloudflare, zone: example.com, ttl: 60, cloudflare: {zone_id: 0123456789abcdef0123456789abcdef}}",
]


@pytest.mark.parametrize("text", GOOD)
def test_what_is_right_is_taken_by_an_editor_and_by_doit_without_a_word(text: str) -> None:
    fleet = with_dns(text)
    assert (problems(fleet), warnings(fleet)) == ([], [])
    assert of_editor("cluster", f"{CLUSTER}dns: {text}\n") == set()


@pytest.mark.parametrize("text", ["", "dns:\n", "dns: ~\n", "dns:\n  # provider: none\n"])
def test_without_a_word_of_dns_there_is_none(text: str) -> None:
    fleet = load(CLUSTER + text, server_1=SERVER)
    assert (problems(fleet), warnings(fleet)) == ([], [])
    assert fleet.cluster
    assert fleet.cluster.dns is None
    assert of_editor("cluster", CLUSTER + text) == set()


def read_dns(text: str) -> Dns:
    """Given what stands at `dns:`, return what is read of it."""
    fleet = with_dns(text)
    assert fleet.problems == []
    assert fleet.cluster
    assert fleet.cluster.dns
    return fleet.cluster.dns


def test_what_is_said_is_what_is_read() -> None:
    dns = read_dns(f"{{provider: rfc2136, zone: example.com, ttl: 45, {RFC2136}}}")
    assert dns.model_dump(exclude_none=True) == {
        "provider": "rfc2136",
        "zone": "example.com",
        "ttl": 45,
        "join": "name",
        "rfc2136": {"server": "ns1.example.com", "port": 53, "key_name": "i12e.key", "algorithm": "hmac-sha256"},
    }
    assert dns.ttl_seconds == 45


def test_the_ttl_is_short_by_default_and_one_that_the_provider_takes() -> None:
    assert [read_dns(text).ttl_seconds for text in (GOOD[0], GOOD[3], GOOD[5])] == [30, 30, 30]
    assert read_dns(GOOD[6].replace("ttl: 60, ", "")).ttl_seconds == 60


def test_a_short_ttl_of_cloudflares_and_settings_of_another_provider_are_warned_of() -> None:
    assert warnings(with_dns(GOOD[6].replace("ttl: 60", "ttl: 30"))) == [
        "cluster.yaml:7:53: dns.ttl: 30 is less than 60, which Cloudflare takes for zones of its Enterprise plan only"
    ]
    (said,) = warnings(with_dns(f"{{provider: none, zone: example.com, {RFC2136}}}"))
    assert said == "cluster.yaml:7:42: dns.rfc2136: is not used: the provider is none"


def test_joining_by_a_name_that_nobody_keeps_is_warned_of() -> None:
    (said,) = warnings(with_dns("{provider: none, zone: example.com, join: name}"))
    why = "has no effect: the provider is none, and hosts join as without dns"
    assert said == f'cluster.yaml:7:48: dns.join: "name" {why}'
    assert warnings(with_dns("{provider: none, zone: example.com, join: addresses}")) == []


def test_a_name_that_leaves_no_room_for_its_fence_is_told() -> None:
    label = "a" * 60
    name = f"{label}.{label}.{label}.{label[:54]}.example.com"
    assert 247 < len(name) <= 253
    text = CLUSTER.replace("k8s.example.com", name)
    (said,) = problems(load(f"{text}dns: {GOOD[0]}\n", server_1=SERVER))
    assert "api.name: is too long: the name of its fence" in said
    assert problems(load(text, server_1=SERVER)) == []


def test_hosts_say_nothing_of_dns() -> None:
    said = problems(load(CLUSTER, server_1=f"{SERVER}dns: {{}}\n"))
    assert said == ["server-1.yaml:3:1: dns: is not a known key (cluster.yaml says it for all hosts)"]


def test_a_change_of_dns_renders_nothing_again_and_is_read_all_the_same(small: Project) -> None:
    assert len(small.doit().lines) == 2
    before = small.outputs()
    place = small.root / "hosts/example/cluster.yaml"
    text = place.read_text()
    place.write_text(f"{text}dns: {GOOD[0]}\n")
    done = small.doit()
    assert (done.status, done.lines, small.outputs()) == (0, [], before)
    place.write_text(f"{text}dns: {{provider: none, zone: example.net}}\n")
    done = small.doit()
    assert done.status == 1
    assert 'dns.zone: "example.net" does not have api.name in it' in done.err


def test_hosts_are_rendered_again_when_they_join_in_another_way_and_for_nothing_else_of_dns(small: Project) -> None:
    for role in ("server", "agent"):
        place = small.root / f"templates/butane/{role}.bu.j2"
        place.write_text(place.read_text().replace("storage:", "# {{ join_urls() | yaml }}\nstorage:"))
    small.write("templates/files/hostname", "{{ join_urls() | join(' ') }}")
    place = small.root / "hosts/example/cluster.yaml"
    text = place.read_text()

    def rendered(dns: str) -> int:
        place.write_text(f"{text}dns: {dns}\n" if dns else text)
        done = small.doit()
        assert done.status == 0, done.err
        return len([line for line in done.lines if line.startswith("RENDER")])

    assert rendered("") == 2
    assert rendered(f"{{provider: rfc2136, zone: example.com, {RFC2136}}}") == 2
    by_name = small.outputs()
    assert rendered(f"{{provider: rfc2136, zone: example.com, ttl: 77, join: name, {RFC2136}}}") == 0
    assert rendered(GOOD[5]) == 0
    small.edit("hosts/example/server-1.yaml", "192.0.2.11", "192.0.2.12")
    assert rendered(GOOD[5]) == 1, "the server's own alone: nobody joins by its address"
    assert small.outputs()["agent-1"] == by_name["agent-1"]
    for other in (GOOD[5].replace("zone: ", "join: addresses, zone: "), GOOD[0]):
        assert rendered(GOOD[5]) in (0, 2)
        assert rendered(other) == 2
    assert small.outputs() != by_name


def test_the_examples_section_is_right_when_its_comments_are_taken_away(project: Project) -> None:
    place = project.root / "hosts/example/cluster.yaml"
    before, _, rest = place.read_text().partition("# dns:\n")
    section, _, after = rest.partition("\n\n")
    lines = ["dns:", *(line.removeprefix("# ") for line in section.splitlines())]
    place.write_text("\n".join([before + lines[0], *lines[1:], "", after]))
    read: Callable[[str], bytes] = lambda path: (project.root / path).read_bytes()  # noqa: E731
    fleet = load_fleet("hosts/example", "example", host_names(Paths(project.root, "example")), read)
    assert (fleet.problems, fleet.warnings) == ([], [])
    assert fleet.cluster
    assert fleet.cluster.dns
    assert fleet.cluster.dns.model_fields_set == {"provider", "zone", "ttl", "join", "rfc2136"}
    assert of_editor("cluster", place.read_text()) == set()


# --- secrets/ENV/dns.yaml


def of(provider: str, group: dict[str, Any]) -> dict[str, Secret] | list[str]:
    """Given a provider and what its secret file says, return the credentials, or what is said against them."""
    dns = Dns(provider=provider, zone="example.com")  # type: ignore[arg-type]  # a test's own
    try:
        return credentials.of_dns(dns, group, "secrets/example/dns.yaml")
    except UserError as error:
        return [str(problem) for problem in error.problems]


KEYS = {"access_key": Secret("planted-1"), "secret_key": Secret("planted-2")}


@pytest.mark.parametrize(
    ("provider", "group"),
    [
        ("route53", KEYS),
        ("route53", {**KEYS, "session_token": Secret("planted-3")}),
        ("rfc2136", {"secret": Secret("planted")}),
        ("cloudflare", {"token": Secret("planted")}),
    ],
)
def test_the_providers_credentials_are_returned_and_the_others_left(provider: str, group: dict[str, Secret]) -> None:
    others = {"route53": KEYS, "rfc2136": {"secret": Secret("other")}, "cloudflare": {"token": Secret("other")}}
    assert of(provider, {**others, provider: group}) == group


def test_what_takes_none_needs_none() -> None:
    assert of("none", {}) == of("route53", {}) == of("route53", {"route53": None}) == {}


@pytest.mark.parametrize(
    ("provider", "group", "said"),
    [
        ("rfc2136", {}, "rfc2136.secret: is missing (write rfc2136: {secret: ...})"),
        ("cloudflare", {"cloudflare": None}, "cloudflare.token: is missing (write cloudflare: {token: ...})"),
        ("cloudflare", {"cloudflare": {"tokn": Secret("planted")}}, "cloudflare.tokn: is not a known key (did you mean token?)"),  # noqa: E501
        ("cloudflare", {"cloudflare": {"token": Secret(" ")}}, "cloudflare.token: is empty, or no text (give it a value, or delete the key)"),  # noqa: E501
        ("cloudflare", {"cloudflare": Secret("planted")}, "cloudflare: is not a mapping (write cloudflare: {token: ...})"),  # noqa: E501
        ("route53", {"route53": {"access_key": Secret("planted")}}, "route53.secret_key: is missing (access_key and secret_key go together; without both, AWS's own settings hold)"),  # noqa: E501
        ("none", {"route35": KEYS}, "route35: is no provider of DNS that takes credentials (did you mean route53?)"),
        ("none", {"token": Secret("planted")}, "token: is no provider of DNS that takes credentials (there are route53, rfc2136, cloudflare)"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_no_provider_would_take_is_told_without_a_secret(provider: str, group: dict[str, Any], said: str) -> None:
    assert of(provider, group) == [f"secrets/example/dns.yaml: {said}"]
    assert "planted" not in said


def test_every_provider_has_settings_and_credentials_of_its_own() -> None:
    assert {*PROVIDERS} == {*credentials.OF_DNS} == {*Dns.model_fields} - {"provider", "zone", "ttl", "join"}
