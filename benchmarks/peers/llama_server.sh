#!/bin/sh
# Builds llama-server from the llama.cpp tree inside the llama-cpp-python sdist, with the flags its own wheel gets.
#   benchmarks/peers/llama_server.sh FOLDER     then: FOLDER/build/bin/llama-server   (about 10 minutes on 2 cores)
set -eu
folder=${1:?where to build}
version=$(sed -n 's/^llama-cpp-python==\([^ ]*\).*/\1/p' "$(dirname "$0")/../../packaging/requirements/llamacpp-cpu.txt")
mkdir -p "$folder"
python3 -m pip download -q --no-deps --no-build-isolation --no-binary :all: -d "$folder" "llama-cpp-python==$version"
tar xf "$folder"/llama_cpp_python-*.tar.gz -C "$folder" --strip-components=1
cmake -S "$folder/vendor/llama.cpp" -B "$folder/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF
cmake --build "$folder/build" -j "$(nproc)" --target llama-server llama-batched-bench
