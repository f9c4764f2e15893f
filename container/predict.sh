#!/bin/sh
# The challenge's entry: /workspace/inputs/*.npz -> /workspace/outputs/*.npz, called as `sh predict.sh`.
# GRAYSAM_MODEL: a shipped model's name or a bundle's folder. Further arguments go to graysam.predict.
set -eu
cd "$(dirname "$0")"
# A container is made anew for every case, so a compiled model kept in it would never be used again.
exec python -m graysam.predict -i inputs -o outputs --model "${GRAYSAM_MODEL:-graysam_l0}" --no-cache "$@"
