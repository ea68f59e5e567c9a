# A cloud's compute node: looks at a downloaded image, refuses what it should not run, keeps it raw in a cache, and gives
# each machine an overlay over it.
export LC_ALL=C LANG=C
make_disk download.raw 24M
qemu-img convert -c -f raw -O qcow2 download.raw download.qcow2

qemu-img info download.qcow2 --force-share --output=json >info.json
json info.json 'd["format"], d["virtual-size"], "backing-filename" in d, d["format-specific"]["data"].get("data-file")'

qemu-img convert -t none -O raw -f qcow2 download.qcow2 base.part
mv base.part base
qemu-img info base --force-share --output=json >info.json
json info.json 'd["format"], d["virtual-size"]'

for machine in one two; do
  qemu-img create -f qcow2 -o backing_file="$PWD/base",backing_fmt=raw,size=64M "$machine.qcow2"
  qemu-img resize "$machine.qcow2" 96M
done
qemu-io -f qcow2 -c 'write -P 7 90M 1M' -c 'write -P 8 0 64k' two.qcow2
qemu-img info --backing-chain --output=json two.qcow2 >chain.json
json chain.json '[(i["format"], i["virtual-size"]) for i in d]'
qemu-img compare -f qcow2 -F raw one.qcow2 base || echo "differ: $?"
qemu-img compare -f qcow2 -F qcow2 one.qcow2 two.qcow2 || echo "differ: $?"
# Resize of a machine that moves to another host: flat, then over the same base there.
qemu-img convert -f qcow2 -O qcow2 two.qcow2 flat.qcow2
qemu-img rebase -f qcow2 -F raw -b "$PWD/base" two.qcow2
qemu-img check two.qcow2
content flat.qcow2 qcow2
