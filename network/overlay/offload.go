package overlay

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// checksumOffload reads and sets whether a link leaves checksums of what it sends
// to the hardware (ethtool's tx-checksumming). It acts in the network namespace
// of the thread that opened it.
//
// It is one ioctl, so no library is used for it; those that there are ask for the
// names of all features first.
type checksumOffload struct {
	fd   int
	link string
}

func openChecksumOffload(link string) (checksumOffload, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	return checksumOffload{fd, link}, err
}

func (o checksumOffload) close() { unix.Close(o.fd) }

func (o checksumOffload) isOn() (bool, error) {
	v := ethtoolValue{cmd: unix.ETHTOOL_GTXCSUM}
	err := o.ethtool(&v)
	return v.data != 0, err
}

func (o checksumOffload) switchOn() error {
	return o.ethtool(&ethtoolValue{cmd: unix.ETHTOOL_STXCSUM, data: 1})
}

// switchOff also ends segmentation by the hardware, which needs checksums by it.
func (o checksumOffload) switchOff() error {
	return o.ethtool(&ethtoolValue{cmd: unix.ETHTOOL_STXCSUM})
}

// ethtoolValue is struct ethtool_value of linux/ethtool.h.
type ethtoolValue struct{ cmd, data uint32 }

func (o checksumOffload) ethtool(v *ethtoolValue) error {
	req := struct { // struct ifreq of linux/if.h
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(v)}
	copy(req.name[:unix.IFNAMSIZ-1], o.link)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(o.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return fmt.Errorf("checksum offload of link %s: %w", o.link, errno)
	}
	return nil
}

func hasChecksumOffload(link string) (bool, error) {
	o, err := openChecksumOffload(link)
	if err != nil {
		return false, err
	}
	defer o.close()
	return o.isOn()
}

func switchChecksumOffloadOff(link string) error {
	o, err := openChecksumOffload(link)
	if err != nil {
		return err
	}
	defer o.close()
	return o.switchOff()
}
