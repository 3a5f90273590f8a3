package images_test

import (
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
