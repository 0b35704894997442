"""The index that docs/pinecone.md speaks of."""

from __future__ import annotations

import numpy as np

from tests.support.pinecone_index import Index


def products() -> Index:
    """360 records in three namespaces, with metadata of every kind."""
    index = Index("products", dimension=8, metric="cosine")
    numbers = np.random.default_rng(5).standard_normal((360, index.dimension))
    for namespace, count in (("", 200), ("tenant-a", 120), ("tenant-b", 40)):
        for number in range(1, count + 1):
            metadata = {
                "title": f"Product {number}",
                "stock": number,
                "price": number * 0.25,
                "active": number % 2 == 0,
                "tags": ["new"],
            }
            index.put(f"doc-{number}", numbers[number], namespace=namespace, metadata=metadata)
    return index
