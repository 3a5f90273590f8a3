package containerd

import (
	"context"
	"errors"
	"os"

	"brink/internal/lifecycle"
)

const (
	// selinuxContext is a file by which the kernel says whether its policy knows a label.
	selinuxContext = "/sys/fs/selinux/context"
	// containerLabel is the label that containerd gives to a container's process.
	containerLabel = "system_u:system_r:container_t:s0"
)

// withLabels switches labels off where the kernel would refuse them.
func (c Config) withLabels(ctx context.Context, file string) Config {
	c.Host.SELinux = c.Host.SELinux && canLabel(ctx, file)
	return c
}

// canLabel reports whether the policy that the kernel has loaded knows the label of
// containers. Fedora and RHEL are installed with SELinux but without that label, and a
// container that has it does not start there at all.
func canLabel(ctx context.Context, file string) bool {
	err := acceptsLabel(file, containerLabel)
	if err == nil {
		return true
	}
	lifecycle.Logger(ctx).Warn("containers run without SELinux labels, because the policy of this host does not know them: install the package container-selinux and restart brink",
		"label", containerLabel, "error", errors.Unwrap(err))
	return false
}

// acceptsLabel asks the kernel: the write is the question, its error the answer.
func acceptsLabel(file, label string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(label)
	return err
}
