"""The configuration as values: everything of `bridge.yaml` but the tables (design.md section 10).

`bridge/config.py` fills these from the file, the environment and the flags. Whoever holds a
`Settings` may rely on: secrets are read already (`*_file` is kept for display only), names of the
pipeline, slot and publication are ones that Postgres takes, no two tables share a collection, and
table names are in their one spelling (`format_table_name`).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SecretStr,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from bridge.config_tables import SEQUENCE, WORD, Section, TableSettings
from bridge.errors import UsageError
from bridge.redaction import redact_url
from bridge.table_names import format_table_name, parse_table_name

# The prefix `bridge_` and what Postgres allows in a slot's name leave this much.
PipelineName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,50}$")]
SlotName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,63}$")]

_SHARD = re.compile(r"(\d+)/(\d+)")


class PostgresSettings(Section):
    """Where the source is. A password may also come from PGPASSWORD, .pgpass or a service file."""

    url: SecretStr | None = None
    """postgresql://user@host:5432/database, or host=... dbname=..., as libpq takes it."""
    url_file: str | None = Field(default=None, min_length=1)
    """A file that holds the url."""


def _word_or_sequence(value: object) -> str:
    return WORD if isinstance(value, str) else SEQUENCE


class PineconeSettings(Section):
    """A Pinecone index as the source of a backfill."""

    index: str | None = Field(default=None, min_length=1)
    """The index's name."""
    host: str | None = Field(default=None, min_length=1)
    """The index's own host."""
    api_key: SecretStr | None = None
    """Better in api_key_file or in the environment."""
    api_key_file: str | None = Field(default=None, min_length=1)
    """A file that holds the API key."""
    service_host: str | None = Field(default=None, min_length=1)
    """Another control plane than Pinecone's own."""
    namespaces: Annotated[
        Annotated[Literal["all", "split"], Tag(WORD)] | Annotated[tuple[str, ...], Tag(SEQUENCE)],
        Discriminator(_word_or_sequence),
    ] = "all"
    """all: every one into one collection; split: a collection each; or a list of names."""
    numbers: Literal["integer", "float"] = "integer"
    """integer: whole numbers stay integers unless the field has fractions."""
    collection: str | None = Field(default=None, min_length=1)
    """Default: the index's name."""
    id_field: str = Field(default="__id__", min_length=1)
    """The payload field that keeps Pinecone's id."""
    namespace_field: str = Field(default="namespace", min_length=1)
    """The payload field that keeps the namespace, where several share the collection."""
    sparse_vector: str = Field(default="sparse_vector", min_length=1)
    """The name of the sparse vector in Qdrant."""
    payload_indexes: Literal["auto", "none"] = "auto"
    """auto: an index for each field of the sample, at most 32; the namespace's is always there."""
    reconcile: Literal["auto", "full", "none"] = "auto"
    """auto: list again what has changed in number; full: read everything again; none: only count."""
    ids_file: str | None = Field(default=None, min_length=1)
    """A file of ids, one a line, for an index that cannot list its own (pod-based)."""
    list_per_second: float = Field(default=200.0, ge=0, allow_inf_nan=False)
    """Pages of ids a second; 0: no limit but the answers'."""
    fetch_per_second: float = Field(default=100.0, ge=0, allow_inf_nan=False)
    """Fetches a second; 0: no limit but the answers'."""
    ca_file: str | None = Field(default=None, min_length=1)
    """Certificates to trust instead of the system's, PEM."""


class QdrantSettings(Section):
    """Where the target is."""

    url: str = "http://localhost:6334"
    """http(s)://host:6334 (the gRPC port), or edge:///directory (Qdrant Edge, embedded)."""
    api_key: SecretStr | None = None
    """Better in api_key_file or in the environment."""
    api_key_file: str | None = Field(default=None, min_length=1)
    """A file that holds the API key."""
    write_ordering: Literal["weak", "medium", "strong"] = "weak"
    """medium where the collection is replicated; strong by choice."""
    ca_file: str | None = Field(default=None, min_length=1)
    """Certificates to trust instead of the system's, PEM."""
    timeout_seconds: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """How long one request may take."""

    @field_validator("url")
    @classmethod
    def _url_is_known(cls, url: str) -> str:
        problem = _url_problem(url)
        if problem:
            raise ValueError(f"found {redact_url(url)!r}: {problem}")
        return url


def _url_problem(url: str) -> str:
    """What is wrong with a url of Qdrant; empty if nothing is."""
    allowed = "http://host:6334, https://host:6334 or edge:///directory"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is the check
    except ValueError:
        return f"it cannot be read; allowed: {allowed}"
    if parts.scheme == "edge":
        if parts.netloc or len(parts.path) < 2:
            return "three slashes and an absolute path: edge:///var/lib/qdrant-bridge"
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"allowed: {allowed}"
    if parts.username is not None or parts.password is not None:
        return "no user and password here; an API key belongs in qdrant.api_key_file"
    if parts.query or parts.fragment:
        return "nothing may follow the host and port"
    return ""


class WindowSettings(Section):
    """When a window of changes is written: at the first limit reached."""

    operations: int = Field(strict=True, default=2000, ge=1)
    """Operations."""
    bytes: int = Field(strict=True, default=16 * 1024 * 1024, ge=1)
    """Bytes of changes."""
    milliseconds: int = Field(strict=True, default=50, ge=1)
    """Since its first change."""


class SyncSettings(Section):
    """The daemon. Without this section a backfill is a single copy and makes no slot."""

    source: Literal["postgres", "debezium"] = "postgres"
    """Where changes come from."""
    slot: SlotName | None = None
    """Default: bridge_ and the pipeline's name."""
    publication: Annotated[str, StringConstraints(min_length=1)] | None = None
    """Default: bridge_ and the pipeline's name."""
    window: WindowSettings = WindowSettings()
    """When changes are written."""

    @field_validator("publication")
    @classmethod
    def _publication_fits(cls, name: str | None) -> str | None:
        if name is not None and ("\0" in name or len(name.encode()) > 63):
            raise ValueError("allowed: at most 63 bytes, and no NUL")
        return name


def _servers(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


class KafkaModes(Section):
    """The settings of a connector that change what values look like."""

    decimal: Literal["precise", "string", "double"] = "precise"
    """decimal.handling.mode."""
    time: Literal[
        "adaptive",
        "adaptive_time_microseconds",
        "connect",
        "isostring",
        "microseconds",
        "nanoseconds",
    ] = "adaptive"
    """time.precision.mode."""
    interval: Literal["numeric", "string"] = "numeric"
    """interval.handling.mode."""
    binary: Literal["bytes", "base64", "base64-url-safe", "hex"] = "bytes"
    """binary.handling.mode."""
    unknown_types: bool = False
    """include.unknown.datatypes."""
    placeholder: str = "__debezium_unavailable_value"
    """unavailable.value.placeholder."""


class KafkaSettings(Section):
    """Where Debezium's events are read."""

    bootstrap_servers: Annotated[
        tuple[str, ...],
        BeforeValidator(_servers, json_schema_input_type=str | list[str]),
    ] = Field(min_length=1)
    """host:port, several with commas or as a list."""
    group: str | None = Field(default=None, min_length=1)
    """The consumer group. Default: bridge_ and the pipeline's name."""
    topics: dict[str, str] = Field(min_length=1)
    """Topic -> table."""
    existing_rows: Literal["copied", "snapshot"] = "copied"
    """copied: directly from Postgres, before the topics are read (the connector has
    snapshot.mode=no_data); snapshot: Debezium's own snapshot brings them through Kafka."""
    without_postgres: Literal["stop", "dead_letter"] = "stop"
    """What a change becomes that does not tell all of its row, if no Postgres url is given."""
    never_truncated: bool = False
    """The tables are never truncated, so that it does not matter if the topics do not tell of it."""
    connect_url: str | None = Field(default=None, min_length=1)
    """Kafka Connect's REST interface, to look at the connector; without a user or a password."""
    connector: str | None = Field(default=None, min_length=1)
    """The connector's name there."""
    modes: KafkaModes | None = None
    """The connector's modes, where Kafka Connect cannot be asked; without schemas only."""
    security: Literal["plaintext", "tls"] = "plaintext"
    """How the brokers are spoken to."""
    sasl: Literal["none", "plain", "scram-sha-256", "scram-sha-512"] = "none"
    """How to authenticate."""
    username: str | None = Field(default=None, min_length=1)
    """For SASL."""
    password: SecretStr | None = None
    """Better in password_file or in the environment."""
    password_file: str | None = Field(default=None, min_length=1)
    """A file that holds the password."""
    ca_file: str | None = Field(default=None, min_length=1)
    """Certificates to trust instead of the system's, PEM."""
    certificate_file: str | None = Field(default=None, min_length=1)
    """Our own certificate, PEM, where the brokers ask for one."""
    key_file: str | None = Field(default=None, min_length=1)
    """Its private key, PEM."""
    session_timeout_seconds: int = Field(strict=True, default=45, ge=6, le=1800)
    """So long a process may be silent before its partitions go to others."""

    @field_validator("connect_url")
    @classmethod
    def _connect_url_has_no_secret(cls, url: str | None) -> str | None:
        # What is refused here is not shown: `config` prints the setting as it is.
        if url is not None and "@" in urlsplit(url).netloc:
            raise ValueError(
                "it has a user or a password in it; leave them out, and let the network or a proxy "
                "decide who may ask, or give kafka.modes instead"
            )
        return url

    @field_validator("topics")
    @classmethod
    def _tables_are_names(cls, topics: dict[str, str]) -> dict[str, str]:
        return {topic: canonical_table(table) for topic, table in topics.items()}


class HttpSettings(Section):
    """Health, metrics and the status page of the daemon."""

    listen: str = "127.0.0.1:8080"
    """host:port; [::1]:8080 for IPv6."""
    hold_on_stop: bool = False
    """After a STOP the page and /readyz go on telling why."""

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, listen: str) -> str:
        host, colon, port = listen.rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if bare == host and ":" in host:
            raise ValueError(f"found {listen!r}: an IPv6 address stands in brackets, [::1]:8080")
        if not (colon and bare and port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError(f"found {listen!r}; allowed: host:port, such as 127.0.0.1:8080")
        return listen

    @property
    def address(self) -> tuple[str, int]:
        """Host, without brackets, and port."""
        host, _, port = self.listen.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


class MigrationSettings(Section):
    """How a backfill runs."""

    num_workers: int = Field(strict=True, default=0, ge=0, le=1024)
    """Worker processes; 0: as many as there are cores."""
    batch_size: int = Field(strict=True, default=256, ge=1, le=100_000)
    """Points a request."""
    batch_delay_milliseconds: int = Field(strict=True, default=0, ge=0)
    """Pause of a worker after each request."""
    restart: bool = False
    """Forget the progress of an earlier run and read everything again."""
    create_collection: bool = True
    """Create the collection if it is missing."""
    offsets_collection: str | None = None
    """Taken from qdrant-migration's flags; progress lies in the state collection."""
    shard: str | None = None
    """i/n: this run is number i (from 0) of n that share the tables. /n: i from
    JOB_COMPLETION_INDEX, which Kubernetes sets in an indexed job."""

    @field_validator("shard")
    @classmethod
    def _shard_in_range(cls, shard: str | None) -> str | None:
        if shard is None:
            return None
        match = _SHARD.fullmatch(shard)
        if not match or not int(match[1]) < int(match[2]):
            raise ValueError(
                f"found {shard!r}; allowed: i/n with i from 0 to n - 1, "
                "or /n with JOB_COMPLETION_INDEX set"
            )
        return shard

    @property
    def shard_index_and_count(self) -> tuple[int, int]:
        """(i, n); (0, 1) if the run has the tables to itself."""
        index, _, count = (self.shard or "0/1").partition("/")
        return int(index), int(count)


class Settings(Section):
    """qdrant-bridge's configuration. One file serves every command."""

    pipeline: PipelineName | None = None
    """Names slot, publication, consumer group and state: a to z, 0 to 9, and underscores."""
    postgres: PostgresSettings = PostgresSettings()
    """The source."""
    pinecone: PineconeSettings | None = None
    """A Pinecone index, instead of or beside Postgres, for a backfill."""
    qdrant: QdrantSettings = QdrantSettings()
    """The target."""
    tables: dict[str, TableSettings] = Field(default_factory=dict)
    """By name, as in SQL: public.products, app."Weird.Table"."""
    sync: SyncSettings | None = None
    """The daemon. Without it a backfill is a single copy and makes no slot."""
    kafka: KafkaSettings | None = None
    """Needed by sync.source: debezium."""
    http: HttpSettings = HttpSettings()
    """Health and metrics."""
    migration: MigrationSettings = MigrationSettings()
    """The backfill."""
    allow_plaintext: bool = False
    """Permit connections without TLS to hosts other than this one."""
    skip_tls_verification: bool = False
    """Take any certificate of Qdrant's."""

    @field_validator("tables")
    @classmethod
    def _tables_in_one_spelling(cls, tables: dict[str, TableSettings]) -> dict[str, TableSettings]:
        named: dict[str, TableSettings] = {}
        for text, table in tables.items():
            name = canonical_table(text)
            if name in named:
                raise ValueError(f"{name} is there twice, in two spellings")
            named[name] = table
        return named

    @property
    def reads_kafka(self) -> bool:
        """Whether the changes come through Kafka."""
        return self.sync is not None and self.sync.source == "debezium"

    @model_validator(mode="after")
    def _parts_fit(self) -> Settings:
        owners: dict[str, str] = {}
        for name in self.tables:
            collection = self.collection_of(name)
            if collection in owners:
                raise ValueError(
                    f"tables {owners[collection]} and {name} would share collection "
                    f"{collection!r}; give one of them a collection of its own"
                )
            owners[collection] = name
        for topic, table in self.kafka.topics.items() if self.kafka else ():
            if table not in self.tables:
                raise ValueError(f"kafka.topics: {topic} names {table}, which is not in tables")
        return self

    def collection_of(self, table: str) -> str:
        """The collection of a table named in `tables`: as configured, else the table's name."""
        return self.tables[table].collection or parse_table_name(table)[1]

    @property
    def slot(self) -> str:
        """The replication slot's name. UsageError without a pipeline's name to make it from."""
        chosen = self.sync.slot if self.sync else None
        return chosen or self._named_after_pipeline("sync.slot")

    @property
    def publication(self) -> str:
        """The publication's name. UsageError without a pipeline's name to make it from."""
        chosen = self.sync.publication if self.sync else None
        return chosen or self._named_after_pipeline("sync.publication")

    @property
    def consumer_group(self) -> str:
        """The Kafka consumer group's. UsageError without a pipeline's name to make it from."""
        chosen = self.kafka.group if self.kafka else None
        return chosen or self._named_after_pipeline("kafka.group")

    def _named_after_pipeline(self, setting: str) -> str:
        if self.pipeline is None:
            raise UsageError(
                f"neither pipeline nor {setting} is set",
                hint="give the pipeline a name: pipeline: shop",
            )
        return f"bridge_{self.pipeline}"


def canonical_table(text: str) -> str:
    """A table's name in its one spelling. ValueError, for pydantic, if it is malformed."""
    try:
        return format_table_name(*parse_table_name(text))
    except UsageError as error:
        raise ValueError(f"{error.message}; {error.hint}") from error
