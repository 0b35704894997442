"""What is compared of a Pinecone index: a collection, and the namespaces whose records it must hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from bridge.pinecone.index import shown
from bridge.pinecone.mapping import PineconeMapping
from bridge.pinecone.plan import IndexPlan
from bridge.point_ids import PointId
from bridge.postgres.verify_reads import Part
from verify.comparison import Comparer
from verify.messages import Key

_SPACE = 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSubject:
    """One collection of an index. `table` is its name in the report, `label` the index's in the records.

    `counts`: by namespace, as Pinecone counts. `letters` gives the dead letters' reasons by key.
    `unplaced`: namespaces that the plan has no place for, whose records are nowhere.
    """

    table: str
    label: str
    mapping: PineconeMapping
    namespaces: tuple[str, ...]
    counts: Mapping[str, int]
    letters: Callable[[], Mapping[str, str]] = field(default=dict)
    unplaced: tuple[str, ...] = ()

    @property
    def collection(self) -> str:
        """Its name."""
        return self.mapping.collection.name

    @property
    def comparer(self) -> Comparer:
        """That of its points; fields and vectors are all the index's."""
        return Comparer(self.mapping.collection.vectors)

    def key(self, namespace: str, identity: str) -> Key:
        """A record as reports name it, and dead letters do."""
        return (namespace, identity) if self.mapping.several else (identity,)

    def place(self, key: Key) -> tuple[str, str]:
        """(namespace, id): the inverse."""
        return (key[0], key[1]) if len(key) > 1 else (self.namespaces[0], key[0])

    def id_of(self, key: Key) -> PointId:
        """The point of a record."""
        return self.mapping.id_of(*self.place(key))

    def by_namespace(self, keys: Iterable[Key]) -> dict[str, list[str]]:
        """The ids of records, by namespace."""
        found: dict[str, list[str]] = {}
        for key in keys:
            namespace, identity = self.place(key)
            found.setdefault(namespace, []).append(identity)
        return found


def index_subjects(
    plan: IndexPlan,
    counts: Mapping[str, int],
    letters: Callable[[], Mapping[str, str]],
    unplaced: Sequence[str] = (),
) -> list[IndexSubject]:
    """One for each collection of the plan; with a collection for each namespace, the namespace is in
    the name."""
    mappings = plan.mappings()
    subjects: list[IndexSubject] = []
    for collection in dict.fromkeys(plan.collections.values()):
        names = tuple(name for name, one in plan.collections.items() if one == collection)
        split = plan.layout == "split"
        subjects.append(
            IndexSubject(
                table=f"{plan.label}/{shown(names[0])}" if split else plan.label,
                label=plan.label,
                mapping=mappings[names[0]],
                namespaces=names,
                counts={name: counts.get(name, 0) for name in names},
                letters=letters,
                unplaced=tuple(unplaced),
            )
        )
    return subjects


def is_chosen(part: Part, namespace: str, identity: str) -> bool:
    """Whether a sample has the record: the same ones for the same seed, however often they are read."""
    if part.fraction >= 1.0:
        return True
    text = f"{part.seed}\0{namespace}\0{identity}".encode()
    number = int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
    return number < part.fraction * _SPACE
