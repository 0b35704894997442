"""Pinecone through its SDK: the only place that calls it. One attempt a call; `scan.py` retries.

The SDK's own retry is switched off where it can be reached: it makes four attempts whatever it is told,
sleeps through the 429s that ours must see to slow down, and gives up by a budget of the whole process
(facts/pinecone.md). Where a later SDK moves that switch, its attempts stay inside each of ours, which
costs time and nothing else.

Importing the SDK is put off until an index is opened: other commands do not pay for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from bridge.errors import UsageError
from bridge.pinecone.errors import Missing, translate
from bridge.pinecone.index import (
    DENSE_FIELD,
    SPARSE_FIELD,
    DenseField,
    IndexFacts,
    Stats,
    namespace_of,
)
from bridge.pinecone.records import LIST_PAGE, IdPage, Record, RecordPage, SparseValues
from bridge.qdrant.channel import is_loopback

_NAMESPACE_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to reach an index: by name through the control plane, by its host, or by both."""

    api_key: str = field(repr=False)
    index: str | None = None
    host: str | None = None
    service_host: str | None = None
    ca_file: str | None = None
    allow_plaintext: bool = False
    timeout_seconds: float = 60.0
    connections: int = 40


class PineconeIndex:
    """An open index. Safe for threads. Errors are ours (`errors.translate`)."""

    def __init__(self, access: Access) -> None:
        from pinecone import Pinecone

        self._access = access
        _refuse_plaintext(access.service_host, access.allow_plaintext)
        _refuse_plaintext(access.host, access.allow_plaintext)
        try:
            self._client = Pinecone(
                api_key=access.api_key,
                host=access.service_host,
                ssl_ca_certs=access.ca_file,
                timeout=access.timeout_seconds,
                # It keeps half of them open.
                connection_pool_maxsize=2 * access.connections,
            )
        except OSError:  # ssl.SSLError is one
            raise UsageError(
                f"cannot read pinecone.ca_file {access.ca_file}",
                hint="it holds the certificates to trust, in PEM form",
            ) from None
        except ValueError as error:
            # The SDK's message does not quote the key, and neither do we.
            raise UsageError(
                "the API key is no valid header: blanks at its ends, or another character",
                hint="pinecone.api_key_file, or QDRANT_BRIDGE_PINECONE__API_KEY",
            ) from error
        self._index: Any = None
        self._facts: IndexFacts | None = None

    def close(self) -> None:
        """Let go of all connections."""
        if self._index is not None:
            self._index.close()
        self._client.close()

    # --- the index ---------------------------------------------------------------------------------

    def describe(self) -> IndexFacts | None:
        """What the control plane says, and the data plane opened at its host.

        None if the index has no name to ask by: then only its stats tell what it is. UsageError if
        the host that was given is another one's.
        """
        access = self._access
        if access.index is None:
            self._open(access.host or "")
            return None
        try:
            model = self._call("the index", lambda: self._client.indexes.describe(access.index))
        except Missing:
            raise UsageError(
                f"the API key's project has no index {access.index}",
                hint="is this its name, and the key that of its project?",
            ) from None
        if not model.host:
            raise UsageError(f"index {access.index} has no host yet", hint="wait until it is ready")
        known = [host for host in (model.host, model.private_host) if host]
        if access.host is not None and _bare(access.host) not in map(_bare, known):
            raise UsageError(
                f"{_bare(access.host)} is not the host of index {access.index}",
                hint=f"its host is {_bare(model.host)}; or leave out the name and read whatever the "
                "host has",
            )
        host = access.host or model.host
        _refuse_plaintext(host, access.allow_plaintext)
        self._open(host)
        self._facts = _facts_of(access.index, host, model)
        return self._facts

    def use(self, facts: IndexFacts) -> None:
        """What the index turned out to be, where it could not be described."""
        self._facts = facts

    @property
    def host(self) -> str:
        """The index's own."""
        return str(self._index.host)

    def _open(self, host: str) -> None:
        if self._index is None:
            try:
                self._index = self._client.index(host=host)
            except ValueError as error:
                raise UsageError(
                    f"{host!r} is no host of an index", hint="as describe-index shows it"
                ) from error
            _switch_retries_off(self._index)

    def stats(self) -> Stats:
        """Counts, and what stats know of the vectors."""
        found = self._call("the index's counts", self._index.describe_index_stats)
        counts: dict[str, int] = {}
        for name, summary in found.namespaces.items():
            name = namespace_of(name)
            counts[name] = counts.get(name, 0) + int(summary.vector_count)
        return Stats(
            counts=counts,
            dimension=found.dimension,
            metric=found.metric,
            vector_type=found.vector_type,
        )

    def namespaces(self) -> dict[str, int]:
        """Every namespace with its count. `Missing` where the index knows no such list."""
        counts: dict[str, int] = {}
        token: str | None = None
        while True:
            asked = {} if token is None else {"pagination_token": token}
            page = self._call(
                "the namespaces",
                lambda asked=asked: self._index.list_namespaces_paginated(
                    limit=_NAMESPACE_PAGE, **asked
                ),
            )
            for one in page.namespaces:
                counts[namespace_of(one.name)] = int(one.record_count)
            token = page.pagination.next if page.pagination is not None else None
            if not token:
                return counts

    # --- pages -------------------------------------------------------------------------------------

    def list_page(self, namespace: str, token: str | None) -> IdPage:
        """A page of ids. `TokenRefused` if the token is not taken (any more)."""
        asked = {} if token is None else {"pagination_token": token}
        if self._documents:
            pages = self._call(
                "a page of ids",
                lambda: next(
                    self._index.documents.list(
                        namespace=namespace or "__default__", limit=LIST_PAGE, **asked
                    ).pages()
                ),
                token=token is not None,
            )
            ids = tuple(one.id for one in pages.items)
            return IdPage(ids=ids, following=pages.pagination_token or None, read_units=1)
        page = self._call(
            "a page of ids",
            lambda: self._index.list_paginated(namespace=namespace, limit=LIST_PAGE, **asked),
            token=token is not None,
        )
        following = page.pagination.next if page.pagination is not None else None
        return IdPage(
            ids=tuple(one.id for one in page.vectors),
            following=following or None,
            read_units=_units(page),
        )

    def fetch(self, namespace: str, ids: Sequence[str]) -> RecordPage:
        """Those of the records that there are. `TooLong`, `Unreadable` as `errors.py` says."""
        if self._documents:
            found = self._call(
                "records",
                lambda: self._index.documents.fetch(
                    namespace=namespace or "__default__", ids=list(ids)
                ),
            )
            documents = [self._document(key, one) for key, one in found.documents.items()]
            return RecordPage(records=documents, read_units=_units(found))
        found = self._call("records", lambda: self._index.fetch(ids=list(ids), namespace=namespace))
        return RecordPage(
            records=[_record(key, one) for key, one in found.vectors.items()],
            read_units=_units(found),
        )

    @property
    def _documents(self) -> bool:
        return self._facts is not None and self._facts.kind == "documents"

    def _document(self, identity: str, document: Any) -> Record:
        facts = self._facts
        assert facts is not None  # noqa: S101 - only a described index has documents
        fields = dict(document.to_dict())
        fields.pop("_id", None)
        dense = {
            one.name: fields.pop(one.name)
            for one in facts.dense
            if fields.get(one.name) is not None
        }
        sparse = {
            name: SparseValues(fields[name]["indices"], fields.pop(name)["values"])
            for name in facts.sparse
            if isinstance(fields.get(name), dict) and {"indices", "values"} <= fields[name].keys()
        }
        return Record(identity, dense, sparse, fields)

    def _call(self, what: str, action: Any, *, token: bool = False) -> Any:
        try:
            return action()
        except Exception as error:
            raise translate(error, what=what, token=token) from error


def _record(identity: str, vector: Any) -> Record:
    sparse = vector.sparse_values
    return Record(
        identity,
        {"": vector.values} if vector.values else {},
        {"": SparseValues(sparse.indices, sparse.values)} if sparse is not None else {},
        vector.metadata or {},
    )


def _units(answer: Any) -> int:
    usage = getattr(answer, "usage", None)
    return int(getattr(usage, "read_units", None) or 0)


def _switch_retries_off(index: Any) -> None:
    """See the module. Nothing happens where the SDK has it elsewhere."""
    transport = getattr(getattr(getattr(index, "_http", None), "_client", None), "_transport", None)
    config = getattr(transport, "_config", None)
    if config is not None and hasattr(config, "max_retries"):
        transport._config = replace(config, max_retries=0)  # type: ignore[union-attr]


def _facts_of(name: str, host: str, model: Any) -> IndexFacts:
    """The described schema as facts."""
    fields: Mapping[str, Any] = model.schema.fields
    dense: list[DenseField] = []
    sparse: list[str] = []
    embedded: list[str] = []
    embedding = ""
    for key, one in fields.items():
        kind = type(one).__name__
        if kind == "DenseVectorField":
            called = "" if key == DENSE_FIELD else key
            dense.append(DenseField(name=called, dimension=one.dimension, metric=one.metric))
        elif kind == "SparseVectorField":
            sparse.append("" if key == SPARSE_FIELD else key)
        elif kind == "SemanticTextField":
            embedding = one.model
            dense.append(DenseField(name="", dimension=None, metric=one.metric))
        elif kind == "StringField" and (one.embed is not None or one.sparse_embed is not None):
            embedded.append(key)
    searched = any(getattr(one, "full_text_search", None) is not None for one in fields.values())
    documents = bool(embedded or searched or any(one.name for one in dense) or any(sparse))
    pod = type(model.deployment).__name__ == "PodDeployment"
    return IndexFacts(
        name=name,
        host=host,
        kind="pod" if pod else "documents" if documents else "vectors",
        dense=tuple(dense),
        sparse=tuple(sparse),
        model=embedding,
        embedded=tuple(embedded),
    )


def _bare(host: str) -> str:
    """A host without scheme and slash, for comparison."""
    return host.split("://")[-1].rstrip("/").lower()


def _refuse_plaintext(host: str | None, allowed: bool) -> None:
    """UsageError for plaintext to a host that is not this machine."""
    if host is None or not host.lower().startswith("http://") or allowed:
        return
    name = urlsplit(host).hostname or ""
    if not is_loopback(name):
        raise UsageError(
            f"http://{name} would send the API key in plaintext to another machine",
            hint="use https://, or --allow-plaintext where the network itself is trusted",
        )
