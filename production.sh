#!/usr/bin/env bash
# Builds the release and runs it in production mode. HTTPS: add --tls-cert FILE --tls-key FILE, or set CWEB_TLS_CERT and
# CWEB_TLS_KEY. Without them it serves plain HTTP and expects a proxy that terminates TLS in front.
set -eu
cd "$(dirname "$0")"
if [ -z "${CWEB_ADMIN_KEY:-}${CWEB_KEYS_FILE:-}" ]; then
    echo "production needs a key: export CWEB_ADMIN_KEY=\$(openssl rand -hex 32), or CWEB_KEYS_FILE (see cweb keygen)" >&2
    exit 1
fi
cargo build --release
exec target/release/cweb serve --production --data-dir "${CWEB_DATA_DIR:-$PWD/data}" "$@"
