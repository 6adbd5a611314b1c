"""Butane configs to Ignition configs, in Python.

    translation = butane.translate(text, files_dir="files")
    translation.json        # bytes for the host
    translation.report      # warnings

`translate` raises BadConfig with every error at once. Supported so far: flatcar 1.0.0 and 1.1.0,
fcos 1.4.0 and 1.5.0, with users, groups, files, directories, links, units and kernel arguments;
anything else in a config is an error. No global state but a cache of encoded contents; safe to use
from several threads.
"""

from butane.merge import merge, to_json
from butane.report import BadConfig, Entry
from butane.translate import Translation, translate
from butane.urls import data_url
from butane.validate import check

__all__ = ["BadConfig", "Entry", "Translation", "check", "data_url", "merge", "to_json", "translate"]
