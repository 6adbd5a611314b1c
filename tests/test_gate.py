"""k3s-gate on trees of our own, with a curl of our own: no network, no root, no k3s.

Only what tells a living server from a dead one is tried with the real curl too, on this machine's own addresses.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

import ignition
from conftest import need

GATE = Path(__file__).parent.parent / "templates/files/k3s-gate.sh"
MACHINE = "8f3c0b0e6a5d4c1f9e2b7a6d5c4b3a29"
URLS = "https://192.0.2.12:6443 https://192.0.2.13:6443"
LIVING = "https://192.0.2.13:6443"
VIP = "https://192.0.2.10:6443"
NAME = "https://k8s.example.com:6443"
MARK = "var/lib/rancher/k3s/server/db/i12e-cluster"

# Refuses options that the real one may not have, insists on those that matter, and answers for the URLs in the file
# `alive`. Asked without TLS, it says how connecting went: as `tcp/ADDRESS:PORT` has it, else by `alive`.
CURL = """#!/bin/sh
while [ $# -gt 1 ]; do
    case $1 in
    --silent) shift ;;
    --fail) fail=yes && shift ;;
    --insecure) insecure=yes && shift ;;
    --noproxy) noproxy=$2 && shift 2 ;;
    --max-time) limit=$2 && shift 2 ;;
    --output) output=$2 && shift 2 ;;
    --write-out) format=$2 && shift 2 ;;
    *) echo "curl: unknown option $1" >&2 && exit 2 ;;
    esac
done
[ "$noproxy" = '*' ] && [ "$limit" -gt 0 ] || exit 2
echo "$1" >>"$I12E_ROOT/asked"
echo "$limit $1" >>"$I12E_ROOT/limits"
place=${1#*://}
place=${place%/cacerts}
case $1 in
http://*)
    [ "$format" = '%{time_connect}' ] && [ "$output" = /dev/null ] || exit 2
    if [ -e "$I12E_ROOT/tcp/$place" ]; then
        read -r status time <"$I12E_ROOT/tcp/$place"
        printf %s "$time"
        exit "$status"
    fi
    grep -qxF "https://$place" "$I12E_ROOT/alive" || { printf 0.000000 && exit 7; }
    printf 0.000213
    ;;
*)
    [ "$fail$insecure" = yesyes ] || exit 2
    grep -qxF "https://$place" "$I12E_ROOT/alive" || exit 7
    cat "$I12E_ROOT/answer"
    ;;
esac
"""

# Kills the gate (its process group) at the I12E_CRASH_AT-th program that it runs.
CRASHER = """#!/bin/sh
echo >>"$I12E_ROOT/ran"
[ "$(wc -l <"$I12E_ROOT/ran")" != "${I12E_CRASH_AT:-0}" ] || kill -9 0
exec "$I12E_REAL/${0##*/}" "$@"
"""


@dataclass
class Host:
    """A host's files, and what its k3s would do."""

    root: Path
    shell: str = "sh"

    def configure(self, **changes: str) -> None:
        settings = {"cluster": "example", "host": "server-1", "role": "server", "datastore": "etcd", "join_urls": URLS}
        lines = [f"{key}='{value}'\n" for key, value in {**settings, **changes}.items()]
        self.write("etc/i12e/k3s.conf", "".join(lines))

    def write(self, path: str, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def permit(self, **changes: str) -> None:
        said = {"permit": "1", "id": "0a1b2c3d", "action": "found", "cluster": "example", "host": "server-1"}
        said |= {"machine-id": MACHINE, "servers": ""}
        lines = [f"{key}={value}\n" for key, value in {**said, **changes}.items()]
        self.write("var/lib/i12e/permit", "".join(lines))

    def alive(self, *urls: str) -> None:
        self.write("alive", "".join(f"{url}\n" for url in urls))

    def connects(self, url: str, status: int, time: str = "0.000000") -> None:
        """Have curl end with a status when it asks that server without TLS; it connected, if the time is not 0."""
        self.write(f"tcp/{url.removeprefix('https://')}", f"{status} {time}\n")

    def start(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        path = f"{self.root / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            [self.shell, str(GATE), *arguments],
            env={"PATH": path, "I12E_ROOT": str(self.root), **environ},
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
            timeout=120,
        )

    def starts(self) -> dict[str, object]:
        """Start k3s; return what the gate tells it."""
        done = self.start()
        assert done.returncode == 0, done.stderr
        found = self.decision()
        assert found is not None
        return found

    def refuses(self) -> str:
        """Start k3s, which must not start and find nothing to found a cluster by; return what the gate says."""
        done = self.start()
        assert done.returncode == 1, done.stdout
        assert self.decision() is None
        return done.stdout + done.stderr

    def decision(self) -> dict[str, object] | None:
        folder = self.root / "etc/rancher/k3s/config.yaml.d"
        file = folder / "90-i12e.yaml"
        if not file.exists():
            return None
        assert [entry.name for entry in folder.iterdir()] == [file.name]
        assert file.stat().st_mode & 0o777 == 0o600
        found = yaml.safe_load(file.read_text())
        assert isinstance(found, dict)
        return found

    def has_etcd(self) -> None:
        self.write("var/lib/rancher/k3s/server/db/etcd/member/wal/0.wal")

    def has_sqlite(self) -> None:
        self.write("var/lib/rancher/k3s/server/db/state.db")

    def left(self, name: str) -> bool:
        return (self.root / "var/lib/i12e" / name).exists()

    def used(self) -> list[list[str]]:
        """Return the lines of the list of used permits, by word."""
        file = self.root / "var/lib/i12e/permits.used"
        return [line.split(" ") for line in file.read_text().splitlines()] if file.exists() else []

    def mark(self) -> str | None:
        """Return whose data this is, as the mark says."""
        file = self.root / MARK
        return file.read_text() if file.exists() else None

    def content(self) -> dict[str, object]:
        """Return everything in the tree with its time, but what our curl writes there."""
        places = (place for place in self.root.rglob("*") if place.name not in ("asked", "limits"))
        return {
            str(place): (place.lstat().st_mtime_ns, place.lstat().st_mode, place.is_file() and place.read_bytes())
            for place in places
            if place != self.root
        }


@pytest.fixture(params=["sh", pytest.param("bash", marks=pytest.mark.slow)])
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Host:
    found = Host(tmp_path, request.param)
    found.write("etc/machine-id", f"{MACHINE}\n")
    found.write("answer", "-----BEGIN CERTIFICATE-----\n")
    found.write("bin/curl", CURL).chmod(0o755)
    (tmp_path / "var/lib/i12e").mkdir(parents=True)
    found.configure()
    found.alive()
    return found


# --- founding


def test_a_permit_founds_a_cluster_on_etcd(host: Host) -> None:
    host.permit()
    assert host.starts() == {"cluster-init": True}
    assert not host.left("permit")
    ((name, action, when),) = host.used()
    assert (name, action) == ("0a1b2c3d", "found")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", when)


def test_a_permit_founds_a_cluster_on_sqlite_without_a_word_to_k3s(host: Host) -> None:
    host.configure(datastore="sqlite", join_urls="")
    host.permit()
    assert host.starts() == {}


def test_after_founding_the_next_start_is_a_member_s(host: Host) -> None:
    host.permit()
    host.starts()
    host.has_etcd()
    assert "cluster-init" not in host.starts()


def test_a_crash_after_the_permit_was_used_up_needs_a_new_one(host: Host) -> None:
    host.configure(join_urls="")
    host.permit()
    host.starts()  # and k3s dies before it makes any data
    assert "doit os_deploy" in host.refuses()
    host.permit(id="another-one")
    assert host.starts() == {"cluster-init": True}


def test_a_used_permit_that_is_laid_again_is_refused(host: Host) -> None:
    host.configure(join_urls="")
    host.permit()
    host.starts()
    host.permit()
    assert "it was used before" in host.refuses()


def test_no_later_permit_makes_an_earlier_one_good_again(host: Host) -> None:
    host.configure(join_urls="")
    for name in ("A", "B"):
        host.permit(id=name)
        host.starts()
    for name in ("A", "B"):
        host.permit(id=name)
        assert "it was used before" in host.refuses()
    assert [line[0] for line in host.used()] == ["A", "B"]


@pytest.mark.parametrize("name", ["0a1b", "1b2c", "2c3d", "0a1b2c3d0", "found"])
def test_an_id_that_is_a_part_of_a_used_line_is_another_one(host: Host, name: str) -> None:
    host.permit()
    host.starts()
    host.permit(id=name)
    assert host.starts() == {"cluster-init": True}


def test_a_line_that_a_crash_cut_off_spoils_neither_itself_nor_the_next_one(host: Host) -> None:
    host.configure(join_urls="")
    host.write("var/lib/i12e/permits.used", "A found 2026-10-07T03:12:00Z\nB")
    for name in ("B", "C"):
        host.permit(id=name)
        assert host.starts() == {"cluster-init": True}
    for name in ("A", "B", "C"):
        host.permit(id=name)
        assert "it was used before" in host.refuses()


def test_a_list_of_used_permits_that_cannot_be_read_refuses(host: Host) -> None:
    host.configure(join_urls="")
    host.permit()
    place = host.root / "var/lib/i12e/permits.used"
    place.symlink_to(host.write("elsewhere"))
    assert "cannot be read" in host.refuses()
    place.unlink()
    host.write("var/lib/i12e/permits.used").chmod(0)
    host.write("bin/cat", '#!/bin/sh\ncase $1 in *permits.used) exit 1 ;; esac\nexec /bin/cat "$@"\n').chmod(0o755)
    assert "cannot be read" in host.refuses()
    place.unlink()
    place.mkdir()
    assert "cannot be read" in host.refuses()
    assert host.left("permit")


def test_a_list_of_used_permits_that_cannot_be_written_refuses(host: Host) -> None:
    host.permit()
    # Between reading and writing it: it becomes a folder, which not even root can append to.
    host.write("bin/curl", '#!/bin/sh\nmkdir -p "$I12E_ROOT/var/lib/i12e/permits.used"\nexit 7\n').chmod(0o755)
    assert "permits.used cannot be written" in host.refuses()
    assert host.left("permit")


def test_a_permit_is_on_the_disk_as_used_before_it_is_removed_and_before_anything_is_founded(host: Host) -> None:
    script = """#!/bin/sh
cd "$I12E_ROOT/var/lib/i12e"
for file; do case $file in *permits.used)
    grep -q '^0a1b2c3d found ' "$file" && [ -e permit ] && [ ! -e "$I12E_ROOT/etc/rancher/k3s/config.yaml.d" ] || exit 1
    echo "$*" >"$I12E_ROOT/synced" ;;
esac; done
"""
    host.write("bin/sync", script).chmod(0o755)
    host.permit()
    host.starts()
    folder = host.root / "var/lib/i12e"
    assert (host.root / "synced").read_text().split() == [f"{folder}/permits.used", str(folder)]


def test_no_crash_at_any_program_that_the_gate_runs_lets_a_permit_found_twice(tmp_path: Path) -> None:
    names = ("cat", "sed", "tr", "tail", "grep", "mv", "rm", "mkdir", "sync", "head", "date")
    real = next(Path(place) for place in ("/usr/bin", "/bin") if all((Path(place) / name).exists() for name in names))
    crashed = 0
    for step in range(1, 60):
        host = Host(tmp_path / str(step))
        host.write("etc/machine-id", f"{MACHINE}\n")
        for name in names:
            host.write(f"bin/{name}", CRASHER).chmod(0o755)
        host.configure(join_urls="")
        host.permit()
        runs = [host.start(I12E_REAL=str(real), I12E_CRASH_AT=str(step))]
        crashed += runs[0].returncode == -signal.SIGKILL
        (host.root / "ran").write_text("")
        runs += [host.start(I12E_REAL=str(real)) for _ in range(3)]
        founded = [run for run in runs if run.returncode == 0]
        assert len(founded) <= 1, step
        assert not host.left("permit") or [line[0] for line in host.used()] == ["0a1b2c3d"], step
        if runs[0].returncode == 0:
            break
    assert crashed > 10, "the crashes were none"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cluster": "prod"}, "it is for the cluster prod, this is example"),
        ({"host": "server-2"}, "it is for the host server-2, this is server-1"),
        ({"machine-id": "0" * 32}, f"it is for the machine {'0' * 32}, this is {MACHINE}"),
        ({"action": "convert"}, "it is for action=convert, and this start needs action=found"),
        ({"permit": "2"}, "it does not say permit=1"),
        ({"id": ""}, "it has no usable id"),
        ({"id": "a b"}, "it has no usable id"),
        ({"host": "server-1\nhost=server-2"}, "it is for the host"),
        ({"servers": "\nservers="}, "it does not name the other servers"),
        ({"servers": "192.0.2.12"}, "it does not name the other servers"),
        ({"servers": "https://192.0.2.12:6443 /etc/*"}, "it does not name the other servers"),
        ({"servers": "https://192.0.2.12:6443/*"}, "it does not name the other servers"),
        ({"servers": "https://"}, "it does not name the other servers"),
        ({"servers": "$(reboot)"}, "it does not name the other servers"),
    ],
)
def test_a_permit_that_does_not_fit_is_refused_and_stays_where_it_is(
    host: Host, changes: dict[str, str], why: str
) -> None:
    host.configure(join_urls="")
    host.permit(**changes)
    assert why in host.refuses()
    assert host.left("permit")
    assert not host.left("permits.used")


def test_a_permit_that_does_not_say_whether_there_are_other_servers_is_refused(host: Host) -> None:
    host.permit()
    permit = host.root / "var/lib/i12e/permit"
    permit.write_text(permit.read_text().replace("servers=\n", ""))
    assert "it does not name the other servers" in host.refuses()
    assert host.left("permit")


def test_a_machine_without_an_id_founds_nothing(host: Host) -> None:
    host.configure(join_urls="")
    host.write("etc/machine-id")
    host.permit(**{"machine-id": ""})
    assert "without /etc/machine-id" in host.refuses()


def test_an_empty_permit_and_a_linked_one_are_refused(host: Host) -> None:
    host.configure(join_urls="")
    permit = host.write("var/lib/i12e/permit")
    assert "refused" in host.refuses()
    permit.unlink()
    host.permit()
    permit.symlink_to(permit.rename(host.root / "elsewhere"))
    assert "no regular file" in host.refuses()


def test_a_permit_that_cannot_be_used_up_founds_nothing(host: Host) -> None:
    host.permit()
    host.write("bin/sync", "#!/bin/sh\nexit 1\n").chmod(0o755)
    assert "could not be used up" in host.refuses()
    (host.root / "bin/sync").unlink()
    host.permit(id="another")
    host.write("bin/rm", '#!/bin/sh\ncase $2 in */permit) exit 1 ;; esac\nexec /bin/rm "$@"\n').chmod(0o755)
    assert "cannot be removed" in host.refuses()
    assert "it was used before" in host.refuses()


def test_a_permit_is_void_while_a_server_of_the_cluster_lives(host: Host) -> None:
    host.permit()
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}
    assert not host.left("permit")


def test_a_permit_is_void_while_a_server_lives_that_only_the_permit_knows(host: Host) -> None:
    host.configure(join_urls=VIP)
    host.permit(servers=URLS)
    host.alive(LIVING)  # and the VIP does not answer
    said = host.refuses()
    assert f"something answers at {LIVING}" in said
    assert f"none answers of {VIP}" in said
    assert not host.left("permit")


def test_a_permit_asks_for_each_server_that_the_config_or_the_permit_knows(host: Host) -> None:
    host.configure(join_urls=VIP)
    host.permit(servers=f"{URLS} https://[2001:db8::14]:6443")
    assert host.starts() == {"cluster-init": True}
    asked = (host.root / "asked").read_text().split()
    hosts = ("192.0.2.10", "192.0.2.12", "192.0.2.13", "[2001:db8::14]")
    assert asked == [f"http://{name}:6443/cacerts" for name in hosts]


@pytest.mark.parametrize("action", ["found", "convert"])
@pytest.mark.parametrize("status", [1, 7, 22, 28, 35, 52, 56, 92])
def test_whatever_takes_a_connection_lives_however_it_goes_on(host: Host, status: int, action: str) -> None:
    if action == "convert":
        host.has_sqlite()
    host.permit(servers=URLS, action=action)
    host.connects(LIVING, status, "0.000213")
    assert f"something answers at {LIVING}" in host.refuses()
    assert not host.left("permit")


@pytest.mark.parametrize("status", [6, 7, 28, 35, 52, 56])
def test_what_takes_no_connection_is_dead(host: Host, status: int) -> None:
    host.permit()
    host.connects(LIVING, status)
    assert host.starts() == {"cluster-init": True}


@pytest.mark.parametrize("action", ["found", "convert"])
@pytest.mark.parametrize("status", [1, 2, 3, 27, 126, 127, 137])
def test_while_it_cannot_be_told_whether_a_server_lives_a_permit_is_not_used(
    host: Host, status: int, action: str
) -> None:
    if action == "convert":
        host.has_sqlite()
    host.permit(action=action)
    host.connects(LIVING, status)
    assert f"cannot be told of {LIVING} (curl: status {status})" in host.refuses()
    assert host.left("permit")
    assert host.used() == []
    host.connects(LIVING, 7)
    assert host.starts() == {"cluster-init": True}


def test_without_any_curl_nothing_is_founded(host: Host) -> None:
    host.permit()
    (host.root / "bin/curl").unlink()
    for name in ("cat", "sed", "tr", "tail", "grep", "mv", "rm", "mkdir", "sync", "head", "date", host.shell):
        (host.root / "bin" / name).symlink_to(str(shutil.which(name)))
    done = host.start(PATH=str(host.root / "bin"))
    assert done.returncode == 1
    assert "(curl: status 127)" in done.stdout
    assert host.left("permit")


@pytest.fixture
def real(host: Host) -> Host:
    """Give a host with the real curl."""
    need(shutil.which("curl"), "curl (Debian: apt-get install curl)")
    (host.root / "bin/curl").unlink()
    return host


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Give a port that takes connections; nobody ever says anything on them."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def test_the_real_curl_tells_a_server_that_hangs_from_a_dead_one(real: Host, listener: socket.socket) -> None:
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    real.configure(join_urls="")
    real.permit(servers=url)
    assert f"something answers at {url}" in real.refuses()
    listener.close()
    real.permit(servers=url)
    assert real.starts() == {"cluster-init": True}


@contextlib.contextmanager
def silent(port: int, *addresses: str) -> Iterator[None]:
    """Have addresses of this machine that say nothing to who wants to connect to a port: nothing else fits in."""
    with contextlib.ExitStack() as stack:
        for address in addresses:
            full = stack.enter_context(socket.socket())
            full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            full.bind((address, port))
            full.listen(0)
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((address, port))
        yield


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[int]:
    """Have a server that gives certificates by TLS, as k3s does; yield its port."""
    need(shutil.which("openssl"), "openssl (Debian: apt-get install openssl)")
    key, certificate = folder / "key", folder / "certificate"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    subprocess.run([*make.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    answer = b"HTTP/1.0 200 OK\r\n\r\n-----BEGIN CERTIFICATE-----\n"

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(4096)
                secured.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
    thread.join()


def resolve(host: Host, port: int, *addresses: str) -> str:
    """Have the real curl resolve a name to addresses, in this order; return the URL with it."""
    host.write(
        "bin/curl",
        f'#!/bin/sh\nexec {shutil.which("curl")} --resolve api.example.com:{port}:{",".join(addresses)} "$@"\n',
    ).chmod(0o755)
    return f"https://api.example.com:{port}"


# --- a name that is several addresses


DEAD = ("127.0.0.2", "127.0.0.3")


@pytest.mark.slow
def test_of_a_name_a_server_is_found_behind_two_addresses_that_are_silent(real: Host) -> None:
    with serving(real.root) as port, silent(port, *DEAD):
        url = resolve(real, port, *DEAD, "127.0.0.1")
        real.configure(join_urls=url)
        assert real.starts() == {"server": url}


@pytest.mark.slow
def test_a_server_that_lives_behind_two_silent_addresses_of_a_name_makes_a_permit_void(
    real: Host, listener: socket.socket
) -> None:
    port = listener.getsockname()[1]
    with silent(port, *DEAD):
        url = resolve(real, port, *DEAD, "127.0.0.1")
        real.configure(join_urls="")
        real.permit(servers=url)
        assert f"something answers at {url}" in real.refuses()
    assert not real.left("permit")


def test_a_name_that_is_this_host_alone_is_nobody_to_join_and_founds_nothing(real: Host) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = resolve(real, port, "127.0.0.1")
    real.configure(join_urls=url)
    assert f"none answers of {url}" in real.refuses()
    real.permit()
    assert real.starts() == {"cluster-init": True}, "and it does not keep a permit from being used"


def test_a_name_that_nobody_knows_is_nobody_to_join(host: Host) -> None:
    host.write("bin/curl", "#!/bin/sh\nexit 6\n").chmod(0o755)
    host.configure(join_urls=NAME)
    assert f"none answers of {NAME}" in host.refuses()
    host.has_etcd()
    assert host.starts() == {"server": NAME}, "a member starts all the same"


def test_a_name_gets_more_time_than_an_address(host: Host) -> None:
    host.configure(join_urls=f"{NAME} {VIP} https://[2001:db8::14]:6443 https://1.example:6443")
    host.permit()
    host.starts()
    limits = (host.root / "limits").read_text().split("\n")[:-1]
    assert limits == [
        "15 http://k8s.example.com:6443/cacerts", "3 http://192.0.2.10:6443/cacerts",
        "3 http://[2001:db8::14]:6443/cacerts", "15 http://1.example:6443/cacerts",
    ]  # fmt: skip


# --- joining


def test_without_data_and_permit_a_server_joins_the_first_server_that_answers(host: Host) -> None:
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}


def test_what_answers_without_certificates_is_no_k3s(host: Host) -> None:
    host.write("answer", "<html>welcome</html>\n")
    host.alive(*URLS.split())
    assert "none answers" in host.refuses()


def test_when_no_server_answers_the_gate_says_whom_it_waits_for(host: Host) -> None:
    said = host.refuses()
    assert f"none answers of {URLS}" in said
    assert "doit os_deploy" in said


def test_with_nobody_to_join_the_gate_says_what_is_missing(host: Host) -> None:
    host.configure(join_urls="")
    said = host.refuses()
    assert "no data, no good permit" in said
    assert "doit os_deploy" in said


def test_what_an_earlier_start_decided_does_not_outlive_it(host: Host) -> None:
    host.write("etc/rancher/k3s/config.yaml.d/90-i12e.yaml", "cluster-init: true\n")
    host.refuses()


def test_a_refused_permit_does_not_keep_a_server_from_joining(host: Host) -> None:
    host.permit(host="server-2")
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}


# --- data that is there


def test_a_member_starts_though_no_other_server_answers(host: Host) -> None:
    host.has_etcd()
    assert host.starts() == {"server": URLS.split()[0]}


def test_a_member_is_given_a_server_that_answers(host: Host) -> None:
    host.has_etcd()
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}


def test_the_only_server_starts_on_its_data(host: Host) -> None:
    host.configure(join_urls="")
    host.has_etcd()
    assert host.starts() == {}


def test_a_leftover_permit_is_removed_from_a_host_that_has_data(host: Host) -> None:
    host.has_etcd()
    host.permit()
    assert "cluster-init" not in host.starts()
    assert not host.left("permit")
    assert not host.left("permits.used")


def test_a_sqlite_server_starts_on_its_data(host: Host) -> None:
    host.configure(datastore="sqlite", join_urls="")
    host.has_sqlite()
    host.permit()
    assert host.starts() == {}
    assert not host.left("permit")


def test_a_removed_member_joins_again_but_never_founds(host: Host) -> None:
    host.has_etcd()
    host.write("var/lib/rancher/k3s/server/db/etcd/tombstone")
    host.permit()
    assert "can only join it again" in host.refuses()
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}


def test_an_etcd_datastore_is_not_started_as_sqlite(host: Host) -> None:
    host.configure(datastore="sqlite", join_urls="")
    host.has_etcd()
    assert "no way back from etcd" in host.refuses()


# --- converting SQLite to etcd


def test_sqlite_data_under_a_config_that_says_etcd_waits_for_a_permit(host: Host) -> None:
    host.has_sqlite()
    host.permit(action="found")
    assert "takes a permit with action=convert" in host.refuses()


def test_a_permit_to_convert_converts_once(host: Host) -> None:
    host.has_sqlite()
    host.permit(action="convert")
    assert host.starts() == {"cluster-init": True}
    host.refuses()


def test_a_conversion_that_stopped_half_way_is_not_taken_for_a_member(host: Host) -> None:
    host.has_sqlite()
    host.permit(action="convert")
    host.starts()
    host.has_etcd()  # and state.db was not renamed to state.db.migrated
    assert "did not finish" in host.refuses()


@pytest.mark.parametrize("datastore", ["etcd", "sqlite"])
def test_etcd_beside_sqlite_is_half_a_conversion_whatever_permits_were_used(host: Host, datastore: str) -> None:
    host.configure(datastore=datastore)
    host.has_sqlite()
    host.has_etcd()
    assert "did not finish" in host.refuses()
    host.write("var/lib/i12e/permits.used", "C convert 2026-10-07T03:12:00Z\nF found 2026-10-08T03:12:00Z\n")
    assert "did not finish" in host.refuses()


def test_a_conversion_that_finished_is_a_member(host: Host) -> None:
    host.configure(join_urls="")
    host.has_sqlite()
    host.permit(action="convert")
    host.starts()
    host.has_etcd()
    database = host.root / "var/lib/rancher/k3s/server/db/state.db"
    database.rename(database.with_suffix(".db.migrated"))
    assert host.starts() == {}


# --- whose data it is


@pytest.mark.parametrize(
    ("datastore", "data", "action"),
    [("etcd", "", "found"), ("sqlite", "", "found"), ("etcd", "sqlite", "convert")],
)
def test_what_a_permit_makes_is_marked_as_the_clusters(host: Host, datastore: str, data: str, action: str) -> None:
    host.configure(datastore=datastore)
    if data:
        host.has_sqlite()
    host.permit(action=action)
    host.starts()
    assert host.mark() == "example\n"
    if not data:  # folders as k3s would make them
        modes = {
            "var/lib/rancher/k3s": 0o755,
            "var/lib/rancher/k3s/server": 0o700,
            "var/lib/rancher/k3s/server/db": 0o700,
        }
        assert {path: (host.root / path).stat().st_mode & 0o777 for path in modes} == modes


def test_a_server_that_joins_marks_what_it_is_given(host: Host) -> None:
    host.write(MARK, "other\n")  # which had no data any more
    host.alive(LIVING)
    host.starts()
    assert host.mark() == "example\n"


@pytest.mark.parametrize("datastore", ["etcd", "sqlite"])
def test_data_without_a_mark_is_taken_for_the_clusters_and_marked(host: Host, datastore: str) -> None:
    host.configure(datastore=datastore, join_urls="")
    if datastore == "etcd":
        host.has_etcd()
    else:
        host.has_sqlite()
    host.starts()
    assert host.mark() == "example\n"
    host.starts()


@pytest.mark.parametrize("datastore", ["etcd", "sqlite"])
@pytest.mark.parametrize("mark", ["other\n", "", "example-2\n", "exampl"])
def test_data_of_another_cluster_is_neither_started_nor_converted(host: Host, datastore: str, mark: str) -> None:
    if datastore == "etcd":
        host.has_etcd()
    else:
        host.has_sqlite()
    host.permit(action="convert")
    host.alive(LIVING)
    host.write(MARK, mark)
    said = host.refuses()
    assert f"marked as the cluster {mark.strip() or '(nothing that can be read)'}'s" in said
    assert "doit os_deploy" in said
    assert host.left("permit")
    assert host.mark() == mark


def test_a_mark_goes_with_the_data(host: Host) -> None:
    host.configure(cluster="other", join_urls="")
    host.has_etcd()
    host.starts()
    host.configure()
    host.refuses()
    shutil.rmtree(host.root / "var/lib/rancher/k3s/server/db")  # as k3s has one do before rejoining
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}


@pytest.mark.parametrize("place", ["db/i12e-cluster.new", "server/db"])
def test_what_cannot_be_marked_for_good_is_not_started(host: Host, place: str) -> None:
    host.has_etcd()
    host.write("bin/sync", f"#!/bin/sh\ncase $1 in */{place}) exit 1 ;; esac\n").chmod(0o755)
    assert "i12e-cluster cannot be written" in host.refuses()


def test_an_agent_has_no_data_to_mark(host: Host) -> None:
    host.configure(role="agent")
    host.alive(LIVING)
    host.starts()
    assert not (host.root / "var/lib/rancher").exists()


# --- a dry run


def scenario(host: Host, name: str) -> None:
    """Given a fresh host, make of it one whose gate has something to change."""
    host.write("etc/rancher/k3s/config.yaml.d/90-i12e.yaml", "{}\n")
    host.permit(action="convert" if name == "convert" else "found")
    if name in ("member", "manifests", "half"):
        host.has_etcd()
    if name in ("convert", "half"):
        host.has_sqlite()
    if name == "manifests":
        host.write("etc/i12e/manifests", "i12e-kube-vip.yaml\n")
        host.write("var/lib/rancher/k3s/server/manifests/i12e-old.yaml")
    if name in ("void", "agent"):
        host.alive(LIVING)
    if name == "agent":
        host.configure(role="agent")
    if name == "wait":
        host.permit(host="server-2")
    if name == "hold":
        host.write("var/lib/i12e/hold", "restore\n")


@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [
        ("found", 0, "would use up the permit|k3s would start. By a permit, k3s founds .* cluster-init: true"),
        ("convert", 0, "would use up the permit|k3s would start. By a permit, k3s converts .* cluster-init: true"),
        ("member", 0, "would remove .*/permit: it is left over|k3s would start. .* server: "),
        ("manifests", 0, "would remove .*/i12e-old.yaml"),
        ("void", 0, f'would remove .*/permit: it is void|k3s would start. .* server: "{LIVING}"'),
        ("agent", 0, "k3s would start. This agent joins"),
        ("wait", 1, "the permit .* is refused: it is for the host server-2|k3s would not start: .* none answers of"),
        ("half", 1, "k3s would not start: .* did not finish"),
        ("hold", 1, "k3s would not start: it is held by .*: restore"),
    ],
)
def test_a_dry_run_says_what_a_start_would_do_and_changes_nothing(
    host: Host, name: str, status: int, expected: str
) -> None:
    scenario(host, name)
    before = host.content()
    done = host.start("--dry-run")
    assert host.content() == before
    assert done.returncode == status, done.stderr
    for line in expected.split("|"):
        assert re.search(f"^k3s-gate: dry run: {line}", done.stdout + done.stderr, re.MULTILINE), line
    # And it is true.
    assert host.start().returncode == status
    assert host.content() != before


@pytest.mark.parametrize("arguments", [("--dryrun",), ("",), ("start",), ("--dry-run", "x"), ("--dry-run", "")])
def test_any_other_argument_is_told_and_nothing_is_done(host: Host, arguments: tuple[str, ...]) -> None:
    scenario(host, "found")
    before = host.content()
    done = host.start(*arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert "usage: k3s-gate [--dry-run]" in done.stderr
    assert host.content() == before


# --- the unit around it


def test_systemd_asks_the_gate_again_for_ever_and_waits_for_the_disks_that_it_reads() -> None:
    settings = ignition.unit((GATE.parent.parent / "units/k3s.conf").read_text())
    assert ("Unit", "StartLimitIntervalSec", "0") in settings
    assert ("Service", "RestartSec", "10s") in settings
    assert ("Unit", "RequiresMountsFor", "/var/lib/i12e /var/lib/rancher/k3s") in settings
    assert ("Unit", "ConditionPathExists", "!/var/lib/i12e/hold") in settings
    assert ("Service", "ExecStartPre", "/bin/sh /opt/i12e/bin/k3s-gate") in settings


# --- the hold, agents, manifests


def test_a_held_host_starts_nothing_and_keeps_its_permit(host: Host) -> None:
    host.write("var/lib/i12e/hold", "restore of 2026-10-07\n")
    host.permit()
    assert "restore of 2026-10-07" in host.refuses()
    assert host.left("permit")


def test_a_hold_that_is_a_link_to_nothing_holds(host: Host) -> None:
    host.has_etcd()
    (host.root / "var/lib/i12e/hold").symlink_to("/nowhere")
    assert "it is held" in host.refuses()


def test_an_agent_joins_the_first_server_that_answers(host: Host) -> None:
    host.configure(role="agent")
    host.permit()
    host.alive(LIVING)
    assert host.starts() == {"server": LIVING}
    assert host.left("permit")


def test_an_agent_waits_when_no_server_answers(host: Host) -> None:
    host.configure(role="agent")
    assert f"none answers of {URLS}" in host.refuses()


def test_an_agent_that_remembers_servers_lets_k3s_try_them(host: Host) -> None:
    host.configure(role="agent")
    host.write("var/lib/rancher/k3s/agent/etc/k3s-agent-load-balancer.json", "{}")
    assert host.starts() == {}


def test_manifests_that_the_config_has_no_more_are_removed(host: Host) -> None:
    folder = "var/lib/rancher/k3s/server/manifests"
    for name in ("i12e-kube-vip.yaml", "i12e-old.yaml", "coredns.yaml"):
        host.write(f"{folder}/{name}")
    host.write("etc/i12e/manifests", "i12e-kube-vip.yaml\n")
    host.has_etcd()
    host.starts()
    assert sorted(os.listdir(host.root / folder)) == ["coredns.yaml", "i12e-kube-vip.yaml"]


def test_without_a_list_of_manifests_none_is_removed(host: Host) -> None:
    file = host.write("var/lib/rancher/k3s/server/manifests/i12e-kube-vip.yaml")
    host.has_etcd()
    host.starts()
    assert file.exists()


@pytest.mark.parametrize("key", ["cluster", "host"])
def test_a_host_that_does_not_know_whose_it_is_takes_no_permit(host: Host, key: str) -> None:
    host.configure(join_urls="", **{key: ""})
    host.permit(**{key: ""})
    assert "names no cluster or no host" in host.refuses()
    assert host.left("permit")


def test_a_host_that_does_not_know_its_role_starts_nothing(host: Host) -> None:
    host.configure(role="")
    assert "names no role" in host.refuses()
