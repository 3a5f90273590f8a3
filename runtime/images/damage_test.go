package images

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// TestWholeBlobs: by size and by every byte, at the edges of what is read at once.
func TestWholeBlobs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk} {
		good := bytes.Repeat([]byte("x"), size)
		info := content.Info{Digest: digest.FromBytes(good), Size: int64(size)}
		variants := map[string][]byte{"good": good, "longer": append(slices.Clone(good), 'x')}
		if size > 0 {
			variants["shorter"] = good[:size-1]
			variants["last byte"] = append(slices.Clone(good[:size-1]), 'y')
		}
		for what, text := range variants {
			path := filepath.Join(dir, "blob")
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			whole, err := matches(t.Context(), f, info)
			f.Close()
			if err != nil || whole != (what == "good") {
				t.Errorf("%d bytes, %s: whole is %t (%v)", size, what, whole, err)
			}
		}
	}
}

// TestUnreadableIsNotDamaged: what cannot be opened now, as with too many open files
// while pods start, is not dropped. A link to itself is the same kind of error.
func TestUnreadableIsNotDamaged(t *testing.T) {
	t.Parallel()
	b := blobs{dir: t.TempDir()}
	info := content.Info{Digest: digest.FromString("x"), Size: 1}
	if err := os.MkdirAll(filepath.Dir(b.path(info.Digest)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(b.path(info.Digest), b.path(info.Digest)); err != nil {
		t.Fatal(err)
	}
	if whole, err := b.isWhole(t.Context(), info); !errors.Is(err, unix.ELOOP) {
		t.Errorf("whole is %t (%v), want an error", whole, err)
	}
}

func TestLowestPriority(t *testing.T) {
	t.Parallel()
	var nice, class int
	atLowestPriority(func() {
		raw, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
		if err != nil {
			t.Error(err)
		}
		nice = 20 - raw // as the kernel has it
		r, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(unix.Gettid()), 0)
		if errno != 0 {
			t.Error(errno)
		}
		class = int(r)
	})
	if nice != lowestNice || class != ioprioIdle {
		t.Errorf("nice is %d, the class of I/O %#x", nice, class)
	}
}
