package containerd

import "testing"

func TestExpectedMessages(t *testing.T) {
	t.Parallel()
	for message, want := range map[string]bool{
		"failed to load cni during init, please check CRI plugin status before setting up network for pods":                                   true,
		`failed to reload cni configuration after receiving fs change event(WRITE         "/var/lib/brink/agent/cni/net.d/.10-x.conflist.1")`: true,
		`failed to reload cni configuration after receiving fs change event(WRITE         "/home/.a/cni/net.d/10-x.conflist")`:                false,
		"failed to reload cni configuration": false,
		"no space left on device":            false,
	} {
		if got := isExpected(message); got != want {
			t.Errorf("%q is expected: %t, want %t", message, got, want)
		}
	}
}
