"""Butane configs to Ignition configs, in Python.

    translation = butane.translate(text, files_dir="files")
    translation.json        # bytes for the host
    translation.report      # warnings
    butane.explain(translation.config)   # and back

`translate` raises BadConfig with the errors. All stable versions of flatcar and fcos. No global state but
a cache of encoded contents; safe to use from several threads. README.md beside this file says the rest.
"""

from butane.dataurls import data_url
from butane.explain import explain
from butane.localfiles import LocalFiles, Node
from butane.merge import merge
from butane.printing import to_json
from butane.report import BadConfig, Entry
from butane.translate import Translation, translate
from butane.validate import check

__version__ = "0.1.0"
__all__ = [
    "BadConfig",
    "Entry",
    "LocalFiles",
    "Node",
    "Translation",
    "check",
    "data_url",
    "explain",
    "merge",
    "to_json",
    "translate",
]
