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
# User-mode Linux does not say how fast its processor is, and the kubelet ends without.
if ! grep -q MHz /proc/cpuinfo && [ "$(uname -m)" = x86_64 ]; then
	{
		grep . /proc/cpuinfo
		echo "cpu MHz : 2000.000"
	} >/run/cpuinfo
	mount --bind /run/cpuinfo /proc/cpuinfo
fi
[ -e /run/host ] || exit 0 # no container
for dir in /sys/fs/cgroup/*/; do mount -o remount,bind,rw "$dir"; done
mkdir -p /run/brink-guest
cp -a /usr/lib/brink-guest/settings /run/brink-guest/
cd /run/brink-guest/settings
find . -type f | while read -r file; do mount --bind "$file" "/proc/sys/$file"; done
EARLY
chmod 755 "$ROOT/usr/lib/brink-guest/early"

# shell runs what the harness sends it over a serial line: lines of base64, a script
# each, answered by its exit code and what it wrote. In a container it has no use.
cat >"$ROOT/usr/lib/brink-guest/shell" <<'SHELL'
#!/bin/sh
exec 0<>"$1" 1>&0 # a port of virtio is opened once only
[ ! -t 0 ] || stty raw -echo
echo guest-shell
cd /root
while read -r script; do
	echo "$script" | base64 -d >/run/guest-script
	env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=xterm LANG=C.UTF-8 \
		sh /run/guest-script >/run/guest-out 2>/run/guest-err </dev/null
	echo "guest-answer $? $(base64 -w 0 </run/guest-out) $(base64 -w 0 </run/guest-err)."
done
SHELL
chmod 755 "$ROOT/usr/lib/brink-guest/shell"
