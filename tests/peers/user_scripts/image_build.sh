# A CI that builds images: makes a disk, fills it, shrinks it to what is needed, compresses it, publishes several formats.
qemu-img create -f qcow2 -o preallocation=metadata build.qcow2 48M
qemu-img create -f raw seed.iso 1M
qemu-io -f qcow2 -c 'write -P 0x10 0 2M' -c 'write -P 0x20 8M 5M' -c 'write -P 0 20M 4M' -c 'discard 9M 1M' build.qcow2
qemu-img resize --shrink build.qcow2 32M
qemu-img convert -O qcow2 -o cluster_size=2M,compression_type=zstd -c build.qcow2 packed.qcow2 2>&1 | head -n 3
qemu-img convert -p -c -O qcow2 build.qcow2 image.qcow2 | tail -c 20 | tr '\r' '\n' | tail -n 1
qemu-img convert -S 4k -O raw build.qcow2 image.raw
qemu-img convert -S 0 -f qcow2 -O raw build.qcow2 full.raw
stat -c '%n %s' image.raw full.raw
cmp image.raw full.raw
qemu-img compare image.qcow2 image.raw
qemu-img info --output=json image.qcow2 >info.json
json info.json 'd["virtual-size"], d["cluster-size"], d["format-specific"]["data"]["compression-type"], d["dirty-flag"]'
qemu-img check --output=json image.qcow2 >check.json
json check.json 'd["total-clusters"], d["allocated-clusters"], d["compressed-clusters"], d.get("leaks", 0), d.get("corruptions", 0)'
qemu-img dd if=image.qcow2 of=start.raw bs=1M count=2
qemu-img dd -f qcow2 -O qcow2 bs=512k skip=16 count=4 if=image.qcow2 of=part.qcow2
content start.raw raw
content part.qcow2 qcow2
qemu-img create -q -f qcow2 -o help | grep -E '^ +(cluster_size|encrypt.format|preallocation|size)=' | sed 's/ *-.*//'
