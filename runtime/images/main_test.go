package images_test

import (
	"context"
	"os"
	"testing"

	"brink/runtime/images"
	"brink/runtime/testnode"
)

func TestMain(m *testing.M) { os.Exit(testnode.Main(m)) }

// storeOf is the image store of a node.
func storeOf(n *testnode.Node) images.Store {
	return images.Store{Layout: n.Config.Layout}
}

// silent is for imports of which nobody wants to hear.
func silent(string) {}

// running is the directory of a node's archives, as a node runs it.
func running(t *testing.T, store images.Store) *images.Directory {
	t.Helper()
	d := images.NewDirectory(store, store.Layout.Images(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return d
}
