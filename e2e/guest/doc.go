// Package guest boots whole Debian systems, with systemd or openrc as their first
// process, for the tests of what installs, updates and removes brink.
//
// A guest is in most cases a container of systemd-nspawn on this machine's kernel. Its root is a
// copy-on-write of one that mmdebstrap made and that is kept (Recipe), except /var/lib:
// that is a real directory, because containerd's snapshots are overlays and overlayfs
// does not work on itself. It has cgroups of its own name, which is also how all that
// runs in it is found and ended (machine.Enclosure), and is plugged into a network
// (Net) that is a namespace with a bridge: nothing of it touches the machine's own
// network. What a kubelet sets for the whole kernel (vm.overcommit_memory and the like)
// it finds as files of its own, so that several guests may run beside each other and
// beside other tests, and a test can see whether the settings are given back.
//
// A reboot is a real one but for the kernel: the first process ends all others, and
// everything but the files begins anew. A power cut kills all at once; what was
// written and not synced is kept, so this is not a test of what a disk loses.
//
// A Snapshot is all that could be left behind by a program, and what a comparison
// finds after an uninstall is a fault.
//
// The harness needs cgroups of version 1 on the machine that runs it, or a version 2
// that nobody else manages; the second was never tried.
//
// A recipe may have a kernel of its own instead (vm.go): User-mode Linux for cgroups of
// version 2, or an emulated machine for arm64. It has the same methods, except Snapshot.
//
// Read in this order: recipe.go, network.go, guest.go, boot.go, run.go, snapshot.go,
// dist.go, vm.go.
package guest
