"""Texts as they may be shown: without the credentials that URLs in them carry. Pure."""

from __future__ import annotations

import re

# Wider than URLs are: what a parser refuses for a slash too few may still hold a password.
# To the last `@` before a slash: a password may hold one itself.
_USERINFO = re.compile(r"([a-zA-Z][\w+.-]*:[/\\]*)[^/\\\s]*@")
_QUERY_VALUE = re.compile(r"([?&#][^=&\s#]+)=[^&\s#\"']*")


def masked(text: str) -> str:
    """Take user and password, and the values of query and fragment, out of what is like a URL.

    Args:
        text: of some thousand characters at most; the time it takes is quadratic.
    """
    if "@" in text:
        text = _USERINFO.sub(r"\1…@", text)
    if "=" in text and ("/" in text or "\\" in text):
        text = _QUERY_VALUE.sub(r"\1=…", text)
    return text
