#!/bin/sh
# The challenge's entry: /workspace/inputs/*.npz -> /workspace/outputs/*.npz, called as `sh predict.sh`.
# GRAYSAM_MODEL: a shipped model's name or the folder of an exported model. Further arguments go to graysam.predict.
set -eu
cd "$(dirname "$0")"
# Whole images, as in the challenge's recorded figures; a later --zoom replaces this one.
# Every case runs in a new container, so a cache of compiled models would never be used again.
exec python -m graysam.predict -i inputs -o outputs --model "${GRAYSAM_MODEL:-graysam_l0}" --no-cache --zoom off "$@"
