#!/bin/bash
# comfyfn-bake MANIFEST: install what a manifest names while an image is built, and see that ComfyUI
# loads it. As the user root where it names Debian packages.
#   BAKE_MODELS=true    its models as well
#   BAKE_CHECK=false    do not boot ComfyUI to see it: for packs that need a GPU to be loaded
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
manifest=$1

# Nothing of the try is to stay in the image.
HOME=$(mktemp -d)
STATE_DIR=$HOME/state
TMPDIR=$HOME
export HOME STATE_DIR TMPDIR
trap 'rm -rf "$HOME"' EXIT

comfyfn manifest check "$manifest"
options=()
if [[ -f ${manifest%.*}.lock.${manifest##*.} ]]; then
  options+=(--locked)
fi
if [[ ${BAKE_MODELS:-false} != true ]]; then
  options+=(--skip-models)
fi
comfyfn manifest apply "${options[@]}" "$manifest"
if [[ ${BAKE_CHECK:-true} == true ]]; then
  ENGINE_RESTARTS=0 MANIFEST=$manifest INPUT_DIR=$HOME/input OUTPUT_DIR=$HOME/output \
    "${FN_PYTHON:-/opt/comfyfn/bin/python}" -m adapters.image_check
fi
# Packs may hold files for other Pythons.
"$COMFY_PYTHON" -m compileall -q -j 0 "$COMFY_HOME/custom_nodes" || true
if [[ $(id -u) == 0 ]]; then
  bash "$here/own.sh" "$COMFY_HOME" "$COMFY_VENV"
fi
