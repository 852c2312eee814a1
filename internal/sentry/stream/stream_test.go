package stream

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"hull/hulltest"
)

// A descriptor that can't be used is closed once: a second time it may be the number of another file, that was opened meanwhile.
func TestExtraClosesOnce(t *testing.T) {
	var over atomic.Bool
	var other sync.WaitGroup
	other.Go(func() {
		for !over.Load() {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				err = unix.Close(fd)
			}
			if err != nil {
				t.Errorf("a file of another goroutine's: %v", err)
				return
			}
		}
	})
	for range 20_000 {
		fd, err := unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			break
		}
		if new(Importer).Extra(nil, nil, []int{fd}) == nil {
			t.Error("a descriptor that nothing can be read by is taken")
			break
		}
	}
	over.Store(true)
	other.Wait()
}

// hostMount returns a mount as a kernel has one for the host's files.
func hostMount(t *testing.T) *vfs.Mount {
	t.Helper()
	ctx, all := context.Background(), new(vfs.VirtualFilesystem)
	if err := all.Init(ctx); err != nil {
		t.Fatal(err)
	}
	fs, err := host.NewFilesystem(all)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.DecRef(ctx) // the mount has one
	mount := all.NewDisconnectedMount(fs, nil, &vfs.MountOptions{})
	t.Cleanup(func() { mount.DecRef(ctx) })
	return mount
}

// memfdSecret is there since Linux 5.14, where it was built in and the command line of the kernel has not turned it off.
var memfdSecret = hulltest.Need{Name: "memfd_secret", Check: func() error {
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_secret", err)
	}
	return unix.Close(fd)
}}

// A regular file that can't seek, as tracefs's trace_pipe and some of FUSE's, is none of a sandbox's. It doesn't stay open there.
func TestExtraClosesWhatCantSeek(t *testing.T) {
	hulltest.Require(t, memfdSecret)
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC) // the one such file that needs no mount
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		t.Fatalf("fstat: %v, mode %o: no regular file", err, st.Mode)
	}
	i := &Importer{Mount: hostMount(t)}
	if err := i.Extra(context.Background(), nil, []int{fd}); !errors.Is(err, unix.ESPIPE) {
		t.Errorf("%v, want %v", err, unix.ESPIPE)
	}
	var now unix.Stat_t
	if unix.Fstat(fd, &now) == nil && now.Dev == st.Dev && now.Ino == st.Ino {
		t.Error("the descriptor stays open")
		unix.Close(fd)
	}
}
