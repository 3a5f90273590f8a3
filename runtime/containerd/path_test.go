package containerd

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestPath(t *testing.T) {
	for _, c := range []struct {
		first bool
		want  []string // in this order
	}{
		{true, []string{"/p/bin", "/p/nft", "/usr/local/sbin", "/usr/bin", "/sbin"}},
		{false, []string{"/p/bin", "/usr/bin", "/sbin", "/p/nft"}},
	} {
		t.Setenv("PATH", "/usr/local/sbin:/usr/bin")
		if err := (Config{BinDir: "/p/bin", NFTDir: "/p/nft", NFTFirst: c.first}).setPath(); err != nil {
			t.Fatal(err)
		}
		got := strings.Split(os.Getenv("PATH"), ":")
		last := -1
		for _, dir := range c.want {
			at := slices.Index(got, dir)
			if at <= last {
				t.Errorf("with %t PATH is %v, want %v in this order", c.first, got, c.want)
			}
			last = at
		}
	}
}
