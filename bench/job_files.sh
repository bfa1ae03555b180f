#!/usr/bin/env bash
# Files of jobs: a blob of GIB GiB is stored, given to a job that copies it to an output, and fetched, isolated and in process: seconds, whether the
# digest is right, and by how much the resident memory of the server and its processes has grown at most.
#   bench/job_files.sh [GIB]     prints a Markdown table; CWEB names another binary
set -eu
cd "$(dirname "$0")/.."
gib=${1:-2}
binary=${CWEB:-target/release/cweb}
[ -n "${CWEB:-}" ] || cargo build --release --quiet
tmp=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT
cat >"$tmp/copy.c" <<'C'
#include <cweb.h>
#include <cweb_job.h>
#include <unistd.h>
static int copy(struct cweb_context *c, const job_payload_t *p, job_ctx_t *job) {
    (void)c, (void)p;
    static char piece[256 * 1024];
    int in = cweb_job_file(job, "in"), out = cweb_job_output(job, "out");
    ssize_t got;
    while ((got = read(in, piece, sizeof piece)) > 0) if (write(out, piece, (size_t)got) != got) return -1;
    close(in), close(out);
    return (int)got;
}
export module_t config = {.name = "copy", .author = "bench", .jobs = {{.name = "copy", .run = copy}}, .job_size = 1};
C
truncate -s "${gib}G" "$tmp/zeros"
resident() { # of a process and its children, KiB
    # shellcheck disable=SC2046,SC2013 # lists of words
    cat "/proc/$1/status" $(for task in /proc/"$1"/task/*/children; do for pid in $(cat "$task" 2>/dev/null); do echo "/proc/$pid/status"; done; done) 2>/dev/null |
        awk '/^VmRSS/ { sum += $2 } END { print sum }'
}
# Runs a command; prints its seconds, then the most by which process $1 and its children grew meanwhile, MiB.
measured() {
    server=$1; shift
    before=$(resident "$server"); most=$before; begun=$(date +%s.%N)
    "$@" & job=$!
    while kill -0 $job 2>/dev/null; do now=$(resident "$server"); [ "$now" -le "$most" ] || most=$now; sleep 0.1; done
    wait $job
    awk -v a="$begun" -v b="$(date +%s.%N)" -v c="$before" -v d="$most" 'BEGIN { printf "%.2f %.1f", b - a, (d - c) / 1024 }'
}
expected=$(sha256sum "$tmp/zeros" | cut -d' ' -f1)
echo "| $gib GiB | s | digest | resident growth, MiB |"
echo "| --- | --- | --- | --- |"
port=18140
for isolation in process none; do
    "$binary" serve --shards 1 --isolation $isolation --port $port --data-dir "$tmp/$isolation" --blobs-bytes-max $(((gib * 2 + 1) << 30)) -s \
        2>"$tmp/$isolation.log" & server=$!; pids="$pids $server"
    for _ in $(seq 100); do grep -q listening "$tmp/$isolation.log" && break; sleep 0.1; done
    url=http://127.0.0.1:$port
    curl -sSf -o /dev/null --data-binary @"$tmp/copy.c" "$url/mgnt"
    echo small >"$tmp/small"
    "$binary" jobs --server $url submit --file in="$tmp/small" --output-dir "$tmp/made" copy >/dev/null 2>&1
    read -r seconds growth < <(measured "$server" curl -sSf -o "$tmp/blob" -T "$tmp/zeros" "$url/blobs"; echo)
    grep -q "$expected" "$tmp/blob" && found=right || found=wrong
    echo "| $isolation, PUT /blobs | $seconds | $found | $growth |"
    job=$(curl -sSf -d "{\"job\":\"copy\",\"files\":{\"in\":\"sha256:$expected\"}}" "$url/jobs" | sed 's/.*"job_uuid":"\([^"]*\)".*/\1/')
    read -r seconds growth < <(measured "$server" sh -c "'$binary' jobs --server $url watch $job >/dev/null 2>&1"; echo)
    curl -sSf "$url/jobs/$job" | grep -q '"state":"done"' && found=works || found=failed
    echo "| $isolation, the job | $seconds | $found | $growth |"
    read -r seconds growth < <(measured "$server" sh -c "curl -sSf $url/jobs/$job/files/out | sha256sum >'$tmp/digest'"; echo)
    grep -q "$expected" "$tmp/digest" && found=right || found=wrong
    echo "| $isolation, GET the output | $seconds | $found | $growth |"
    kill "$server"; wait "$server" 2>/dev/null || true
    rm -rf "${tmp:?}/$isolation"
    port=$((port + 1))
done
