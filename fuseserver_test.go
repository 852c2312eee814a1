package hull_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func init() { roles["fuse server"] = fuseServer }

// withFUSE gives the container /dev/fuse, as engines do for `--device /dev/fuse`, and the right to mount.
func withFUSE(s *specs.Spec) {
	major, minor := int64(10), int64(229)
	s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: major, Minor: minor})
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
		specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"})
	mayMount(s)
}

func mayMount(s *specs.Spec) {
	for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
		*set = append(*set, "CAP_SYS_ADMIN", "CAP_MKNOD")
	}
	s.Linux.Seccomp = nil
}

// A container whose configuration has /dev/fuse can mount what a program of its own serves.
func TestFUSE(t *testing.T) {
	hulltest.Require(t, hulltest.FUSE)
	says(t, run(t, withActor(t, t.TempDir()), playing("fuse server"), withFUSE), fuseSays...)
}

var fuseSays = []string{"fuse is a file system", "mounted", "entry file", "mode -r--r--r--", "text of the file", "nothing is file does not exist",
	"unmounted", "the server ends: no such device"}

// Without it in the configuration a sandbox knows neither the device nor the file system, also not for who makes a node.
func TestSandboxNoFUSE(t *testing.T) {
	got := run(t, withActor(t, t.TempDir()), playing("fuse server", "node"), mayMount)
	expect(t, outcome{Status: "1", Out: "", Err: "fuse server: open /dev/node: no such device or address\n"}, got)
}

// In a pod it is a file system of the containers that have the device, and of no others.
func testFUSEOfAnother(t *testing.T) {
	r := newRuntime(t)
	c, err := r.Run(t.Context(), "fuse", hull.CreateOptions{Bundle: bundle(t, r, args("sleep", "3600"), withFUSE)})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	got, err := tryRun(t, r, withActor(t, t.TempDir()), playing("fuse server", "node"), mayMount)
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, outcome{Status: "1", Out: "fuse is a file system\n", Err: "fuse server: mount: no such device\n"}, got)
}

// A sandbox is not saved while a file system is served in it, but before and afterwards.
func TestSandboxFUSECheckpoint(t *testing.T) {
	out, dir := newSpeaker(t), t.TempDir()
	c := create(t, newRuntime(t), hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, withActor(t, dir), playing("fuse server", "stay"), withFUSE)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	out.want("fuse is a file system")
	out.want("mounted")
	save := func() error {
		return c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: t.TempDir()}, LeaveRunning: true})
	}
	refused(t, save(), hull.ErrUnsupported, "has /dev/fuse open")
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out.want("unmounted")
	out.want("the server ends: no such device")
	if err := save(); err != nil {
		t.Error(errorText(err))
	}
}

// A container that was restored has what it had.
func TestSandboxFUSERestored(t *testing.T) {
	r := newRuntime(t)
	bundle, image := savedBundle(t, withFUSE), filepath.Join(t.TempDir(), "image")
	c, _ := runSaved(t, r, bundle)
	checkpoint(t, c, image, false)
	c = restore(t, r, "again", restoreOptions(bundle, image, newDialogue(t)))
	says(t, exec1(t, c, func(p *specs.Process) { p.Args, p.Env = []string{actorPath}, []string{envRole + "=fuse server"} }), fuseSays...)
}

// What is no device is no server.
func TestSandboxFUSEServerIsADevice(t *testing.T) {
	for _, how := range []string{"stream", "stream last"} {
		got := run(t, withActor(t, t.TempDir()), playing("fuse server", how), withFUSE)
		expect(t, outcome{Status: "1", Out: "fuse is a file system\n", Err: "fuse server: mount: invalid argument\n"}, got)
	}
}

func TestSandboxFUSEWithoutARule(t *testing.T) {
	_, err := tryRun(t, newRuntime(t), withFUSE, func(s *specs.Spec) { s.Linux.Resources.Devices = s.Linux.Resources.Devices[:1] })
	refused(t, err, hull.ErrUnsupported, `linux.devices[0] "/dev/fuse"`, "linux.resources.devices has no rule that allows c 10:229 rw")
}

// A container of a pod ends though a program from a file system of its own is waited for, whose server doesn't answer.
func TestSandboxPodFUSEServerThatIsSilent(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	r, pod := newPod(t)
	out := newSpeaker(t)
	c := member(t, r, pod, "fuse", hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, withActor(t, t.TempDir()),
		playing("fuse server", "child"), withFUSE, podPIDs(pod)) // where no server ends because the first process does
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	out.want("fuse is a file system")
	out.want("mounted")
	ended := make(chan error, 1)
	go func() {
		_, err := tryExec(t, c, func(p *specs.Process) { p.Args = []string{"/mountpoint/program"} })
		ended <- err
	}()
	out.want("asked")
	began := time.Now()
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Error(errorText(err))
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the program was found")
		}
	case <-time.After(hulltest.Patient(5*time.Second) - time.Since(began)):
		t.Error("the server was not ended")
	}
}

// fuseServer mounts a file system with one file, which it serves itself, and looks at it.
func fuseServer(args []string) error {
	const at = "/mountpoint"
	device := "/dev/fuse"
	if len(args) > 0 && args[0] == "child" {
		cmd := exec.Command("/proc/self/exe", "silent")
		cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), envRole+"=fuse server"), os.Stdout, os.Stderr
		return cmd.Run()
	}
	if len(args) > 0 && args[0] == "node" {
		device = "/dev/node"
		if err := unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))); err != nil {
			return err
		}
	}
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: device, Err: err}
	}
	types, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	if bytes.Contains(types, []byte("\tfuse\n")) {
		fmt.Println("fuse is a file system")
	}
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	source := fmt.Sprintf("fd=%d", fd)
	if len(args) > 0 {
		switch args[0] {
		case "stream":
			source = "fd=1"
		case "stream last": // which is what counts
			source += ",fd=1"
		}
	}
	if err := unix.Mount("test", at, "fuse", unix.MS_NOSUID|unix.MS_NODEV, source+",rootmode=40000,user_id=0,group_id=0"); err != nil {
		return os.NewSyscallError("mount", err)
	}
	fmt.Println("mounted")
	served := make(chan error)
	go func() { served <- serveFUSE(fd, len(args) > 0 && args[0] == "silent") }()
	if len(args) > 0 && args[0] == "silent" {
		return <-served
	}
	stay := len(args) > 0 && args[0] == "stay"
	for stay {
		if _, err := os.Stat(filepath.Join(sharedDir, "go")); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !stay {
		if err := lookAtFUSE(at); err != nil {
			return err
		}
	}
	if err := unix.Unmount(at, 0); err != nil {
		return os.NewSyscallError("umount", err)
	}
	fmt.Println("unmounted")
	select {
	case err := <-served:
		unix.Close(fd)
		fmt.Println("the server ends:", err)
	case <-time.After(hulltest.Patient(5 * time.Second)):
		return errors.New("the server doesn't end")
	}
	if stay {
		time.Sleep(time.Hour)
	}
	return nil
}

func lookAtFUSE(at string) error {
	list, err := os.ReadDir(at)
	if err != nil {
		return err
	}
	for _, e := range list {
		fmt.Println("entry", e.Name())
	}
	st, err := os.Stat(filepath.Join(at, "file"))
	if err != nil {
		return err
	}
	fmt.Println("mode", st.Mode())
	b, err := os.ReadFile(filepath.Join(at, "file"))
	if err != nil {
		return err
	}
	fmt.Printf("%s", b)
	_, err = os.Stat(filepath.Join(at, "nothing"))
	var pe *os.PathError
	if errors.As(err, &pe) && errors.Is(err, os.ErrNotExist) {
		fmt.Println("nothing is", os.ErrNotExist)
	}
	return nil
}

const fuseText = "text of the file\n"

// Operations and their messages, include/uapi/linux/fuse.h.
const (
	fuseLookup, fuseForget, fuseGetattr          = 1, 2, 3
	fuseOpen, fuseRead, fuseStatfs, fuseRelease  = 14, 15, 17, 18
	fuseInit, fuseOpendir, fuseReaddir, fuseDone = 26, 27, 28, 29
	fuseInterrupt, fuseDestroy, fuseBatchForget  = 36, 38, 42
	fuseRoot, fuseFile                           = 1, 2
)

type fuseIn struct {
	Len, Opcode   uint32
	Unique, Node  uint64
	UID, GID, PID uint32
	_             uint32
}

type fuseAttr struct {
	Ino, Size, Blocks, Atime, Mtime, Ctime uint64
	Nsec                                   [3]uint32
	Mode, Nlink, UID, GID, Rdev, Blksize   uint32
	_                                      uint32
}

func attrOf(node uint64) fuseAttr {
	if node == fuseRoot {
		return fuseAttr{Ino: node, Mode: unix.S_IFDIR | 0o755, Nlink: 2}
	}
	return fuseAttr{Ino: node, Mode: unix.S_IFREG | 0o444, Nlink: 1, Size: uint64(len(fuseText))}
}

// serveFUSE answers requests until the device says that there are no more; or none any more from the first for a name on.
func serveFUSE(fd int, silent bool) error {
	runtime.LockOSThread()
	buf := make([]byte, 1<<18)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR || err == unix.ENOENT {
			continue
		}
		if err != nil {
			return err
		}
		var in fuseIn
		r := bytes.NewReader(buf[:n])
		if err := binary.Read(r, binary.NativeEndian, &in); err != nil {
			return err
		}
		rest := buf[n-r.Len() : n]
		switch in.Opcode {
		case fuseForget, fuseBatchForget, fuseInterrupt:
			continue
		}
		if silent && in.Opcode == fuseLookup {
			fmt.Println("asked")
			time.Sleep(time.Hour)
		}
		errno, answer := answerFUSE(&in, rest)
		var out bytes.Buffer
		binary.Write(&out, binary.NativeEndian, struct {
			Len    uint32
			Error  int32
			Unique uint64
		}{uint32(16 + len(answer)), -int32(errno), in.Unique})
		out.Write(answer)
		if _, err := unix.Write(fd, out.Bytes()); err != nil && err != unix.ENOENT {
			return os.NewSyscallError("write", err)
		}
	}
}

func answerFUSE(in *fuseIn, rest []byte) (unix.Errno, []byte) {
	var out bytes.Buffer
	put := func(v any) { binary.Write(&out, binary.NativeEndian, v) }
	switch in.Opcode {
	case fuseInit:
		put([]uint32{7, 23, 0, 0, 12<<16 | 12, 1 << 16, 1})
		put(make([]byte, 36))
	case fuseLookup:
		switch name := string(bytes.TrimRight(rest, "\x00")); name {
		case "file":
		case "nothing": // to be remembered
			put([]uint64{0, 0, 1, 0, 0})
			put(fuseAttr{})
			return 0, out.Bytes()
		default:
			return unix.ENOENT, nil
		}
		put([]uint64{fuseFile, 0, 0, 0, 0})
		put(attrOf(fuseFile))
	case fuseGetattr:
		put([]uint64{0, 0})
		put(attrOf(in.Node))
	case fuseOpen, fuseOpendir:
		put([]uint64{0, 0})
	case fuseRead:
		offset := min(binary.NativeEndian.Uint64(rest[8:]), uint64(len(fuseText)))
		put([]byte(fuseText[offset:]))
	case fuseReaddir:
		if binary.NativeEndian.Uint64(rest[8:]) == 0 {
			put([]uint64{fuseFile, 1, 4 | unix.DT_REG<<32})
			put([]byte("file\x00\x00\x00\x00"))
		}
	case fuseRelease, fuseDone, fuseDestroy:
	default: // access and flush, too
		return unix.ENOSYS, nil
	}
	return 0, out.Bytes()
}
