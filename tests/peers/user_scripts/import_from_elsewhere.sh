# A migration from other hypervisors: their images become ours.
make_disk disk.raw 10M
for format in vmdk vdi vhdx vpc; do
  real_qemu_img convert -f raw -O "$format" disk.raw "disk.$format"
  qemu-img info --output=json "disk.$format" >info.json
  json info.json 'd["format"], d["virtual-size"]'
  qemu-img convert -f "$format" -O qcow2 "disk.$format" "from_$format.qcow2"
  qemu-img convert -O raw "disk.$format" "from_$format.raw"
  qemu-img check "from_$format.qcow2"
  head -c 10M "from_$format.raw" | cmp - disk.raw
  content "from_$format.qcow2" qcow2
done
real_qemu_img convert -f raw -O vmdk -o subformat=streamOptimized disk.raw stream.vmdk
qemu-img convert -f vmdk -O qcow2 stream.vmdk stream.qcow2
content stream.qcow2 qcow2
