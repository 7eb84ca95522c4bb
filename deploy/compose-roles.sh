#!/bin/sh
# Gives the service its own database role. The image runs this when it creates the database; for a database that exists:
#   docker compose -f deploy/compose.yaml exec database sh /docker-entrypoint-initdb.d/roles.sh
set -e
run() { psql --set=ON_ERROR_STOP=1 --username="$POSTGRES_USER" --dbname="$POSTGRES_DB" --quiet "$@"; }
run --set=password="$POSTGRES_APP_PASSWORD" <<'SQL'
select 'create role receiver_app' where not exists (select from pg_roles where rolname = 'receiver_app') \gexec
alter role receiver_app login password :'password';
SQL
run --file=/roles.sql
