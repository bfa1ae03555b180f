#!/usr/bin/env bash
# Builds the release and runs it in production mode. HTTPS is not built in this version yet: put a proxy that
# terminates TLS in front, or use it in a network you trust.
set -eu
cd "$(dirname "$0")"
if [ -z "${CWEB_ADMIN_KEY:-}" ]; then
    echo "production needs an admin key: export CWEB_ADMIN_KEY=\$(openssl rand -hex 32)" >&2
    exit 1
fi
cargo build --release
exec target/release/cweb serve --production --data-dir "${CWEB_DATA_DIR:-$PWD/data}" "$@"
