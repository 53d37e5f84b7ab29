#!/usr/bin/env bash
# Run a command against a throw-away PostgreSQL server: `tests/with_postgres.sh COMMAND…`.
# Uses the installed server, or installs Debian's where it may.
set -euo pipefail
bindir() { find /usr/lib/postgresql -maxdepth 2 -name bin 2>/dev/null | sort -V | tail -n 1; }
if [ -z "$(bindir)" ] && ! command -v initdb >/dev/null; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends postgresql >/dev/null
  else
    echo "no PostgreSQL server here; install one (Debian: apt-get install postgresql)" >&2
    exit 2
  fi
fi
PATH="$(bindir):$PATH"
folder=$(mktemp -d)
as() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; else "$@"; fi; }
if [ "$(id -u)" = 0 ]; then chown postgres "$folder"; fi
finish() { as pg_ctl -D "$folder/db" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$folder"; }
trap finish EXIT
as initdb -D "$folder/db" -U tokensieve -A trust --no-sync >/dev/null
as pg_ctl -D "$folder/db" -w -l "$folder/log" \
  -o "-c listen_addresses= -c unix_socket_directories=$folder -c fsync=off -c max_connections=200" start >/dev/null
as createdb -h "$folder" -U tokensieve tokensieve
export TOKENSIEVE_TEST_DATABASE_URL="postgresql+psycopg://tokensieve@/tokensieve?host=$folder"
"$@"
