# The root of another architecture is unpacked and not configured, as that takes eight
# minutes under an emulator and this a quarter of one. What its packages would have done
# and a boot needs:
cp "$ROOT/usr/share/base-passwd/passwd.master" "$ROOT/etc/passwd"
cp "$ROOT/usr/share/base-passwd/group.master" "$ROOT/etc/group"
sed -i 's/^root:\*:/root::/' "$ROOT/etc/passwd"
ln -sf mawk "$ROOT/usr/bin/awk"
cat "$ROOT"/usr/share/ca-certificates/mozilla/*.crt >"$ROOT/etc/ssl/certs/ca-certificates.crt"
: >"$ROOT/etc/fstab"
kernel=$(ls "$ROOT/usr/lib/modules")
depmod -b "$ROOT" "$kernel"
systemctl -q --root="$ROOT" enable systemd-networkd guest-early guest-shell
systemctl -q --root="$ROOT" mask systemd-firstboot e2scrub_reap 2>/dev/null || true

# The kernel cannot read its disk before it has modules for it: they are in a file
# system in memory, from which it goes on to the disk.
mkdir -p "$ROOT/boot/early/bin" "$ROOT/boot/early/proc" "$ROOT/boot/early/dev" "$ROOT/boot/early/root"
cp "$ROOT/bin/busybox" "$ROOT/boot/early/bin/"
for module in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk crc16 crc32c_generic mbcache jbd2 ext4; do
	file=$(find "$ROOT/usr/lib/modules" -name "$module.ko")
	[ -z "$file" ] || cp "$file" "$ROOT/boot/early/$module.ko"
done
cat >"$ROOT/boot/early/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk crc16 crc32c_generic mbcache jbd2 ext4; do
	[ ! -e "/$module.ko" ] || /bin/busybox insmod "/$module.ko"
done
until [ -e /dev/vda ]; do /bin/busybox sleep 0.1; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /sbin/init
INIT
chmod 755 "$ROOT/boot/early/init"
(cd "$ROOT/boot/early" && find . | cpio -o -H newc --quiet | gzip) >"$ROOT/boot/early.gz"
rm -rf "$ROOT/boot/early"
