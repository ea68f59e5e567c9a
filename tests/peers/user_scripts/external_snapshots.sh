# An administrator: a chain of external snapshots, rolled back once, merged down, shortened, moved to another folder.
make_disk base.raw 16M
qemu-img convert -f raw -O qcow2 -o cluster_size=32k,lazy_refcounts=on base.raw base.qcow2
qemu-img create -f qcow2 -F qcow2 -b base.qcow2 snap1.qcow2
qemu-io -c 'write -P 1 0 1M' snap1.qcow2
qemu-img create -f qcow2 -F qcow2 -b snap1.qcow2 snap2.qcow2
qemu-io -c 'write -P 2 512k 1M' -c 'write -z 4M 2M' snap2.qcow2
qemu-img create -f qcow2 -F qcow2 -b snap2.qcow2 snap3.qcow2 20M
qemu-io -c 'write -P 3 15M 2M' snap3.qcow2
qemu-img info --backing-chain snap3.qcow2 | grep -E '^(image|virtual size|backing file|cluster_size|    lazy)'
qemu-img map --output=human snap3.qcow2
qemu-img map --output=json snap3.qcow2
# Into the middle of the chain.
qemu-img commit -b snap1.qcow2 -f qcow2 snap3.qcow2 || echo "not: $?"
qemu-img rebase -b snap1.qcow2 -F qcow2 -f qcow2 snap3.qcow2
qemu-img commit -d snap3.qcow2
content snap1.qcow2 qcow2
qemu-img rebase -f qcow2 -b base.qcow2 -F qcow2 snap3.qcow2
qemu-img check snap3.qcow2 | head -n 1
mkdir moved && mv base.qcow2 moved/ && mv snap3.qcow2 moved/
qemu-img info -f qcow2 moved/snap3.qcow2 | grep backing
content moved/snap3.qcow2 qcow2
qemu-img rebase -u -b '' moved/snap3.qcow2
qemu-img info moved/snap3.qcow2 | grep -c backing || true
