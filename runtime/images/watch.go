package images

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// watchedEvents are those after which a directory holds something new, or lacks something:
// a file was made, written and closed, renamed, removed or given another time.
const watchedEvents = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE | unix.IN_ATTRIB

// watch returns a channel that gets changes of a directory until ctx ends. Where inotify
// cannot be used, or when the directory is replaced, it stays silent, and whoever waits
// has to look by itself now and then.
func watch(ctx context.Context, dir string) <-chan struct{} {
	changed := make(chan struct{}, 1)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return changed
	}
	inotify := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, watchedEvents); err != nil {
		inotify.Close()
		return changed
	}
	context.AfterFunc(ctx, func() { inotify.Close() })
	go func() {
		for buffer := make([]byte, 4096); ; {
			if _, err := inotify.Read(buffer); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed
}
