#!/bin/sh
# Copies, unless the pipeline's stream has begun: then there is nothing left to copy, and the daemon,
# which may be running, is left alone. For schedulers that start a job again with every deployment.
#     backfill-once CONFIG [more of `qdrant-bridge backfill pgvector`]
set -eu

config=$1
shift
phase=$(qdrant-bridge status --config "$config" --json 2>/dev/null |
    python -c 'import json, sys; print(json.load(sys.stdin)["phase"])' 2>/dev/null) || phase=
case $phase in
    "" | backfill) exec qdrant-bridge backfill pgvector --config "$config" --prepare-sync "$@" ;;
    *) echo "copied before; the stream is: $phase" ;;
esac
