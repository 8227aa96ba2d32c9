"""Prose that every Python carries: its language reference, as `help("topics")` shows it."""

from __future__ import annotations

import re
from pydoc_data.topics import topics

_MARKUP = re.compile(r"^[=*\-^~]{3,}$\n?|[\"*`]|^ {3,}.*$\n?", re.MULTILINE)


def language_reference(characters: int) -> str:
    """Return that many characters of the reference's longest topics, without markup, grammar and examples."""
    longest = sorted(topics.values(), key=len, reverse=True)
    text = "\n".join(_MARKUP.sub("", topic) for topic in longest)
    return re.sub(r"\n{3,}", "\n\n", text)[:characters]
