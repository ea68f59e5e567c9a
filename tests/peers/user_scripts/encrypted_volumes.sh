# A hypervisor's storage pool: encrypted volumes with a secret in a file, a clone under another secret, a volume for a
# machine over an encrypted base, keys that are changed.
printf 'first secret' >first.key
printf 'another one' >second.key
first=(--object "secret,id=sec0,file=first.key")
both=("${first[@]}" --object "secret,id=sec1,file=second.key")
make_disk plain.raw 8M

qemu-img create -f qcow2 "${first[@]}" -o encrypt.format=luks,encrypt.key-secret=sec0,encrypt.iter-time=10 empty.qcow2 8M
qemu-img convert -f raw -O qcow2 "${first[@]}" -o encrypt.format=luks,encrypt.key-secret=sec0,encrypt.iter-time=10 plain.raw volume.qcow2
qemu-img info --output=json volume.qcow2 >info.json
json info.json 'd["encrypted"], d["format-specific"]["data"]["encrypt"]["format"], d["format-specific"]["data"]["encrypt"]["cipher-alg"], [s["active"] for s in d["format-specific"]["data"]["encrypt"]["slots"]]'
qemu-img compare "${first[@]}" --image-opts driver=raw,file.filename=plain.raw driver=qcow2,encrypt.key-secret=sec0,file.filename=volume.qcow2
qemu-img compare -f raw plain.raw volume.qcow2 || echo "without the secret: $?"

# Raw LUKS, as block storage has it.
qemu-img create -f luks "${both[@]}" -o key-secret=sec1,iter-time=10 volume.luks 8M
qemu-img convert "${both[@]}" -n --target-image-opts --image-opts driver=qcow2,encrypt.key-secret=sec0,file.filename=volume.qcow2 driver=luks,key-secret=sec1,file.filename=volume.luks
qemu-img info volume.luks | grep -E '^(file format|virtual size|encrypted|    (cipher|hash|ivgen))'
qemu-io "${both[@]}" --image-opts driver=luks,key-secret=sec1,file.filename=volume.luks -c 'write -P 0xaa 1M 1M' -c 'read -P 0xaa 1M 1M'

# An encrypted overlay over the encrypted base.
qemu-img create -f qcow2 "${both[@]}" -o encrypt.format=luks,encrypt.key-secret=sec1,encrypt.iter-time=10 -u -F qcow2 -b 'json:{"driver":"qcow2","encrypt":{"key-secret":"sec0"},"file":{"driver":"file","filename":"volume.qcow2"}}' machine.qcow2 8M
qemu-io "${both[@]}" --image-opts driver=qcow2,encrypt.key-secret=sec1,file.filename=machine.qcow2 -c 'write -P 0x55 3M 64k'
qemu-img convert "${both[@]}" --image-opts -O raw driver=qcow2,encrypt.key-secret=sec1,file.filename=machine.qcow2 machine.raw
sha256sum machine.raw

# Rotation: the new key in, the old one out, and the last one only by force.
qemu-img amend "${both[@]}" --image-opts -o encrypt.state=active,encrypt.new-secret=sec1,encrypt.iter-time=10 driver=qcow2,encrypt.key-secret=sec0,file.filename=volume.qcow2
qemu-img amend "${both[@]}" --image-opts -o encrypt.state=inactive,encrypt.old-secret=sec0 driver=qcow2,encrypt.key-secret=sec1,file.filename=volume.qcow2
qemu-img amend "${both[@]}" --image-opts -o encrypt.state=inactive,encrypt.old-secret=sec1 driver=qcow2,encrypt.key-secret=sec1,file.filename=volume.qcow2 || echo "the last key stays: $?"
qemu-img convert "${both[@]}" --image-opts -O raw driver=qcow2,encrypt.key-secret=sec0,file.filename=volume.qcow2 no.raw || echo "old key: $?"
qemu-img convert "${both[@]}" --image-opts -O raw driver=qcow2,encrypt.key-secret=sec1,file.filename=volume.qcow2 volume.raw
cmp plain.raw volume.raw && qemu-img check "${both[@]}" --image-opts driver=qcow2,encrypt.key-secret=sec1,file.filename=volume.qcow2
