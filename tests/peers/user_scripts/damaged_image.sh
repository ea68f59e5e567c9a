# After a power cut an administrator checks, looks at the report, and repairs.
make_disk disk.raw 8M
qemu-img convert -f raw -O qcow2 disk.raw hurt.qcow2
# A refcount that is too high: a leak. Then one that is too low: a corruption.
poke_refcount hurt.qcow2 3
qemu-img check hurt.qcow2 >report || echo "leaks: $?"
grep -E 'leaked clusters|errors' report
qemu-img check --output=json hurt.qcow2 >check.json || true
json check.json 'd.get("leaks"), d.get("corruptions"), d["check-errors"]'
qemu-img check -r leaks hurt.qcow2 >report
tail -n 2 report | head -n 1
qemu-img check hurt.qcow2
poke_refcount hurt.qcow2 0
qemu-img check -q hurt.qcow2 || echo "corrupt: $?"
qemu-img check -r leaks hurt.qcow2 >/dev/null 2>&1 || echo "not with leaks only"
qemu-img check -r all hurt.qcow2 >/dev/null 2>&1 && qemu-img check hurt.qcow2
content hurt.qcow2 qcow2
qemu-img check disk.raw || echo "raw has no checks: $?"
qemu-img check missing.qcow2 || echo "no file: $?"
