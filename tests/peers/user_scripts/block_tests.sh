# Someone who tests storage with qemu-io: patterns, vectors, alignment, errors and their codes.
qemu-img create -q -f qcow2 t.qcow2 4M
qemu-io -c 'write -P 0xa5 0 64k' -c 'read -P 0xa5 0 64k' -c 'read -P 0 64k 64k' t.qcow2
qemu-io -c 'writev -P 0x5a 1M 4k 8k 512' -c 'readv -P 0x5a 1M 4k 8k 512' t.qcow2
qemu-io -c 'aio_write -P 3 2M 128k' -c aio_flush -c 'aio_read -P 3 2M 128k' -c aio_flush t.qcow2
qemu-io -c 'write -z -u 0 32k' -c 'map' -c 'alloc 0 1M' -c 'length' t.qcow2
qemu-io -c 'read -P 1 0 512' t.qcow2 || echo "verification: $?"
qemu-io -c 'write 4M 512' t.qcow2 || echo "past the end: $?"
qemu-io -r -c 'write 0 512' t.qcow2 || echo "read-only: $?"
qemu-io -c 'nonsense' t.qcow2 || echo "no command: $?"
qemu-io -c 'write -s missing 0 512' t.qcow2 || echo "no pattern file: $?"
qemu-io -f raw -c 'read -v 0 16' t.qcow2 | head -n 1
printf 'write -P 9 3M 64k\nread -P 9 3M 64k\nflush\nq\n' | qemu-io t.qcow2
qemu-io -c 'truncate 6M' -c length t.qcow2
qemu-img check t.qcow2
content t.qcow2 qcow2
