#!/bin/sh
# Makes .venv from the hashed lock and installs the commands into it. Needs sh and Python only.
#
#   tools/setup.sh              the virtual environment
#   tools/setup.sh --system     and the system packages that demo and tests can use
#
# PYTHON=/path/to/python chooses the interpreter. Fast when nothing has changed.
set -eu
umask 022
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH PYTHONSTARTUP 2>/dev/null || :
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

# A lock exists for the minor of this interpreter; the exit status says so.
has_lock() {
    minor=$("$1" -I -c 'import sys; print("py%d%d" % sys.version_info[:2])' 2>/dev/null </dev/null) || return 1
    [ -f "requirements/$minor.txt" ]
}

has_venv() { "$1" -I -c 'import venv, ensurepip' >/dev/null 2>&1 </dev/null; }

candidates() {
    if [ -n "${PYTHON:-}" ]; then
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11 python; do
        printf '%s\n' "$name" "/usr/bin/$name" "/usr/local/bin/$name"
    done
    if command -v pyenv >/dev/null 2>&1; then
        for file in "$(pyenv root 2>/dev/null)"/versions/3.1[123]*/bin/python; do
            printf '%s\n' "$file"
        done
    fi
}

# Prints the first interpreter that passes the given tests; a shim is resolved to what it runs.
find_python() {
    candidates | while IFS= read -r candidate; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        has_lock "$candidate" || continue
        if [ "$1" = venv ] && ! has_venv "$candidate"; then continue; fi
        "$candidate" -I -c 'import sys; print(sys.executable)' </dev/null
        break
    done
}

locks() { (cd requirements && ls py*.txt) | sed 's/^py\(.\)\(.*\)\.txt$/\1.\2/' | tr '\n' ' '; }

install_venv_package() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        say "Python has no venv. Install the package python3-venv, then run this again."
        exit 1
    fi
    say "installing python3-venv"
    export DEBIAN_FRONTEND=noninteractive
    options="-o Acquire::Retries=3 -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=120"
    # shellcheck disable=SC2086
    timeout 600 apt-get $options -qq update </dev/null >&2 || say "apt-get update failed"
    # shellcheck disable=SC2086
    timeout 600 apt-get $options -qq -y --no-install-recommends install python3-venv </dev/null >&2 || {
        say "apt-get could not install python3-venv"
        exit 1
    }
}

# A clone that was moved needs its environment anew: launchers hold absolute paths.
venv_works() {
    [ -x .venv/bin/python ] && [ "$(cat .venv/made-for 2>/dev/null)" = "$PWD" ] && has_lock .venv/bin/python && .venv/bin/python -I -m pip --version >/dev/null 2>&1 </dev/null
}

if ! venv_works; then
    python=$(find_python venv)
    if [ -z "$python" ]; then
        if [ -z "$(find_python any)" ] && ! { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; }; then
            say "no Python with a lock in requirements/ ($(locks)) was found."
            say "Install one with its venv module (Debian, Ubuntu: python3-venv), or set PYTHON."
            exit 1
        fi
        install_venv_package
        python=$(find_python venv)
        if [ -z "$python" ]; then
            say "no Python with venv and a lock ($(locks)); set PYTHON to one."
            exit 1
        fi
    fi
    say "making .venv with $python"
    rm -rf .venv
    "$python" -I -m venv .venv </dev/null
    printf '%s\n' "$PWD" >.venv/made-for
fi

exec .venv/bin/python -m tools.setup_environment "$@" </dev/null
