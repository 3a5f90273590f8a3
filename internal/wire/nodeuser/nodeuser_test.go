package nodeuser

import "testing"

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
