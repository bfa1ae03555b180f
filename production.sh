#!/usr/bin/env bash
# From a checkout to a server in production: HTTPS, an admin key, the release build.
#
#   ./production.sh [--yes] [OPTIONS OF cweb serve]     e.g. ./production.sh --port 443 --shards 4
#   ./production.sh --prepare [--yes]                   makes and builds what is missing, and ends: for a service
#   ./production.sh --docker                            builds the image instead, and says how to run it
#
# In the data directory (CWEB_DATA_DIR, default ./data) it uses, or makes when they are missing:
#   server.crt, server.key   the certificate and its key; makes a self-signed pair after asking (--yes: without)
#   admin.key                the key for /mgnt and /jobs, unless CWEB_ADMIN_KEY, CWEB_KEYS_FILE or cweb.toml has one
# What is there is never overwritten. A pair from an authority goes to the same two files, or is named by --tls-cert
# and --tls-key, CWEB_TLS_CERT and CWEB_TLS_KEY, or cweb.toml.
#   CWEB_TLS_NAMES   more names and addresses for the self-signed certificate, separated by commas
#   CWEB_BIN         a cweb that is built already
set -eu
here=$(CDPATH='' cd "$(dirname "$0")" && pwd)

say() { printf '%s\n' "$*" >&2; }
die() {
    say "production.sh: $*"
    exit 1
}

yes=false
docker=false
prepare=false
own_pair=true
options=()
for word in "$@"; do
    case $word in
    --yes | -y) yes=true ;;
    --docker) docker=true ;;
    --prepare) prepare=true ;;
    --help | -h)
        sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    --tls-cert* | --tls-key*)
        own_pair=false
        options+=("$word")
        ;;
    *) options+=("$word") ;;
    esac
done
[ -z "${CWEB_TLS_CERT:-}${CWEB_TLS_KEY:-}" ] || own_pair=false

if $docker; then
    command -v docker >/dev/null 2>&1 || die "there is no docker here: https://docs.docker.com/engine/install/"
    docker build -t cweb "$here"
    say "built the image cweb; run it with its data in a volume:"
    say "  CWEB_ADMIN_KEY=\$(openssl rand -hex 32) docker compose -f $here/docker-compose.yml up -d"
    exit 0
fi

# The compiler and the headers are the modules'.
# shellcheck source=scripts/packages.sh
. "$here/scripts/packages.sh"
need openssl:openssl curl:curl gcc:gcc cc:gcc /usr/include/stdio.h:libc6-dev /usr/include/jansson.h:libjansson-dev \
    /usr/include/sqlite3.h:libsqlite3-dev /usr/include/openssl/ssl.h:libssl-dev

data=${CWEB_DATA_DIR:-$here/data}
(umask 077 && mkdir -p "$data")
data=$(CDPATH='' cd "$data" && pwd)
cert=$data/server.crt key=$data/server.key admin_key=$data/admin.key

# exists PATH: also of a link that leads nowhere
exists() { [ -e "$1" ] || [ -L "$1" ]; }

# Whoever can read a key can be the server.
check_mode() {
    if [ -n "$(find -L "$1" -maxdepth 0 -perm /077)" ]; then
        say "warning: others may read or write $1; close it with: chmod 600 $1"
    fi
}

# names: what this machine is reached by, as a subjectAltName
names() {
    list=DNS:localhost,IP:127.0.0.1,IP:::1
    for name in $(hostname 2>/dev/null) $(hostname -f 2>/dev/null) $(hostname -I 2>/dev/null) \
        $(printf %s "${CWEB_TLS_NAMES:-}" | tr , ' '); do
        case $name in
        *[!0-9A-Za-z.:*-]*) continue ;;
        *:*) entry=IP:$name ;;
        *[!0-9.]*) entry=DNS:$name ;;
        *) entry=IP:$name ;;
        esac
        case ,$list, in *",$entry,"*) ;; *) list=$list,$entry ;; esac
    done
    printf %s "$list"
}

make_pair() {
    names=$(names)
    if ! $yes; then
        [ -t 0 ] || die "no server.crt and server.key in $data: put a pair there, or let --yes make a self-signed one"
        printf 'No server.crt and server.key in %s.\nMake a self-signed pair for %s, valid for a year? [y/N] ' \
            "$data" "$names" >&2
        read -r answer
        case $answer in [Yy]*) ;; *) die "nothing made; put a pair there and start again" ;; esac
    fi
    # Beside their places and linked there, which fails where something has appeared meanwhile.
    made=$(mktemp -d "$data/.pair.XXXXXX")
    # CA:FALSE: strict clients refuse a server whose certificate may sign others, and so does cweb deploy.
    if ! (umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=cweb \
        -addext "subjectAltName=$names" -addext basicConstraints=critical,CA:FALSE \
        -addext extendedKeyUsage=serverAuth -keyout "$made/key" -out "$made/cert" 2>"$made/log"); then
        cat "$made/log" >&2
        rm -rf "$made"
        die "openssl made no certificate"
    fi
    chmod 644 "$made/cert"
    linked=true
    { ln "$made/key" "$key" && ln "$made/cert" "$cert"; } || linked=false
    rm -rf "$made"
    $linked || die "the pair can't be put in its place: has another process made one?"
    say "made a self-signed pair for $names:"
    say "  $cert (clients are told to trust it: curl --cacert, cweb deploy --cacert), $key"
}

! grep -qs '^[[:space:]]*tls_\(cert\|key\)[[:space:]]*=' "$data/cweb.toml" || own_pair=false
if $own_pair; then
    if exists "$cert" && exists "$key"; then
        say "certificate: $cert"
        openssl x509 -in "$cert" -noout -checkend 2592000 >/dev/null 2>&1 ||
            say "warning: $cert can't be read, has expired or does so within 30 days"
    elif exists "$cert" || exists "$key"; then
        die "only one of $cert and $key is there: HTTPS needs both"
    else
        make_pair
    fi
    check_mode "$key"
    options=(--tls-cert "$cert" --tls-key "$key" ${options[@]+"${options[@]}"})
fi

if [ -n "${CWEB_ADMIN_KEY:-}" ]; then
    say "admin key: from CWEB_ADMIN_KEY"
elif [ -n "${CWEB_KEYS_FILE:-}" ]; then
    say "keys: $CWEB_KEYS_FILE"
elif exists "$admin_key"; then
    CWEB_ADMIN_KEY=$(cat "$admin_key")
    [ -n "$CWEB_ADMIN_KEY" ] || die "$admin_key is empty: remove it to have one made"
    check_mode "$admin_key"
    say "admin key: $admin_key"
    export CWEB_ADMIN_KEY
elif grep -qs '^[[:space:]]*admin_key[[:space:]]*=' "$data/cweb.toml"; then
    say "admin key: from $data/cweb.toml"
else
    CWEB_ADMIN_KEY=$(openssl rand -hex 32)
    (umask 077 && set -C && printf '%s\n' "$CWEB_ADMIN_KEY" >"$admin_key")
    say "made an admin key: $admin_key"
    export CWEB_ADMIN_KEY
fi

bin=${CWEB_BIN:-}
if [ -z "$bin" ]; then
    need_rust
    (cd "$here" && cargo build --release --locked)
    bin=$here/target/release/cweb
fi
if $prepare; then
    say "built $bin"
    exit 0
fi
if $own_pair; then
    say "to deploy: CWEB_ADMIN_KEY=\$(cat $admin_key) CWEB_CACERT=$cert $bin deploy --server https://localhost:${PORT:-8080} FILE.c"
fi
exec "$bin" serve --production --data-dir "$data" ${options[@]+"${options[@]}"}
