"""The page that tells of a restore: what was restored onto what, and how long each step took."""

from __future__ import annotations

import html as markup
import time
from collections.abc import Mapping
from typing import Any

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ padding: .2em .6em; text-align: left; border-bottom: 1px solid #ddd; }}
.n {{ text-align: right; white-space: nowrap; }}
.bar {{ background: #4a7; height: .8em; }}
</style>
<h1>{title}</h1>
<p>{when}: the backup <b>{backup}</b> of the store {store} was restored onto <b>{target}</b>, proven and promoted, in
<b>{proven} s</b>, and had its first backup after {seconds} s. The database has {megabytes} MB.{fresh}</p>
<table><tr><th>step<th class="n">seconds<th style="width: 60%"></tr>
{rows}
</table>
</html>
"""
_ROW = '<tr><td>{step}<td class="n">{seconds:.1f}<td><div class="bar" style="width: {share:.1f}%"></div></tr>'


def html(cluster: str, told: Mapping[str, Any]) -> str:
    """Given the cluster's name and the facts of a restore as JSON has them, return the page."""
    steps: Mapping[str, float] = told["steps"]
    longest = max([*steps.values(), 0.1])
    rows = [
        _ROW.format(step=markup.escape(step), seconds=taken, share=100 * taken / longest)
        for step, taken in steps.items()
    ]
    fresh = f" The first backup of what is there now is {markup.escape(told['first_backup'])}."
    return _PAGE.format(
        title=markup.escape(f"Restore of {cluster}"),
        when=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        backup=markup.escape(told["backup"]),
        store=markup.escape(told["store"]),
        target=markup.escape(told["target"]),
        proven=told["proven_seconds"],
        seconds=told["seconds"],
        megabytes=f"{told['bytes'] / 1e6:.1f}",
        fresh=fresh if told["first_backup"] else "",
        rows="\n".join(rows),
    )
