#!/bin/sh
# Returns once every chunk of every table is copied, by whatever number of machines, or the stream has begun.
#     wait-for-copy CONFIG
set -eu

tables=$(qdrant-bridge config --config "$1" --json |
    python -c 'import json, sys; print(len(json.load(sys.stdin)["settings"]["tables"]))')
# Tables are planned one after the other: those that are known may be complete before all are known.
until qdrant-bridge status --config "$1" --json 2>/dev/null | python -c '
import json, sys
report = json.load(sys.stdin)
copied = report["complete"] and len(report["tables"]) >= int(sys.argv[1])
sys.exit(not (copied or report["phase"] != "backfill"))
' "$tables" 2>/dev/null; do
    sleep "${WAIT_SECONDS:-2}"
done
