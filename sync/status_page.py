"""The page at `/`: one file with its style and script inside, nothing fetched but `/events`.

External specification: W3C Content Security Policy Level 3. The policy names the digests of the two
inline parts, so that whatever else might get into the page (it shows names of tables, and messages of
databases) is text and never runs. The script writes with `textContent` only.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Final

from sync.http import HTML, Response

_FILE: Final = Path(__file__).with_name("status_page.html")
_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@cache
def page() -> Response:
    """The page with its policy."""
    text = _FILE.read_text(encoding="utf-8")
    digests = {match[1]: _digest(match[2]) for match in _INLINE.finditer(text)}
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data:; style-src {digests['style']}; "
        f"script-src {digests['script']}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Response(
        content_type=HTML,
        body=text.encode(),
        headers=(("Content-Security-Policy", policy), ("Referrer-Policy", "no-referrer")),
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
