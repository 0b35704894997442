"""`qdrant_client.grpc`, the generated messages and stubs, without the rest of that client.

To import a subpackage runs its parent first, and that loads the REST models, the local mode and httpx:
0.9 s and 50 MB of every command, for nothing that is used here. So while the messages are loaded, a
bare package of that name stands in for the parent, and goes again: whoever wants the whole client
(the tests do) imports it as usual, and finds these same messages in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bridge.errors import UsageError

if TYPE_CHECKING:
    from qdrant_client import grpc as q
else:

    def _load() -> Any:
        if _PACKAGE in sys.modules:
            return importlib.import_module(_MESSAGES)
        found = importlib.util.find_spec(_PACKAGE)
        if found is None or found.submodule_search_locations is None:
            raise UsageError(
                "the package qdrant-client is not installed",
                hint="install qdrant-bridge with its dependencies",
            )
        bare = ModuleType(_PACKAGE)
        bare.__path__ = list(found.submodule_search_locations)
        sys.modules[_PACKAGE] = bare
        try:
            return importlib.import_module(_MESSAGES)
        finally:
            del sys.modules[_PACKAGE]

    _PACKAGE = "qdrant_client"
    _MESSAGES = "qdrant_client.grpc"
    q = _load()

__all__ = ["q"]
