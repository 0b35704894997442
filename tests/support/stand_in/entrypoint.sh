#!/bin/sh
cd /qdrant && exec python -m tests.support.stand_in.server
