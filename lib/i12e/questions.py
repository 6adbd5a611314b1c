"""What ./doit init asks: one table for the questions on a terminal and for the options of the command line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """An option's name; what is asked; the form of the answer, by its name in `fields`; whether it is a list."""

    option: str
    ask: str
    form: str
    many: bool = False
    optional: bool = False

    @property
    def key(self) -> str:
        """The option's name as a parameter."""
        return self.option.replace("-", "_")


CLUSTER = (
    Question("name", "the cluster's name", "label"),
    Question("api", "the DNS name by which you will reach the Kubernetes API", "dns_name"),
    Question("servers", "the servers' addresses, separated by commas (1, 3 or 5)", "address", many=True),
    Question("agents", "the agents' addresses, or none", "address", many=True, optional=True),
    Question("network", "the network that the hosts live in, or none", "network", optional=True),
    Question("interface", "the hosts' network interface", "interface"),
    Question("vip", "a free address for the API that moves between the servers, or none", "address", optional=True),
    Question("os", "the operating system: flatcar or fcos", "os_name"),
    Question("k3s", "the release of k3s", "k3s_version"),
    Question("ssh-key", "your ssh public key, or a file that holds it", "ssh_key"),
)
