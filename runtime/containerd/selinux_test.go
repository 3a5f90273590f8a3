package containerd

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCanLabel stands in for kernels with and without the policy: one that takes
// what is written, one that answers with an error, one without SELinux.
func TestCanLabel(t *testing.T) {
	t.Parallel()
	accepts := filepath.Join(t.TempDir(), "context")
	if err := os.WriteFile(accepts, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		context string
		want    bool
	}{
		{accepts, true},
		{"/dev/full", false},
		{filepath.Join(t.TempDir(), "none"), false},
	} {
		if got := canLabel(t.Context(), c.context); got != c.want {
			t.Errorf("%s: labels are %t, want %t", c.context, got, c.want)
		}
	}
	if asked, err := os.ReadFile(accepts); err != nil || string(asked) != "system_u:system_r:container_t:s0" {
		t.Errorf("the kernel was asked for %q (%v)", asked, err)
	}
}

// TestHostWithoutLabels: what the host has decides what containerd is told.
func TestHostWithoutLabels(t *testing.T) {
	t.Parallel()
	for _, selinux := range []bool{false, true} {
		cfg := Config{}
		cfg.Host.SELinux = selinux
		if got := cfg.runtime()["enable_selinux"]; got != selinux {
			t.Errorf("enable_selinux is %v, want %t", got, selinux)
		}
		labelled := cfg.withLabels(t.Context(), "/dev/full")
		if got := labelled.runtime()["enable_selinux"]; got != false {
			t.Errorf("enable_selinux is %v although the kernel refuses the label", got)
		}
	}
}
