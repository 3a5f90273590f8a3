package server

import (
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes/fake"
)

// Roles are made when missing and left alone when somebody has changed them.
func TestAccess(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	for range 2 {
		for what, make := range nodeAccess(client) {
			if err := make(t.Context()); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	creates := 0
	for _, a := range client.Actions() {
		if a.GetVerb() == "create" {
			creates++
		}
	}
	if want := len(nodeBindings()) + 5; creates != want {
		t.Errorf("created %d objects in two starts, want %d", creates, want)
	}
	for _, b := range nodeBindings() {
		if strings.HasSuffix(b.RoleRef.Name, "nodeclient") {
			t.Errorf("%s lets upstream approve any name, or renewals that no record knows of", b.Name)
		}
	}
}
