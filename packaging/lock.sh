#!/bin/sh
# Writes the hashed requirement lists of packaging/requirements from pyproject.toml and the *.in files beside them.
# The lists carry environment markers for every platform and Python 3.11 and later, and no index address.
# Needs `uv` on PATH or in .venv. With --upgrade takes the newest versions, else keeps those already listed.
set -eu
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
lists=packaging/requirements

lock() { # NAME SOURCE...
    name=$1
    shift
    echo "$lists/$name.txt"
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
        --no-emit-find-links --no-annotate $upgrade --output-file "$lists/$name.txt" "$@"
}

upgrade=
if [ "${1:-}" = --upgrade ]; then upgrade=--upgrade; fi

# Everything shares the versions that the tests run with.
lock test pyproject.toml "$lists/build.in" --extra cpu --extra desktop --extra convert --extra dev
constrain="--constraint $lists/test.txt"
# shellcheck disable=SC2086
{
    lock base pyproject.toml $constrain
    lock demo pyproject.toml "$lists/build.in" "$lists/onnxruntime-cpu.in" --extra desktop $constrain
    lock demo-cuda pyproject.toml "$lists/build.in" "$lists/onnxruntime-cuda.in" --extra desktop $constrain
    for name in onnxruntime-cpu onnxruntime-cuda llamacpp-cpu llamacpp-cuda tensorrt-rtx tensorrt; do
        lock "$name" "$lists/$name.in" $constrain
    done
}
