"""Tables as people see them: whole on a wide terminal and in a pipe, blocks on a narrow one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.output import print_table

HEADINGS = ["table", "rows", "missing", "altered"]
ROWS = [["public.nu_items", "1,000", "0", "3"], ["public.other", "20", "0", "0"]]


def shown(width: int, *, terminal: bool, spare: tuple[str, ...] = ()) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None)
    print_table(console, HEADINGS, ROWS, spare=spare)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


WHOLE = [
    "table             rows  missing  altered",
    "public.nu_items  1,000        0        3",
    "public.other        20        0        0",
]


@pytest.mark.parametrize(("width", "terminal"), [(80, True), (40, True), (20, False)])
def test_a_table_that_fits_or_is_piped_is_whole(width: int, terminal: bool) -> None:
    assert shown(width, terminal=terminal) == WHOLE


def test_columns_without_anything_in_them_go_first() -> None:
    assert shown(39, terminal=True, spare=("missing", "altered")) == [
        "table             rows  altered",
        "public.nu_items  1,000        3",
        "public.other        20        0",
    ]


def test_on_a_narrow_terminal_each_row_is_a_block() -> None:
    assert shown(24, terminal=True) == [
        "public.nu_items",
        "  rows     1,000",
        "  missing  0",
        "  altered  3",
        "public.other",
        "  rows     20",
        "  missing  0",
        "  altered  0",
    ]
