#!/bin/bash
# Run by the Postgres image when its volume is new: the roles of the application and of the bridge.
set -euo pipefail

psql -v ON_ERROR_STOP=1 --username postgres --dbname app \
    -v app_password="$(cat /run/secrets/app_password)" \
    -v bridge_password="$(cat /run/secrets/bridge_password)" <<'SQL'
CREATE EXTENSION vector;
CREATE ROLE app LOGIN PASSWORD :'app_password';
CREATE ROLE bridge LOGIN REPLICATION PASSWORD :'bridge_password' CONNECTION LIMIT 16;
-- CREATE on the database is what making a publication needs.
GRANT CONNECT, CREATE ON DATABASE app TO app;
GRANT USAGE, CREATE ON SCHEMA public TO app;
GRANT CONNECT ON DATABASE app TO bridge;
GRANT USAGE ON SCHEMA public TO bridge;
SQL
