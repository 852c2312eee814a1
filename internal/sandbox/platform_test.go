package sandbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/fault"
	"hull/internal/kvm"
	"hull/internal/sandbox/wire"
)

// TestMain has this program stand in for hull-sandbox, where that is asked to try KVM.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == wire.ProbeKVM {
		switch os.Args[2] {
		case silent:
			time.Sleep(time.Hour)
		case slow:
			time.Sleep(time.Second)
		}
		os.Exit(kvm.Main(os.Args[2]))
	}
	os.Exit(m.Run())
}

// silent is a device that is tried by a program which says nothing.
const silent = "/silent"

// slow is one that is tried late, as on a busy machine.
const slow = "/slow"

// probe tries a device, and fails if that takes longer than a trial may.
func probe(t *testing.T, device string, patience time.Duration) error {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("needs amd64, the one architecture that the platform is there for")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e := Engine{Program: self, Options: Options{Platform: KVM, PlatformDevice: device}, trialTime: patience}
	begin := time.Now()
	f, err := e.ProbeKVM()
	if took, most := time.Since(begin), startFactor*patience+killTime+2*time.Second; took > most {
		t.Errorf("it took %v, at most %v are possible", took, most)
	}
	if err == nil {
		f.Close()
		t.Fatal("a stand-in is taken for KVM")
	}
	return err
}

// What is no KVM is refused with the reason, and the cure if there is one.
func TestProbe(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for device, want := range map[string]struct {
		errno      error
		text, hint string
	}{
		dir + "/none":  {unix.ENOENT, `platform kvm: open "` + dir + `/none": no such file or directory`, "the host has no KVM"},
		dir:            {unix.EISDIR, `platform kvm: open "` + dir + `": is a directory`, ""},
		dir + "/fifo":  {unix.ENOTTY, "platform kvm: KVM_GET_API_VERSION: inappropriate ioctl for device", "it is not a device of KVM"},
		os.DevNull:     {unix.ENOTTY, "platform kvm: KVM_GET_API_VERSION: inappropriate ioctl for device", "it is not a device of KVM"},
		"/dev/net/tun": {nil, "platform kvm: ", ""},
	} {
		err := probe(t, device, 10*time.Second)
		if !errors.Is(err, fault.Unsupported) || want.errno != nil && !errors.Is(err, want.errno) {
			t.Errorf("%s: got %v", device, err)
		}
		if !strings.HasPrefix(err.Error(), want.text) || !strings.HasPrefix(fault.Hint(err), want.hint) {
			t.Errorf("%s: got %q, %q, want %q, %q", device, err, fault.Hint(err), want.text, want.hint)
		}
	}
}

// A program that neither says nor does anything is killed.
func TestProbeIsSilent(t *testing.T) {
	err := probe(t, silent, 200*time.Millisecond)
	if want := `platform kvm: hull-sandbox has not begun to try "/silent" within 1.2s`; !errors.Is(err, fault.Unsupported) || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

// A trial that only begins late is waited for.
func TestProbeIsSlow(t *testing.T) {
	err := probe(t, slow, 400*time.Millisecond)
	if want := `platform kvm: open "/slow": no such file or directory`; !errors.Is(err, unix.ENOENT) || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

// A device may hang whoever uses it in the kernel, beyond the reach of SIGKILL. What stands in for it is a file of FUSE whose server
// doesn't answer: once a request has been read, the kernel waits for its end whatever happens.
func TestProbeHangs(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Need{Name: "fuse", Check: func() error { return unix.Access("/dev/fuse", unix.R_OK|unix.W_OK) }})
	for step, request := range map[string]uint32{"open": fuseOpen, "KVM_GET_API_VERSION": fuseIoctl} {
		t.Run(step, func(t *testing.T) {
			device, release := mute(t, request)
			err := probe(t, device, 700*time.Millisecond)
			m := regexp.MustCompile(`^platform kvm: ` + step + ` "` + device + `" has not come back within 700ms; process (\d+) hangs in it, and can't be killed$`).FindStringSubmatch(err.Error())
			if m == nil || !errors.Is(err, fault.Unsupported) || !strings.Contains(fault.Hint(err), "systrap") {
				t.Fatalf("got %q, %q", err, fault.Hint(err))
			}
			// It is as said; and ends by itself once the kernel lets it.
			pid, _ := strconv.Atoi(m[1])
			if !stands(pid) {
				t.Errorf("no thread of process %d hangs; it is in state %q", pid, stateOf(pid))
			}
			release()
			for range 100 {
				if stateOf(pid) == "" {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
			t.Errorf("process %d is still there", pid)
		})
	}
}

func stateOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	state, _, _ := strings.Cut(rest, " ")
	return state
}

// Requests of FUSE: include/uapi/linux/fuse.h.
const (
	fuseLookup  = 1
	fuseGetattr = 3
	fuseOpen    = 14
	fuseInit    = 26
	fuseIoctl   = 39
)

// mute returns a file that there is in a mount namespace of the calling goroutine's thread alone, whose server doesn't answer that
// request. release lets go of who waits.
func mute(t *testing.T, request uint32) (path string, release func()) {
	t.Helper()
	runtime.LockOSThread() // for good: a thread in another namespace is nobody else's
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	fd := int(server.Fd()) // blocking: what is polled before it is mounted is never woken up
	if err := unix.Mount("mute", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd)); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { // also before the directory is removed
		if err := unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(release)
	go func() {
		b := make([]byte, 1<<20)
		for {
			n, err := unix.Read(fd, b)
			if err != nil {
				server.Close()
				return
			}
			op, unique, node := binary.LittleEndian.Uint32(b[4:]), b[8:16], binary.LittleEndian.Uint64(b[16:])
			if op == request || n < 40 {
				continue
			}
			var out bytes.Buffer
			errno := int32(0)
			switch op {
			case fuseInit:
				put(&out, []uint32{7, 31, 1 << 17, 4: 0, 5: 1 << 17, 15: 0})
			case fuseLookup:
				put(&out, []uint64{2, 0, 0, 0, 0})
				out.Write(attributes(2, unix.S_IFREG|0o600))
			case fuseGetattr:
				put(&out, []uint64{0, 0})
				if node == 1 {
					out.Write(attributes(1, unix.S_IFDIR|0o755))
				} else {
					out.Write(attributes(2, unix.S_IFREG|0o600))
				}
			case fuseOpen:
				put(&out, []uint64{1, 0})
			default:
				errno = -int32(unix.ENOSYS)
			}
			var head bytes.Buffer
			put(&head, []uint32{uint32(16 + out.Len()), uint32(errno)})
			head.Write(unique)
			_, _ = unix.Write(fd, append(head.Bytes(), out.Bytes()...))
		}
	}()
	return filepath.Join(dir, "kvm"), release
}

// put writes numbers as this machine has them.
func put(b *bytes.Buffer, numbers any) { _ = binary.Write(b, binary.NativeEndian, numbers) }

// attributes is struct fuse_attr.
func attributes(inode uint64, mode uint32) []byte {
	var b bytes.Buffer
	put(&b, []uint64{inode, 0, 0, 0, 0, 0})
	put(&b, []uint32{0, 0, 0, mode, 1, 0, 0, 0, 4096, 0})
	return b.Bytes()
}

// The options of a platform go together, or there is an error.
func TestPlatforms(t *testing.T) {
	for _, o := range []Options{{Platform: "x"}, {PlatformDevice: "/dev/kvm"}, {Platform: Systrap, PlatformDevice: "/dev/kvm"}, {Platform: KVM, PlatformDevice: "kvm"}} {
		if err := o.Check(); !errors.Is(err, fault.BadUsage) {
			t.Errorf("%+v: got %v", o, err)
		}
	}
	if err := (Options{Platform: "ptrace"}).Check(); !errors.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), "systrap") {
		t.Errorf("ptrace: got %v", err)
	}
	for _, o := range []Options{{}, {Platform: Systrap}, {Platform: KVM}} {
		if err := o.Check(); err != nil && runtime.GOARCH == "amd64" {
			t.Errorf("%+v: got %v", o, err)
		}
	}
}
