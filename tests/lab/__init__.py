"""Real hosts on one machine, for tests and for newcomers: what is real and what stands in is in docs/simulated.md."""

from lab.api import Done, Lab, Trouble
from lab.places import FAULTS

__all__ = ["FAULTS", "Done", "Lab", "Trouble"]
