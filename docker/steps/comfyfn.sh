#!/bin/bash
# comfyfn in a virtual environment of its own, from its source. EXTRAS: of its pyproject.toml.
# PACKAGES_UNTIL: the day whose packages are taken, where given.
set -euo pipefail

options=()
if [[ -n ${PACKAGES_UNTIL:-} ]]; then
  options+=(--exclude-newer "$PACKAGES_UNTIL")
fi
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
uv build --quiet --wheel "${options[@]}" --out-dir "$wheels" "$SOURCE"
wheel=$(find "$wheels" -name '*.whl')
uv venv --python "${PYTHON:-/usr/bin/python3}" "$FN_VENV"
uv pip install --python "$FN_VENV/bin/python" "${options[@]}" "$wheel${EXTRAS:+[$EXTRAS]}"
