# shellcheck shell=sh
# Sourced by the other scripts: installs Debian packages that are missing, and says so.

# need COMMAND-OR-FILE:PACKAGE…
need() {
    missing=
    for pair in "$@"; do
        thing=${pair%%:*}
        case $thing in
        /*) [ -e "$thing" ] || missing="$missing ${pair##*:}" ;;
        *) command -v "$thing" >/dev/null 2>&1 || missing="$missing ${pair##*:}" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "missing:$missing — install them with your system's package manager and start again" >&2
        exit 1
    fi
    echo "installing:$missing"
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null
}

# The oldest Rust that Cargo.toml allows, as `1.MINOR`.
rust_minor_min=89

# rust_is_new_enough VERSION
rust_is_new_enough() {
    minor=${1#1.}
    minor=${minor%%.*}
    case $minor in '' | *[!0-9]*) return 1 ;; esac
    [ "$minor" -ge "$rust_minor_min" ]
}

# A Rust toolchain, new enough for this project: the one that is there, or Debian's.
need_rust() {
    # rustup's own place; a shell that was open during its installation does not have it in PATH.
    command -v cargo >/dev/null 2>&1 || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    if command -v cargo >/dev/null 2>&1; then
        version=$(cargo --version | cut -d' ' -f2)
        rust_is_new_enough "$version" && return 0
        echo "cargo $version is too old: this needs Rust 1.$rust_minor_min or newer; try: rustup update" >&2
        exit 1
    fi
    version=$(apt-cache policy cargo 2>/dev/null | sed -n 's/^ *Candidate: *//p')
    if rust_is_new_enough "$version"; then
        need cargo:cargo rustc:rustc rustfmt:rustfmt cargo-clippy:rust-clippy
        return 0
    fi
    echo "no Rust toolchain, and this system's packages have none of 1.$rust_minor_min or newer:" >&2
    echo "install one from https://rustup.rs and start again" >&2
    exit 1
}
