"""i12e: from a git repository to a running k3s cluster on immutable hosts, and back from a backup."""

__version__ = "0.1.0"
