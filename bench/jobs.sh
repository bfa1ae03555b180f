#!/usr/bin/env bash
# Background jobs: durable submissions, events through the writer, fan-out to WebSockets; each beside a bare SQLite loop
# on the same disk, interleaved. Then submissions once more as if each sync of the disk took 2 ms longer: where syncs
# cost next to nothing, there is next to nothing to gain from sharing them.
#   bench/jobs.sh [ROUNDS [SECONDS]]     prints Markdown tables of medians; CWEB names another binary
# CWEB_BENCH_DIR: where the databases are made (a directory on the disk to measure) [default: bench/jobs/target]
set -eu
cd "$(dirname "$0")/.."
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
cargo build --release --quiet --manifest-path bench/jobs/Cargo.toml
work=$(mktemp -d -p "${CWEB_BENCH_DIR:-bench/jobs/target}" run-XXXXXX)
trap 'rm -rf "$work"' EXIT
cc -shared -fPIC -O2 -Wall -Wextra -Werror -o "$work/slow_sync.so" bench/jobs/slow_sync.c
measure() { "$@" bench/jobs/target/release/jobs-bench "$binary" tests/modules/jobs.c "$work" "$rounds" "$seconds"; }
rounds=${1:-3} seconds=${2:-2}
measure env
echo
measure env LD_PRELOAD="$(realpath "$work")/slow_sync.so" SLOW_SYNC_US=2000
