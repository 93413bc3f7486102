#!/bin/sh
# Makes .venv ready for `make demo` or `make test`:  packaging/bootstrap.sh demo|test
# Installs nothing outside this folder, but for Debian packages that are missing, and those only as root;
# otherwise it prints the one command that does and exits 1. What is installed already costs a fraction of a second.
set -eu
cd "$(dirname "$0")/.."

purpose=${1:-}
case $purpose in demo | test) ;; *)
    echo "usage: packaging/bootstrap.sh demo|test" >&2
    exit 2
    ;;
esac

say() { printf '%s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }

# The newest releases of Python lack wheels for a while, so those known to work come first.
find_python() {
    for candidate in ${PYTHON:-} python3 python3.11 python3.12 python3.13; do
        if have "$candidate" && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
            command -v "$candidate"
            return
        fi
    done
    if have python3 && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        command -v python3
    fi
}

# --- what the system must have -------------------------------------------------------------------------

missing= # what Debian calls it
libraries=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null || true)
need() { # LIBRARY PACKAGE
    case $libraries in *"$1"*) ;; *) missing="$missing $2" ;; esac
}

python=$(find_python)
if [ -z "$python" ]; then
    missing="$missing python3 python3-venv"
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    missing="$missing python3-venv"
fi
# llama.cpp is compiled for the processor it will run on.
if ! have c++ && ! have g++ && ! have clang++; then missing="$missing g++"; fi
if ! have cmake; then missing="$missing cmake"; fi
if ! have make; then missing="$missing make"; fi
# What Qt loads. The demo without a display opens no window and needs none of it.
if [ -n "$libraries" ] && { [ "$purpose" = test ] || [ -n "${DISPLAY:-}${WAYLAND_DISPLAY:-}" ]; }; then
    need libEGL.so.1 libegl1
    need libGL.so.1 libgl1
    need libglib-2.0.so.0 libglib2.0-0
    need libdbus-1.so.3 libdbus-1-3
    need libfontconfig.so.1 libfontconfig1
    need libxkbcommon.so.0 libxkbcommon0
    need libxkbcommon-x11.so.0 libxkbcommon-x11-0
    for name in cursor.so.0 icccm.so.4 image.so.0 keysyms.so.1 randr.so.0 render-util.so.0 shape.so.0 xkb.so.1; do
        need "libxcb-$name" "libxcb-${name%.so.*}${name##*.so.}"
    done
    need libwayland-cursor.so.0 libwayland-cursor0
fi
if [ "$purpose" = test ]; then
    have Xvfb || missing="$missing xvfb"
    have redis-server || missing="$missing redis-server"
fi

if [ -n "$missing" ]; then
    if ! have apt-get; then
        say "This needs, under the names that Debian gives them:$missing"
        say "Install them with the package manager of this system, then run make $purpose again."
        exit 1
    elif [ "$(id -u)" != 0 ]; then
        say "Some system packages are missing. This command installs them; then run make $purpose again:"
        say "  sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends$missing'"
        exit 1
    fi
    say "installing system packages:$missing"
    export DEBIAN_FRONTEND=noninteractive
    # Another apt at work is waited for, not failed on.
    apt="apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"
    $apt update >/dev/null
    # shellcheck disable=SC2086
    $apt install -y --no-install-recommends $missing >/dev/null
    python=$(find_python)
    if [ -z "$python" ]; then
        say "Python 3.11 or later is needed, and this system's packages have none: install it and set PYTHON to its path."
        exit 1
    fi
fi

# --- the environment -----------------------------------------------------------------------------------

lists=packaging/requirements
list=$purpose
if [ "$purpose" = demo ] && { [ -e /proc/driver/nvidia/version ] || { have nvidia-smi && nvidia-smi -L >/dev/null 2>&1; }; }; then
    list=demo-cuda
fi

if [ -d .venv ] && ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    say "removing a broken .venv"
    rm -rf .venv
fi
if [ ! -d .venv ]; then
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi

# onnxruntime and onnxruntime-gpu own the same folder: the one that the list does not name goes, and the other with it,
# because its files went too.
if grep -q '^onnxruntime-gpu==' "$lists/$list.txt"; then other=onnxruntime; else other=onnxruntime_gpu; fi
for found in .venv/lib/python3*/site-packages/"$other"-*.dist-info; do
    [ -d "$found" ] || continue
    say "removing $other: this environment is to have the other ONNX Runtime"
    .venv/bin/python -m pip uninstall -q -y onnxruntime onnxruntime-gpu
    rm -f .venv/.installed-*
done

stamp=.venv/.installed-$list
wanted=$(cat "$lists/$list.txt" pyproject.toml | cksum)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    say "installing $lists/$list.txt"
    if [ "$purpose" = test ]; then say "(llama.cpp is compiled on the first time: about 8 minutes on two cores)"; fi
    # A list is complete by itself, so nothing is resolved.
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r "$lists/$list.txt"
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
    printf '%s\n' "$wanted" >"$stamp"
fi
