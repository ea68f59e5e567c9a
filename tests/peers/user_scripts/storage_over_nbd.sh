# A migration over the network: the disk goes through an NBD server that is not ours.
make_disk disk.raw 8M
qemu-img create -q -f raw there.raw 8M
serve_nbd there.raw
qemu-img info --output=json "nbd+unix:///?socket=$PWD/nbd.sock" >info.json
json info.json 'd["format"], d["virtual-size"]'
qemu-img convert -n -f raw -O raw disk.raw "nbd+unix:///?socket=$PWD/nbd.sock"
qemu-img compare -f raw -F raw disk.raw "nbd:unix:$PWD/nbd.sock"
qemu-io -f raw -c 'write -P 0x77 1M 1M' -c 'read -P 0x77 1M 1M' -c flush "nbd:unix:$PWD/nbd.sock"
qemu-img convert -O qcow2 --image-opts driver=nbd,server.type=unix,server.path="$PWD/nbd.sock" back.qcow2
content back.qcow2 qcow2
