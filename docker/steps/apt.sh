#!/bin/bash
# The image's Debian packages. FLAVOUR: runtime, devel or cpu. APT_PACKAGES: more of them.
set -euo pipefail

packages=(ca-certificates git libgl1 libglib2.0-0 libtcmalloc-minimal4 python3 python3-venv tini)
if [[ $FLAVOUR == devel ]]; then
  # Node packs that are built from source, and triton, compile at run time.
  packages+=(build-essential ninja-build python3-dev)
fi
read -ra more <<<"${APT_PACKAGES:-}"

# Lists of our own: none stay in the layer.
lists=$(mktemp -d)
chmod 0755 "$lists" # apt fetches as a user of its own
trap 'rm -rf "$lists"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt-get -o Dir::State::lists="$lists" update
apt-get -o Dir::State::lists="$lists" install -y --no-install-recommends "${packages[@]}" "${more[@]}"
