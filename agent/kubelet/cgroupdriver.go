package kubelet

import (
	"fmt"
	"strings"

	"brink/internal/componentargs"
)

// DriverChoice is the cgroup driver that the user asks for. containerd and the kubelet
// must make pods' groups by the same one, so brink hands it to both.
type DriverChoice struct {
	// Systemd is true for the systemd driver, false for cgroupfs.
	Systemd bool
	// Setting is what the user has written, and where. It is empty for no choice.
	Setting string
}

// ChosenDriver returns the user's choice: a flag's, or else that of the kubelet's
// configuration files, as upstream ranks them. An empty value in a file means the default.
func ChosenDriver(args []string) (DriverChoice, error) {
	if value := lastValue(args, "cgroup-driver"); value != "" {
		return driverChoice(value, "--kubelet-arg=cgroup-driver="+value)
	}
	given, _, err := readFiles(lastValue(args, "config"), lastValue(args, "config-dir"))
	if err != nil {
		return DriverChoice{}, err
	}
	if value, _ := given[driverField].(string); value != "" {
		return driverChoice(value, "the kubelet's configuration file: cgroupDriver: "+value)
	}
	return DriverChoice{}, nil
}

// driverField is the field of the kubelet's configuration files.
const driverField = "cgroupDriver"

func driverChoice(value, setting string) (DriverChoice, error) {
	if value != "systemd" && value != "cgroupfs" {
		return DriverChoice{}, fmt.Errorf("%s: there are the drivers systemd and cgroupfs", setting)
	}
	return DriverChoice{Systemd: value == "systemd", Setting: setting}, nil
}

// CgroupRoot returns the cgroup below which all pods' cgroups are, by the flags. "" is the
// root.
func CgroupRoot(args []string) string { return lastValue(args, "cgroup-root") }

// lastValue returns the value of a flag, of which the last one counts, as upstream parses
// them. It is "" without the flag.
func lastValue(args []string, flag string) string {
	last := ""
	for _, arg := range args {
		if _, value, ok := strings.Cut(arg, "="); ok && componentargs.Name(arg) == flag {
			last = value
		}
	}
	return last
}
