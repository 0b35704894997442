"""No password of a connection string is ever shown."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.redaction import HIDDEN, redact_connection

CANARY = "c4n4ry"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"postgresql://bridge:{CANARY}@db:5432/app", "postgresql://bridge:***@db:5432/app"),
        (f"postgres://:{CANARY}@/app", "postgres://:***@/app"),
        ("postgresql://bridge@db/app", "postgresql://bridge@db/app"),
        ("postgresql:///app?host=/tmp", "postgresql:///app?host=/tmp"),
        (
            f"postgresql://db/app?user=a&password={CANARY}",
            "postgresql://db/app?user=a&password=***",
        ),
        (f"postgresql://db/app?pass%77ord={CANARY}", "postgresql://db/app?pass%77ord=***"),
        (
            f"postgresql://db/app?sslpassword={CANARY}&x=1",
            "postgresql://db/app?sslpassword=***&x=1",
        ),
        (f"postgresql://u:p@{CANARY}/x?y@db/app", "postgresql://u:***@db/app"),
        (f"host=db password={CANARY} user=u", "host=db password=*** user=u"),
        (f"host = db password = '{CANARY} \\' x' user=u", "host=db password=*** user=u"),
        (f"oauth_client_secret={CANARY}", "oauth_client_secret=***"),
        (f"host=db password='{CANARY}", HIDDEN),
        (f"password={CANARY} {CANARY}", HIDDEN),
        (CANARY, HIDDEN),
        ("", HIDDEN),
    ],
)
def test_passwords_are_hidden_and_the_rest_is_shown(text: str, shown: str) -> None:
    assert redact_connection(text) == shown


@given(noise=st.text(max_size=8), more=st.text(max_size=8))
def test_an_unescaped_password_never_shows_in_a_url(noise: str, more: str) -> None:
    assert CANARY not in redact_connection(f"postgresql://u:{noise}{CANARY}{more}@db/app")


@given(noise=st.text(max_size=8), more=st.text(max_size=8))
def test_a_password_never_shows_in_keywords(noise: str, more: str) -> None:
    password = f"{noise}{CANARY}{more}".replace("\\", "\\\\").replace("'", "\\'")
    assert CANARY not in redact_connection(f"host=db password='{password}' user=u")


@given(password=st.text(min_size=1, max_size=20))
def test_an_escaped_url_keeps_everything_but_the_password(password: str) -> None:
    escaped = quote(password.encode("utf-8", "surrogatepass"), safe="")
    assert redact_connection(f"postgresql://u:{escaped}@db:1/a") == "postgresql://u:***@db:1/a"
