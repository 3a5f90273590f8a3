cat >"$ROOT/etc/systemd/system/guest-early.service" <<'UNIT'
[Unit]
Description=makes a container look like a machine
DefaultDependencies=no
Before=sysinit.target
[Service]
Type=oneshot
ExecStart=/usr/lib/brink-guest/early
[Install]
WantedBy=sysinit.target
UNIT
cat >"$ROOT/etc/systemd/system/guest-shell.service" <<'UNIT'
[Unit]
Description=runs what the harness asks for
ConditionVirtualization=!container
# A slow machine has no line yet when this is started first.
StartLimitIntervalSec=0
[Service]
ExecStart=/bin/sh -c 'for line in /dev/virtio-ports/guest.shell /dev/ttyS0; do [ ! -e $line ] || exec /usr/lib/brink-guest/shell $line; done; exit 1'
Restart=always
RestartSec=1s
[Install]
WantedBy=multi-user.target
UNIT
# Of an architecture that this machine cannot run, see setup-arm64.sh.
[ -e "$ROOT/etc/fstab" ] && [ ! -e "$ROOT/etc/passwd" ] || chroot "$ROOT" systemctl -q enable systemd-networkd guest-early guest-shell
