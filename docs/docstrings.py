"""Docstrings for the site: doctests become code blocks, and sections that say that there is nothing are left out."""

import re

import griffe

EMPTY = re.compile(r"^(Args:\n +None\.|Raises:\n +Nothing\.)\n*", re.M)


def readable(text: str) -> str:
    """A docstring in Google style, as Markdown can show it."""
    lines, inside = [], False
    for line in EMPTY.sub("", text).splitlines():
        if line.lstrip().startswith(">>>") and not inside:
            lines += ["```pycon"]
            inside = True
        elif inside and not line.strip():
            lines += ["```"]
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)


class Docstrings(griffe.Extension):
    """Rewrites every docstring that griffe reads."""

    def on_instance(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = readable(obj.docstring.value)
