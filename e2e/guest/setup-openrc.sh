# Debian's own services for a boot are sysvinit's and want hardware: only openrc's
# runlevels are started, and these have what a small system has.
cat >"$ROOT/etc/inittab" <<'TAB'
id:3:initdefault:
e1::sysinit:/usr/lib/brink-guest/early-openrc
si::sysinit:/sbin/openrc sysinit
rc::bootwait:/sbin/openrc boot
l0:0:wait:/sbin/openrc shutdown
p0:0:wait:/sbin/poweroff -f
l3:3:wait:/sbin/openrc default
l6:6:wait:/sbin/openrc shutdown
r6:6:wait:/sbin/reboot -f
TAB
rm -f "$ROOT"/etc/runlevels/*/*
cat >"$ROOT/etc/init.d/guest-net" <<'SERVICE'
#!/sbin/openrc-run
depend() { provide net; }
start() { ifup -a; }
stop() { ifdown -a; }
SERVICE
cat >"$ROOT/etc/init.d/guest-killprocs" <<'SERVICE'
#!/sbin/openrc-run
start() {
	killall5 -15
	sleep 1
	killall5 -9
	return 0
}
SERVICE
chmod 755 "$ROOT"/etc/init.d/guest-*
ln -s /etc/init.d/guest-net "$ROOT/etc/runlevels/boot/guest-net"
ln -s /etc/init.d/guest-killprocs "$ROOT/etc/runlevels/shutdown/guest-killprocs"

# Debian's sysvinit with SELinux mounts a second sysfs over /sys, which hides the
# cgroups: it is taken away again.
cat >"$ROOT/usr/lib/brink-guest/early-openrc" <<'EARLY'
#!/bin/sh
[ -e /sys/fs/cgroup/memory ] || [ -e /sys/fs/cgroup/cgroup.procs ] || umount -l /sys
mkdir -p /run/lock /run/network
exec /usr/lib/brink-guest/early
EARLY
chmod 755 "$ROOT/usr/lib/brink-guest/early-openrc"
