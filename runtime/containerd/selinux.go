package containerd

import (
	"errors"
	"log/slog"
	"os"
)

const (
	// selinuxContext is where the kernel tells whether its policy knows a label.
	selinuxContext = "/sys/fs/selinux/context"
	// containerLabel is the one containerd gives to a container's process.
	containerLabel = "system_u:system_r:container_t:s0"
)

// withLabels switches labels off where the kernel would refuse them.
func (c Config) withLabels(context string) Config {
	c.Host.SELinux = c.Host.SELinux && canLabel(context)
	return c
}

// canLabel tells whether the policy that the kernel has loaded knows the label
// of containers. SELinux without it is how Fedora and RHEL come out of the box,
// and there a container with the label does not start at all.
func canLabel(context string) bool {
	err := acceptsLabel(context, containerLabel)
	if err == nil {
		return true
	}
	slog.Warn("containers run without SELinux labels, because the policy of this host does not know them: install the package container-selinux and restart brink",
		"component", "containerd", "label", containerLabel, "error", errors.Unwrap(err))
	return false
}

func acceptsLabel(context, label string) error {
	f, err := os.OpenFile(context, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// The write is the question and its error the answer.
	_, err = f.WriteString(label)
	return err
}
