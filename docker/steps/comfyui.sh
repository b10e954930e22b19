#!/bin/bash
# ComfyUI at a version, and its packages. COMFYUI: the version. COMFYUI_COMMIT: what its tag must
# stand for, where given. PACKAGES_UNTIL: the day whose packages are taken, where given.
set -euo pipefail
here=$(dirname "$0")

if [[ -z ${TORCH:-} ]]; then
  exit 0
fi
git -C "$COMFY_HOME" init --quiet --initial-branch=master
git -C "$COMFY_HOME" remote add origin "$COMFYUI_REPOSITORY"
git -C "$COMFY_HOME" fetch --quiet --depth 1 origin "refs/tags/v$COMFYUI:refs/tags/v$COMFYUI"
git -C "$COMFY_HOME" checkout --quiet "v$COMFYUI"
commit=$(git -C "$COMFY_HOME" rev-parse HEAD)
if [[ -n ${COMFYUI_COMMIT:-} && $commit != "$COMFYUI_COMMIT" ]]; then
  echo "v$COMFYUI is $commit, and not $COMFYUI_COMMIT: the tag was moved" >&2
  exit 1
fi

python=$COMFY_VENV/bin/python
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
kept=$TMPDIR/kept.txt
uv pip freeze --python "$python" | grep -E '^torch(vision|audio)?==' >"$kept"
options=()
if [[ -n ${PACKAGES_UNTIL:-} ]]; then
  options+=(--exclude-newer "$PACKAGES_UNTIL")
fi
uv pip install --python "$python" --constraints "$kept" "${options[@]}" \
  --requirements "$COMFY_HOME/requirements.txt"
# A package that breaks ComfyUI breaks the build.
"$python" "$COMFY_HOME/main.py" --cpu --quick-test-for-ci --disable-auto-launch
rm -rf "$COMFY_HOME/user" "$COMFY_HOME/temp"
# A named volume takes its owner from the folder that it covers.
mkdir -p "$COMFY_HOME"/{custom_nodes,input,models,output,user}
# A container's files are new at every start: what is not compiled here is compiled each time.
"$python" -m compileall -q -j 0 "$COMFY_HOME"
bash "$here/own.sh" "$COMFY_HOME" "$COMFY_VENV"
