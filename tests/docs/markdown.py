"""The project's documents as the tests see them: blocks with their directives, tables, links.

External specification: CommonMark, "Fenced code blocks" and "HTML blocks"; GitHub Flavored Markdown,
"Tables". Only what the documents use is read: fences of three backticks at the line's beginning.

A directive is an HTML comment on a line of its own, between the text and the block that it is about:

    <!-- not run: reason -->     an sh, sql or python block that no test runs
    <!-- exit: 1 -->             what an sh block exits with, if it is not 0
    <!-- file: bridge.yaml -->   a block that is also written to this file
    <!-- contents: bridge.yaml -->   a yaml block that shows this file, which a command has written
    <!-- not configuration: reason -->   a yaml block that is no bridge.yaml
    <!-- output -->              a text or json block that shows what the block before it printed
    <!-- table: name -->         a table that a test goes through
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
DOCUMENTS: Final = (
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs/architecture.md",
    "docs/comparison.md",
    "docs/concepts.md",
    "docs/configuration.md",
    "docs/debezium.md",
    "docs/deployment.md",
    "docs/glossary.md",
    "docs/guarantees.md",
    "docs/index.md",
    "docs/maintenance.md",
    "docs/mapping.md",
    "docs/monitoring.md",
    "docs/operations.md",
    "docs/pinecone.md",
    "docs/quickstart.md",
    "docs/scaling.md",
    "docs/verification.md",
    "docs/versions.md",
)

_FENCE = re.compile(r"```(\w*)")
_DIRECTIVE = re.compile(r"<!-- ([a-z ]+?)(?:: (.*))? -->")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"#{1,6} (.*)")
_CODE = re.compile(r"`([^`]+)`")
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block. `line` is that of its fence, from 1."""

    document: str
    line: int
    language: str
    text: str
    directives: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where a failure lies."""
        return f"{self.document}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document, by its path from the repository's root."""

    path: str
    text: str

    @property
    def blocks(self) -> list[Block]:
        """All fenced blocks in order."""
        return list(_blocks(self.path, self.text))

    @property
    def prose(self) -> str:
        """The text without its blocks."""
        return re.sub(r"(?ms)^```.*?^```$", "", self.text)

    @property
    def links(self) -> list[str]:
        """The targets of all links."""
        return _LINK.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """The headings as links name them: lower case, blanks as hyphens, punctuation dropped."""
        found = filter(None, map(_HEADING.fullmatch, self.prose.splitlines()))
        return {re.sub(r"[^\w -]", "", match[1]).lower().replace(" ", "-") for match in found}

    @property
    def code(self) -> list[str]:
        """Everything between single backticks, outside of blocks."""
        return _CODE.findall(self.prose)

    def table(self, name: str) -> list[list[str]]:
        """The rows of the table with this directive, its heading left out; cells as written."""
        lines = self.text.split(f"<!-- table: {name} -->\n", 1)[1].lstrip("\n").splitlines()
        rows: list[list[str]] = []
        for line in lines:
            if not line.startswith("|"):
                break
            rows.append([cell.strip() for cell in _CELL.split(line.strip()[1:-1])])
        assert len(rows) > 2, f"{self.path}: the table {name} is empty"
        return rows[2:]


def read(path: str) -> Document:
    """A document by its path from the root."""
    return Document(path=path, text=(ROOT / path).read_text(encoding="utf-8"))


def bare(cell: str) -> str:
    """A cell that is one piece of code, without its backticks and the escape of a bar."""
    assert cell.startswith("`") and cell.endswith("`") and cell.count("`") == 2, cell
    return cell[1:-1].replace("\\|", "|")


def _blocks(path: str, text: str) -> Iterator[Block]:
    lines = iter(enumerate(text.splitlines(), start=1))
    directives: dict[str, str] = {}
    for number, line in lines:
        fence, directive = _FENCE.fullmatch(line), _DIRECTIVE.fullmatch(line)
        if directive is not None:
            directives[directive[1]] = directive[2] or ""
        elif fence is not None:
            body: list[str] = []
            for _, inner in lines:
                if inner == "```":
                    break
                body.append(inner)
            else:
                raise ValueError(f"{path}:{number}: the block is not closed")
            yield Block(
                document=path,
                line=number,
                language=fence[1],
                text="\n".join(body) + "\n",
                directives=directives,
            )
            directives = {}
        elif line.strip():
            directives = {}
