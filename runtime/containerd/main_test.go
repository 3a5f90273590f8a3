package containerd_test

import (
	"os"
	"testing"

	"brink/runtime/testnode"
)

func TestMain(m *testing.M) { os.Exit(testnode.Main(m)) }
