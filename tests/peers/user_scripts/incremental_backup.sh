# A backup tool: a full backup of a disk with a checkpoint bitmap, then two increments, then the restore.
make_disk disk.raw 32M
qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
qemu-img bitmap --add -g 64k disk.qcow2 monday
qemu-img convert -f qcow2 -O qcow2 disk.qcow2 full.qcow2

qemu-io -f qcow2 -c 'write -P 0x11 1M 200k' -c 'write -z 9M 1M' -c 'discard 12M 1M' disk.qcow2
qemu-img bitmap --add disk.qcow2 tuesday
qemu-img bitmap --disable disk.qcow2 monday
qemu-io -f qcow2 -c 'write -P 0x22 20M 3M' -c 'write -P 0x23 31M 1M' disk.qcow2

qemu-img bitmap --add --disable disk.qcow2 since_monday
qemu-img bitmap --merge monday --merge tuesday disk.qcow2 since_monday
qemu-img info --output=json disk.qcow2 >info.json
json info.json 'sorted((b["name"], b["granularity"], b["flags"]) for b in d["format-specific"]["data"]["bitmaps"])'
qemu-img measure --output=json -O qcow2 disk.qcow2 >measure.json
json measure.json 'd["required"], d["fully-allocated"], d["bitmaps"]'

# What changed goes into an overlay of the full backup.
qemu-img convert -f qcow2 -O qcow2 --bitmaps disk.qcow2 copy.qcow2
qemu-img create -q -f qcow2 -b full.qcow2 -F qcow2 increment.qcow2
qemu-img convert -f qcow2 -O qcow2 -B full.qcow2 -F qcow2 disk.qcow2 increment.qcow2
qemu-img map --output=json -f qcow2 increment.qcow2 >map.json
json map.json 'sum(e["length"] for e in d if e["depth"] == 0)'
qemu-img compare disk.qcow2 increment.qcow2
qemu-img compare -f qcow2 -F qcow2 disk.qcow2 copy.qcow2
qemu-img bitmap --clear --enable copy.qcow2 tuesday
qemu-img bitmap --remove copy.qcow2 monday
qemu-img bitmap --merge since_monday -b disk.qcow2 -F qcow2 copy.qcow2 tuesday
qemu-img info copy.qcow2 | sed -n '/bitmaps/,/^    [a-z]/p'
qemu-img check copy.qcow2 | head -n 1
qemu-img check disk.qcow2 | head -n 1
content increment.qcow2 qcow2
