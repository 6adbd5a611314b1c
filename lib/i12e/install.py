"""./doit os_install:HOST: what a person does to make a host of a blank machine, with the files for it.

There are as many ways as platforms; each takes the rendered config, and some take only a small one. Where it is too
large, or is better not left with the platform, a pointer config takes its place: it says where the real one is and
what its hash is, and Ignition fetches that. Nothing here touches a machine.

Where each line and limit comes from, and which are unsure, is in docs/install.md.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from i12e import files
from i12e.errors import Problem, UsageError, UserError, did_you_mean

if TYPE_CHECKING:
    from i12e.build import Build
    from i12e.model import Host

CONFIG, POINTER = "config.ign", "pointer.ign"
PACKED = "config.ign.gz.b64"
SCHEMES = ("https", "http", "s3", "arn", "gs", "tftp")
"""What Ignition 3.4.0 fetches a config from."""
_OPEN = ("http", "tftp")

FLATCAR = "https://stable.release.flatcar-linux.net"


@dataclass(frozen=True)
class Case:
    """One host on one platform."""

    host: Host
    file: str
    """The path of what the machine gets: the config, or the pointer to it."""
    pointer: bool
    url: str
    config: Mapping[str, Any]
    sha512: str
    """Of the config."""

    @property
    def flatcar(self) -> bool:
        """Whether the host is one of Flatcar's; else it is Fedora CoreOS."""
        return self.host.os.name == "flatcar"

    @property
    def arm(self) -> bool:
        """Whether its processor is arm64."""
        return self.host.os.arch == "arm64"


@dataclass(frozen=True)
class Platform:
    """A way to a first boot."""

    title: str
    steps: Callable[[Case], Iterator[str]]
    """Yields the lines of the instructions; a command is indented."""
    limit: int | None = None
    """Bytes of what the platform takes; None: no limit that matters here."""
    size: Callable[[bytes], int] = len
    """Given a config, how many bytes of the limit it takes."""
    measure: str = ""
    """What the limit counts, where that is not the config's own bytes."""
    metadata: str = ""
    """Who can read what the machine was given, beside root on it."""


@dataclass(frozen=True)
class Made:
    """The files by their names, and the instructions."""

    text: str
    files: dict[str, bytes] = field(default_factory=dict)


# --- the task


def run(build: Build, host: str, platform: str, url: str, reinstall: bool) -> None:
    """Given the build, a host and options, write what its first install needs and have the instructions printed.

    Raise UserError if the platform does not take a config of that size and no --url says where it will be.
    """
    chosen = find(platform or "metal")
    _check_url(url)
    model, config = build.rendered(host)
    folder = build.paths.install(host)
    made = again(model, config, folder) if reinstall else first(model, config, folder, chosen, url)
    shutil.rmtree(build.paths.root / folder, ignore_errors=True)  # a pointer of before says what is no longer so
    for name, content in {CONFIG: config, **made.files}.items():
        files.replace(build.paths.root / folder / name, content)
    size = _too_large(chosen, config) if not url and not reinstall else None
    if size is not None:
        raise UserError(_needs_url(host, PLATFORMS[chosen], size, f"{folder}/{CONFIG}", chosen))
    build.said[f"os_install:{host}"] = made.text


def find(name: str) -> str:
    """Given what --platform says, return the platform's name; raise UsageError if there is none."""
    if name in PLATFORMS:
        return name
    known = ", ".join(PLATFORMS)
    remedy = did_you_mean(name, PLATFORMS) or f"one of {known}"
    raise UsageError(Problem("", None, None, f"--platform {json.dumps(name)}: there is no such platform", remedy))


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    whole = parts.netloc or (parts.scheme == "arn" and parts.path)
    if url and (parts.scheme not in SCHEMES or not whole or any(c.isspace() for c in url)):
        remedy = f"one that Ignition fetches: {', '.join(SCHEMES)}"
        raise UsageError(Problem("", None, None, f"--url {json.dumps(url)}: is no URL for it", remedy))


def _too_large(platform: str, config: bytes) -> int | None:
    """Return how much a config takes where that is more than the platform takes, else None."""
    chosen = PLATFORMS[platform]
    size = chosen.size(config)
    return size if chosen.limit is not None and size > chosen.limit else None


def _needs_url(host: str, platform: Platform, size: int, file: str, name: str) -> Problem:
    what = f"takes {platform.limit} bytes{platform.measure}, and the config of {host} has {size}"
    again = f"./doit os_install:{host} --platform {name} --url URL"
    remedy = f"put {file} where only this machine can fetch it, over https, then: {again}"
    return Problem("", None, None, f"{platform.title} {what}", remedy)


# --- pure


def first(host: Host, config: bytes, folder: str, platform: str, url: str = "") -> Made:
    """Given a host, its config, the folder of the files, a platform and perhaps a URL, return what a first install
    needs. With a URL the machine gets a pointer to the config that will be there.
    """
    chosen = PLATFORMS[platform]
    made = {POINTER: pointer(config, url)} if url else {}
    case = _case(host, config, folder, url)
    if platform == "vmware":
        made[PACKED] = packed(made.get(POINTER, config))
    lines = [f"{host.name} on {chosen.title}, {_os(host)}: first install", ""]
    lines += [
        f"  {folder}/{name}  {_said_of(name, content, url)}" for name, content in {CONFIG: config, **made}.items()
    ]
    if url:
        lines += ["", f"Put {folder}/{CONFIG} at {url}", *_about_url(url, platform)]
    lines += ["", *chosen.steps(case), "", *_secrets(case, chosen), "", *_afterwards(host)]
    if platform == "metal":
        others = ", ".join(name for name in PLATFORMS if name != platform)
        lines += ["", f"Elsewhere: --platform with one of {others}"]
    return Made("\n".join(lines) + "\n", made)


def again(host: Host, config: bytes, folder: str) -> Made:
    """Given a host on Fedora CoreOS, its config and the folder of the files, return how it is installed again.

    Raise UserError for Flatcar, which has a reset.
    """
    if host.os.name != "fcos":
        remedy = f"./doit os_deploy:{host.name} does it; for an empty disk leave --reinstall out"
        raise UserError(
            Problem("", None, None, "Flatcar is not installed again, it is reset, and keeps its data", remedy)
        )
    case = _case(host, config, folder, "")
    lines = [f"{host.name}, {_os(host)}: install again over an old installation", "", *_reinstall(case)]
    return Made("\n".join([*lines, "", *_afterwards(host)]) + "\n")


def pointer(config: bytes, url: str) -> bytes:
    """Given a config and where it will be, return the config that fetches it, and nothing else than exactly it."""
    version = json.loads(config)["ignition"]["version"]
    digest = f"sha512-{hashlib.sha512(config).hexdigest()}"
    replace = {"source": url, "verification": {"hash": digest}}
    return json.dumps(
        {"ignition": {"version": version, "config": {"replace": replace}}}, separators=(",", ":")
    ).encode()


def packed(config: bytes) -> bytes:
    """Given a config, return it as VMware's guestinfo takes it: gzip+base64; the same each time."""
    return base64.b64encode(gzip.compress(config, 9, mtime=0))


def partitions(config: Mapping[str, Any]) -> list[str]:
    """Given a config, return the labels of the partitions that it makes, but for those of the OS."""
    disks = config.get("storage", {}).get("disks", ())
    labels = [str(part.get("label") or "") for disk in disks for part in disk.get("partitions") or ()]
    return sorted({label for label in labels if label} - {"BIOS-BOOT", "EFI-SYSTEM", "boot", "root"})


def _case(host: Host, config: bytes, folder: str, url: str) -> Case:
    file = f"{folder}/{POINTER if url else CONFIG}"
    return Case(host, file, bool(url), url, json.loads(config), hashlib.sha512(config).hexdigest())


def _os(host: Host) -> str:
    return f"{'Flatcar' if host.os.name == 'flatcar' else 'Fedora CoreOS'} ({host.os.arch})"


def _said_of(name: str, content: bytes, url: str) -> str:
    what = {
        CONFIG: "the config, with the cluster's secrets",
        POINTER: f"what the machine gets instead: {url} and its hash",
        PACKED: "the same, as guestinfo takes it",
    }[name]
    return f"({len(content)} bytes; {what})"


def _about_url(url: str, platform: str) -> Iterator[str]:
    scheme = urlsplit(url).scheme
    if scheme in _OPEN:
        yield f"NOTE: {scheme} is not encrypted: whoever sees the traffic reads the secrets; the hash does not hide"
        yield "them, it only makes sure that the machine gets just this config"
    if scheme in ("s3", "arn"):
        away = "" if platform == "ec2" else "; outside EC2 Ignition fetches without any login, so the object is public"
        yield f"Give the instance a role that may s3:GetObject just this object{away}"
    yield "Let nobody else fetch it, and remove it after the first boot: it has the cluster's secrets"


def _secrets(case: Case, platform: Platform) -> Iterator[str]:
    power = "join the cluster as a server, and read all of it" if case.host.role == "server" else "join it as an agent"
    yield f"Secrets: the config holds the cluster's token; whoever has it can {power}."
    if case.pointer:
        yield "The machine gets the pointer; the URL in it may be read like any user-data, so it must not be enough"
        yield "for others to fetch the config: let the address of this machine alone in, or a role."
    elif platform.metadata:
        yield platform.metadata
    yield f"On this machine the files are 0600; rm -r {case.file.rpartition('/')[0]} removes them."


def _afterwards(host: Host) -> Iterator[str]:
    if host.role == "server":
        yield "After its first boot k3s waits: an install founds no cluster, and joins only one whose servers answer."
    else:
        yield "After its first boot it joins the cluster when a server answers, and waits until then."
    yield "Then, from here:"
    yield f"  ./doit os_deploy:{host.name}"


# --- the platforms


def _copy(case: Case) -> str:
    return f"  scp {case.file} core@ADDRESS:"


def _name(case: Case) -> str:
    return case.file.rpartition("/")[2]


def _metal(case: Case) -> Iterator[str]:
    if case.flatcar:
        board = "arm64-usr" if case.arm else "amd64-usr"
        yield "1. Boot a live Linux on the machine, from Flatcar's image say:"
        yield f"  {FLATCAR}/{board}/current/flatcar_production_iso_image.iso"
        yield "   Any other will do that has bash, gawk, gpg, wget, bzip2 and udevadm; it gets the installer by"
        yield "  curl -fsSLO https://raw.githubusercontent.com/flatcar/init/flatcar-master/bin/flatcar-install"
    else:
        yield "1. Boot Fedora CoreOS's live image on the machine; on any machine with podman this fetches it:"
        yield "  podman run --security-opt label=disable --pull=always --rm -v .:/data -w /data \\"
        yield f"    quay.io/coreos/coreos-installer:release download -s stable -p metal{_architecture(case)} -f iso"
    yield "2. Bring the config there, by a USB stick or ssh, and find the disk; all that is on it will be lost:"
    yield _copy(case)
    yield "  lsblk -d -o NAME,SIZE,MODEL,SERIAL"
    yield "3. Install, then boot from that disk:"
    yield from _installer(case)


def _architecture(case: Case) -> str:
    return " -a aarch64" if case.arm else ""


def _installer(case: Case) -> Iterator[str]:
    if case.flatcar:
        board = " -B arm64-usr" if case.arm else ""
        yield f"  sudo flatcar-install -d /dev/DISK -C stable{board} -i {_name(case)}"
        yield "  sudo systemctl reboot"
        yield f"   It puts {_name(case)} on the OEM partition, where root alone reads it."
    else:
        yield f"  sudo coreos-installer install /dev/DISK --ignition-file {_name(case)}"
        yield "  sudo systemctl reboot"
        yield f"   It puts {_name(case)} on the boot partition; the first boot reads it there."


def _pxe(case: Case) -> Iterator[str]:
    if case.flatcar:
        key = case.host.ssh_keys[0]
        board = "arm64-usr" if case.arm else "amd64-usr"
        yield "1. Serve the live system; it runs in memory (3 GB or more), and a host needs its disk. As iPXE script:"
        yield "  #!ipxe"
        yield f"  set base-url {FLATCAR}/{board}/current"
        yield "  kernel ${base-url}/flatcar_production_pxe.vmlinuz initrd=flatcar_production_pxe_image.cpio.gz \\"
        yield f'    flatcar.first_boot=1 sshkey="{key}"'
        yield "  initrd ${base-url}/flatcar_production_pxe_image.cpio.gz"
        yield "  boot"
        yield "2. Bring the config there and find the disk; all that is on it will be lost:"
        yield _copy(case)
        yield "  lsblk -d -o NAME,SIZE,MODEL,SERIAL"
        yield "3. Install, then boot from that disk:"
        yield from _installer(case)
        return
    yield "1. Fetch kernel, initramfs and rootfs of the live system, and serve them:"
    yield "  podman run --security-opt label=disable --pull=always --rm -v .:/data -w /data \\"
    yield f"    quay.io/coreos/coreos-installer:release download -s stable{_architecture(case)} -f pxe"
    yield "2. Make an initramfs that installs by itself, and serve that one; all that is on the disk will be lost."
    yield "   The config is in it, so whoever can fetch it has the secrets:"
    yield "  coreos-installer pxe customize --dest-device /dev/DISK \\"
    yield f"    --dest-ignition {case.file} -o custom-initramfs.img fedora-coreos-VERSION-live-initramfs.ARCH.img"
    yield "   with the kernel arguments: ignition.firstboot ignition.platform.id=metal"


def _qemu(case: Case) -> Iterator[str]:
    name, image = case.host.name, f"{case.host.name}.qcow2"
    if case.flatcar:
        board = "arm64-usr" if case.arm else "amd64-usr"
        base = "flatcar_production_qemu_uefi" if case.arm else "flatcar_production_qemu"
        base_image, system = f"{base}_image.img", "opt/org.flatcar-linux/config"
        yield "1. The image, checked by its signature (Flatcar's key has to be in your keyring):"
        for ending in (".sh", ".sh.sig", "_image.img", "_image.img.sig"):
            yield f"  wget {FLATCAR}/{board}/current/{base}{ending}"
        yield f"  gpg --verify {base}.sh.sig && gpg --verify {base_image}.sig"
    else:
        base_image, system = "fedora-coreos-VERSION-qemu.ARCH.qcow2", "opt/com.coreos/config"
        yield "1. The image; coreos-installer checks its signature:"
        yield f"  coreos-installer download -s stable -p qemu{_architecture(case)} -f qcow2.xz --decompress"
    yield "2. A disk of its own for this host, which starts as the image:"
    yield f"  qemu-img create -f qcow2 -F qcow2 -b {base_image} {image} 20G"
    yield "3. Start it. The config takes effect at the disk's first boot only:"
    if case.arm:
        yield "  qemu-system-aarch64 -machine virt,accel=kvm,gic-version=3 -cpu host -smp 2 -m 4096 \\"
        yield "    -bios QEMU_EFI.fd \\"
    else:
        yield "  qemu-system-x86_64 -machine q35,accel=kvm -cpu host -smp 2 -m 4096 \\"
    yield f"    -name {name} -nographic -drive if=virtio,file={image} \\"
    yield "    -netdev user,id=eth0,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:6443-:6443 \\"
    yield "    -device virtio-net-pci,netdev=eth0 \\"
    yield f"    -fw_cfg name={system},file={case.file}"
    if case.arm:
        yield "   QEMU_EFI.fd is the UEFI of your distribution (Debian: qemu-efi-aarch64)."
    elif case.flatcar:
        yield "   Or, without a disk of its own, by Flatcar's script:"
        yield f"  sh {base}.sh -i {case.file} -- -m 4096 -nographic"
    yield "4. Its address is 10.0.2.15, seen from inside. To reach it, its file says:"
    yield "  ssh: {address: localhost, port: 2222}"


def _ec2(case: Case) -> Iterator[str]:
    image = "Flatcar's" if case.flatcar else "Fedora CoreOS's"
    yield f"Start an instance of {image} image in your region:"
    yield f"  aws ec2 run-instances --image-id AMI --instance-type {'t4g.medium' if case.arm else 't3.medium'} \\"
    yield "    --subnet-id SUBNET --security-group-ids GROUP \\"
    if case.url.startswith(("s3:", "arn:")):
        yield "    --iam-instance-profile Name=PROFILE \\"
    yield "    --metadata-options HttpTokens=required,HttpPutResponseHopLimit=1 \\"
    yield f"    --user-data file://{case.file}"
    yield "   The hop limit keeps pods that have a network of their own away from the metadata; others are not."


def _hetzner(case: Case) -> Iterator[str]:
    architecture = "arm" if case.arm else "x86"
    yield "1. Once for the project, a snapshot with the system (hcloud-upload-image is not Hetzner's own):"
    if case.flatcar:
        board = "arm64-usr" if case.arm else "amd64-usr"
        yield f"  hcloud-upload-image upload --architecture={architecture} --compression=bz2 \\"
        yield f"    --image-url={FLATCAR}/{board}/current/flatcar_production_hetzner_image.bin.bz2 --labels os=flatcar"
    else:
        yield f"  coreos-installer download -s stable -p hetzner{_architecture(case)} -f raw.xz"
        yield f"  hcloud-upload-image upload --architecture {architecture} --compression xz \\"
        yield "    --image-path fedora-coreos-VERSION-hetzner.ARCH.raw.xz --labels os=fcos"
    yield "2. The server:"
    yield f"  hcloud server create --name {case.host.name} --type TYPE --image SNAPSHOT_ID --ssh-key KEY \\"
    yield f"    --user-data-from-file {case.file}"


def _openstack(case: Case) -> Iterator[str]:
    system = "flatcar_production_openstack_image.img.bz2, unpacked" if case.flatcar else "the openstack qcow2"
    yield f"1. Once for the project, an image ({system}):"
    yield "  openstack image create --container-format bare --disk-format qcow2 --file FILE IMAGE"
    yield "2. The server:"
    yield "  openstack server create --image IMAGE --flavor FLAVOR --network NETWORK \\"
    yield f"    --user-data {case.file} {case.host.name}"


def _vmware(case: Case) -> Iterator[str]:
    ova = "flatcar_production_vmware_ova.ova" if case.flatcar else "fedora-coreos-VERSION-vmware.x86_64.ova"
    packed_file = f"{case.file.rpartition('/')[0]}/{PACKED}"
    yield "With govc, whose GOVC_URL and login say where vSphere is:"
    yield f"  govc import.ova -name {case.host.name} {ova}"
    yield f"  govc vm.change -vm {case.host.name} -e guestinfo.ignition.config.data.encoding=gzip+base64"
    yield f"  govc vm.change -vm {case.host.name} -f guestinfo.ignition.config.data={packed_file}"
    yield f"  govc vm.power -on {case.host.name}"
    yield "   After its first boot Ignition replaces the data by an empty config."


def _virtualbox(case: Case) -> Iterator[str]:
    ovf = "flatcar_production_virtualbox.ovf" if case.flatcar else "fedora-coreos-VERSION-virtualbox.x86_64.ova"
    name = case.host.name
    yield f"  VBoxManage import {ovf} --vsys=0 --vmname={name} --memory=4096 --cpus=2"
    yield f"  VBoxManage modifyvm {name} --nat-pf1=ssh,tcp,127.0.0.1,2222,,22"
    yield f'  VBoxManage guestproperty set {name} /Ignition/Config "$(cat {case.file})"'
    yield f"  VBoxManage startvm {name} --type=headless"
    yield "   After its first boot Ignition deletes the property."


def _user_data(case: Case) -> Iterator[str]:
    yield f"Give {case.file} as user-data (custom data, metadata key user-data) to a machine whose image has"
    yield "Ignition for that cloud. How much it takes, i12e does not know: it is not checked here."


def _reinstall(case: Case) -> Iterator[str]:
    labels = partitions(case.config)
    yield "Fedora CoreOS has no reset. An installation writes the disk anew, from a live system:"
    yield "its root, with /etc, /var and k3s's data, is lost."
    if case.host.role == "server":
        yield f"So first, while the cluster lives: ./doit status, and never below a quorum without {case.host.name};"
        yield "where this is the only server, a backup, or its data is gone."
    if labels:
        yield f"What it keeps: the partitions that the config makes of its own: {', '.join(labels)}."
        yield "The config has to say of their file systems that they are not wiped (wipe_filesystem: false), and of"
        yield "the root that it has a fixed size, or it grows over them."
        keep = "".join(f" --save-partlabel {shlex.quote(label)}" for label in labels)
    else:
        yield "The config makes no partition of its own, so nothing on this disk is kept. What is to stay belongs on"
        yield "another disk, or on a partition behind a root of fixed size (8 GiB or more)."
        keep = ""
    yield ""
    yield "1. Boot the live image on the machine (./doit os_install has where it is), and look at the disk:"
    yield "  lsblk -o NAME,PARTLABEL,SIZE,FSTYPE,MOUNTPOINTS"
    yield "2. Bring the config there:"
    yield _copy(case)
    yield "3. Install, then boot from that disk:"
    yield f"  sudo coreos-installer install /dev/DISK --ignition-file {_name(case)}{keep}"
    yield "  sudo systemctl reboot"
    yield "   --save-partindex NUMBER keeps one by its number. One file system labelled boot may be in the machine:"
    yield "   if another disk has an old installation, wipefs -a that disk."
    yield f"4. k3s knows the name {case.host.name} with a password that is lost: ./doit os_deploy takes care of it."


_READABLE = (
    "The platform keeps the config as user-data: on the machine every process can read it from the metadata service,\n"
    "pods too unless a firewall or a hop limit keeps them away, and so can everybody with rights in the account.\n"
    "With --url the machine gets only a pointer to it."
)


def _base64(config: bytes) -> int:
    return len(base64.b64encode(config))


PLATFORMS = {
    "metal": Platform("a machine of its own", _metal),
    "pxe": Platform("a machine that boots from the network", _pxe),
    "qemu": Platform(
        "QEMU", _qemu, metadata="Root on the machine reads it from the firmware; so does who owns the VM."
    ),
    "ec2": Platform("EC2", _ec2, 16384, metadata=_READABLE),
    "hetzner": Platform("Hetzner Cloud", _hetzner, 32768, metadata=_READABLE),
    "openstack": Platform("OpenStack", _openstack, 65535, _base64, " in base64", _READABLE),
    "vmware": Platform(
        "VMware",
        _vmware,
        metadata="Until the first boot is over it is in the VM's settings, for everybody with rights on these.",
    ),
    "virtualbox": Platform(
        "VirtualBox",
        _virtualbox,
        1023,
        metadata="Until the first boot is over it is a property of the VM, for everybody who may run VBoxManage.",
    ),
    "user-data": Platform("another cloud", _user_data, metadata=_READABLE),
}
"""By the name that --platform takes."""
