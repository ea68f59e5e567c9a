# Sourced before each script: what all of them use. Not part of what is tested.
set -euo pipefail

# make_disk FILE SIZE: a disk with data, zeros and holes, the same for the same size.
make_disk() { "$PYTHON" "$TOOLS" make_disk "$1" "$2"; }
# json FILE EXPRESSION: of the document `d`.
json() { "$PYTHON" -c 'import json, sys; d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$1" "$2"; }
real_qemu_img() { "$REAL_QEMU_IMG" "$@"; }
# content FILE FORMAT: the guest's bytes, as qemu-img reads them, and whether it finds the image sound.
content() {
  real_qemu_img convert -f "$2" -O raw "$1" content.raw
  sha256sum <content.raw
  rm content.raw
  [[ $2 != qcow2 ]] || real_qemu_img check -q "$1"
}
# poke_refcount FILE COUNT: of the first cluster that holds guest data.
poke_refcount() { "$PYTHON" "$TOOLS" poke_refcount "$1" "$2"; }
# serve_nbd FILE: by the real qemu-nbd on nbd.sock, until the script ends.
serve_nbd() {
  "$REAL_QEMU_NBD" -t -f raw -e 8 -k "$PWD/nbd.sock" "$1" &
  local server=$!
  trap "kill $server; wait $server || true" EXIT
  until [[ -S nbd.sock ]]; do sleep 0.05; done
}
