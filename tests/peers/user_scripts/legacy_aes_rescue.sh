# A machine of long ago has a legacy aes image, which no VM opens any more: out of it into LUKS.
printf 'old pass' >old.key
printf 'new pass' >new.key
secrets=(--object secret,id=old,file=old.key --object secret,id=new,file=new.key)
make_disk plain.raw 6M
qemu-img convert "${secrets[@]}" -f raw -O qcow2 -o encrypt.format=aes,encrypt.key-secret=old,compat=0.10 plain.raw legacy.qcow2
qemu-img info legacy.qcow2 | grep -E '^(file format|virtual size|encrypted|    compat)'
qemu-io "${secrets[@]}" --image-opts driver=qcow2,encrypt.key-secret=old,file.filename=legacy.qcow2 -c 'read -v 0 32' -c 'write -P 0x61 5M 64k'
qemu-img convert "${secrets[@]}" --image-opts -O qcow2 -o encrypt.format=luks,encrypt.key-secret=new,encrypt.iter-time=10 driver=qcow2,encrypt.key-secret=old,file.filename=legacy.qcow2 modern.qcow2
qemu-img compare "${secrets[@]}" --image-opts driver=qcow2,encrypt.key-secret=old,file.filename=legacy.qcow2 driver=qcow2,encrypt.key-secret=new,file.filename=modern.qcow2
qemu-img check "${secrets[@]}" --image-opts driver=qcow2,encrypt.key-secret=old,file.filename=legacy.qcow2
qemu-img check "${secrets[@]}" --image-opts driver=qcow2,encrypt.key-secret=new,file.filename=modern.qcow2
qemu-img map --output=json "${secrets[@]}" --image-opts driver=qcow2,encrypt.key-secret=old,file.filename=legacy.qcow2 >map.json
json map.json 'sum(e["length"] for e in d if e["data"])'
