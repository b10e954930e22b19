#!/bin/bash
# ComfyUI's virtual environment, with torch: the largest layer, and the one that changes least.
# TORCH, TORCHVISION, TORCHAUDIO: versions; without TORCH nothing is made. CUDA: 12.8, say.
set -euo pipefail
here=$(dirname "$0")

if [[ -z ${TORCH:-} ]]; then
  echo "no torch, no ComfyUI: the embedded engine alone runs here" >&2
  exit 0
fi
backend=cu${CUDA//./}
if [[ $FLAVOUR == cpu ]]; then
  backend=cpu
fi
uv venv --allow-existing --python "${PYTHON:-/usr/bin/python3}" "$COMFY_VENV"
# With pip, which install.py scripts of node packs call.
uv pip install --python "$COMFY_VENV/bin/python" --torch-backend "$backend" \
  pip "torch==$TORCH" "torchvision==$TORCHVISION" "torchaudio==$TORCHAUDIO"
bash "$here/own.sh" "$COMFY_VENV"
