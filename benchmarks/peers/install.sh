#!/bin/sh
# Makes an environment for each server that benchmarks/tensor.py compares with.
#   benchmarks/peers/install.sh FOLDER [NAME...]     then: benchmarks/tensor.py --peers FOLDER     (about 3 GB)
# Triton's Python backend needs Debian's own Python 3.11 (its stub breaks on another build of it): PYTHON_TRITON.
set -eu
folder=${1:?where to install}
shift
here=$(dirname "$0")
for name in ${*:-fastapi litserve bentoml mlserver triton}; do
    python=${PYTHON:-python3}
    case $name in
        fastapi) packages="fastapi==0.139.* uvicorn[standard]" ;;
        litserve) packages="litserve==0.2.19" ;;
        bentoml) packages="bentoml==1.4.*" ;;
        mlserver) packages="mlserver==1.7.*" ;;
        triton) packages="nvidia-pytriton==0.5.*" python=${PYTHON_TRITON:-/usr/bin/python3.11} ;;
        *) echo "no peer is called $name" >&2; exit 2 ;;
    esac
    "$python" -m venv "$folder/$name"
    "$folder/$name/bin/python" -m pip install -q onnxruntime $packages
    if [ "$name" = triton ]; then
        home=$(echo "$folder"/triton/lib/python3*/site-packages/pytriton/tritonserver)
        cp "$home/python_backend_stubs/3.11/triton_python_backend_stub" "$home/backends/python/"
    fi
    "$folder/$name/bin/python" -m pip list --format freeze | grep -iE "^(onnxruntime|${name}|nvidia-pytriton|numpy)="
done
