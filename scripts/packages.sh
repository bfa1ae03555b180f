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

# A Rust toolchain, new enough for this project.
need_rust() {
    if ! command -v cargo >/dev/null 2>&1; then
        echo "no Rust toolchain: install one of 1.89 or newer from https://rustup.rs and start again" >&2
        exit 1
    fi
}
