#!/bin/bash
# The user and its folders. RUN_AS: the user's number. ROOT: where `/` is, for a try.
set -euo pipefail
root=${ROOT:-}

if [[ $RUN_AS != 0 ]]; then
  # In root's group, which may write what the user may: so any number will do (`docker run --user
  # 1234:0`, Kubernetes), and so do volumes that root's group may write.
  useradd --prefix "${root:-/}" --uid "$RUN_AS" --gid 0 --no-create-home --home-dir /home/comfyfn \
    --shell /bin/bash comfyfn
fi
for folder in /home/comfyfn /opt/ComfyUI /opt/comfy-venv /opt/manifest /var/lib/comfyfn /workflows; do
  install -d -o "$RUN_AS" -g 0 -m 0775 "$root$folder"
done
# Its own packages are root's: what runs in ComfyUI cannot change the server.
install -d "$root/usr/local/bin"
ln -s /opt/comfyfn/bin/comfyfn "$root/usr/local/bin/comfyfn"
ln -s ../lib/comfyfn/bake.sh "$root/usr/local/bin/comfyfn-bake"
