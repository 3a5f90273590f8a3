package nodeuser

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

// TestNodeNameIsUpstreams: Kubernetes takes a name that brink takes, and none that it
// does not.
func TestNodeNameIsUpstreams(t *testing.T) {
	t.Parallel()
	if MaxNodeName != validation.LabelValueMaxLength {
		t.Errorf("a label's value has %d bytes at most", validation.LabelValueMaxLength)
	}
	for _, name := range []string{
		"a", "edge-1", "edge-1.example.org", "1", strings.Repeat("a", 63), "",
		"Edge", "edge_1", "-edge", "edge-", "edge.", ".edge", "a..b", "a.-b", "edge 1", "k\u00e4se", "a\n",
	} {
		if got, want := HasNodeNameForm(name), len(validation.IsDNS1123Subdomain(name)) == 0; got != want {
			t.Errorf("%q: %v, upstream says %v", name, got, want)
		}
	}
}

func TestNode(t *testing.T) {
	t.Parallel()
	for user, want := range map[string]struct {
		node string
		ok   bool
	}{
		Name("till-3"):            {"till-3", true},
		Subject("a.b").CommonName: {"a.b", true},
		Prefix:                    {"", true},
		Group:                     {Group, false},
		"system:node-proxier":     {"system:node-proxier", false},
		"x-system:node:till-3":    {"x-system:node:till-3", false},
	} {
		if node, ok := Node(user); node != want.node || ok != want.ok {
			t.Errorf("%s: node %q, %v, want %q, %v", user, node, ok, want.node, want.ok)
		}
	}
}
