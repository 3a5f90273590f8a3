# Finishes every root. What a Debian installer writes and mmdebstrap does not:
echo '127.0.0.1 localhost' >"$ROOT/etc/hosts"
: >"$ROOT/etc/machine-id"
: >"$ROOT/etc/resolv.conf"
rm -rf "$ROOT"/var/cache/apt/* "$ROOT"/var/lib/apt/lists/*

# Settings of the whole kernel that a kubelet writes: the guest has files of its own in
# their place, with what Linux begins with.
mkdir -p "$ROOT/usr/lib/brink-guest/settings"
cd "$ROOT/usr/lib/brink-guest/settings"
for setting in vm/overcommit_memory=0 vm/panic_on_oom=0 kernel/panic=0 kernel/panic_on_oops=0 \
	kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
	mkdir -p "${setting%/*}"
	echo "${setting#*=}" >"${setting%=*}"
done

# early runs in the guest before anything else. systemd-nspawn mounts the hierarchies of
# version 1 for reading only; a machine has them writable.
cat >"$ROOT/usr/lib/brink-guest/early" <<'EARLY'
#!/bin/sh
for dir in /sys/fs/cgroup/*/; do mount -o remount,bind,rw "$dir"; done
mkdir -p /run/brink-guest
cp -a /usr/lib/brink-guest/settings /run/brink-guest/
cd /run/brink-guest/settings
find . -type f | while read -r file; do mount --bind "$file" "/proc/sys/$file"; done
EARLY
chmod 755 "$ROOT/usr/lib/brink-guest/early"
