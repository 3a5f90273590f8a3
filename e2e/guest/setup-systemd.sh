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
chroot "$ROOT" systemctl -q enable systemd-networkd guest-early
