# Someone at home: internal snapshots before each upgrade, one step back, one copied out into an image of its own.
make_disk disk.raw 12M
qemu-img convert -f raw -O qcow2 disk.raw home.qcow2
qemu-img snapshot -c fresh home.qcow2
qemu-io -c 'write -P 0x31 2M 2M' home.qcow2
qemu-img snapshot -c upgraded home.qcow2
qemu-io -c 'write -P 0x32 3M 4M' -c 'discard 0 1M' home.qcow2
qemu-img snapshot -l home.qcow2
qemu-img convert -l upgraded -f qcow2 -O raw home.qcow2 upgraded.raw
qemu-img convert -l snapshot.name=fresh -f qcow2 -O raw home.qcow2 fresh.raw
cmp fresh.raw disk.raw && sha256sum upgraded.raw
qemu-img snapshot -a fresh home.qcow2
content home.qcow2 qcow2
qemu-img snapshot -d upgraded home.qcow2
qemu-img snapshot -d upgraded home.qcow2 || echo "gone: $?"
qemu-img snapshot -a nothing home.qcow2 || echo "never was: $?"
qemu-img snapshot -l home.qcow2
qemu-img check home.qcow2
qemu-img info --output=json home.qcow2 >info.json
json info.json '[(s["name"], s["vm-state-size"]) for s in d["snapshots"]]'
qemu-img amend -o compat=0.10 home.qcow2
qemu-img info home.qcow2 | grep compat
content home.qcow2 qcow2
