package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/stub"
)

// NoOverlay tells why this kernel has no overlayfs for the user namespace of an ordinary user: it is nil if there is one, and if
// something else is in the way, which the container's creation says better. Then to do without it would be to give way to whoever
// makes it fail.
//
// It is absent if the kernel doesn't know the name, or lets a user namespace's root make a tmpfs and not this (mount_capable in
// fs/super.c): no filter of system calls sees which it is, and security modules are asked later than for what is missing here, a
// lower directory.
func NoOverlay(ctx context.Context, trace func(string)) error {
	if overlayListed() {
		return nil
	}
	return absent(ctx, "overlay", trace)
}

// absent is NoOverlay for any file system, by trying.
func absent(ctx context.Context, name string, trace func(string)) error {
	first, err := stub.Start(stub.Config{Trace: stub.TraceLines(trace)})
	if err != nil {
		return nil
	}
	defer first.Kill()
	id := func(id int) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{ContainerID: uint32(id), HostID: uint32(id), Size: 1}}
	}
	l := &specs.Linux{UIDMappings: id(os.Geteuid()), GIDMappings: id(os.Getegid())}
	b, err := unshareEarly(ctx, first, new(stub.Batch), namespaces{newUser: true}, l, os.Geteuid() == 0)
	if err != nil {
		return nil
	}
	b.Call(unix.SYS_UNSHARE, stub.Int(unix.CLONE_NEWNS))
	b.FsconfigCreate(b.Fsopen("tmpfs"), "tmpfs")
	b.FsconfigCreate(b.Fsopen(name), name)
	var e *fault.Error
	if err := first.Do(b); !errors.As(err, &e) || !strings.Contains(e.Step, name) {
		return nil
	}
	switch {
	case errors.Is(e.Err, unix.ENODEV):
		return &fault.Error{Kind: fault.Unsupported,
			Err: fmt.Errorf("this kernel has no file system %s, or its module is not loaded (modprobe %s)", name, name)}
	case errors.Is(e.Err, unix.EPERM):
		return &fault.Error{Kind: fault.Unsupported,
			Err: fmt.Errorf("other users than root can't mount a file system %s (overlay: since Linux 5.11)", name)}
	}
	return nil
}

// overlayListed tells, faster than trying, whether overlayfs is loaded in a kernel that has it for user namespaces, Linux 5.11.
func overlayListed() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	major, rest, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), ".")
	minor, _, _ := strings.Cut(rest, ".")
	ma, err := strconv.Atoi(major)
	mi, err2 := strconv.Atoi(strings.TrimRight(minor, "-+abcdefghijklmnopqrstuvwxyz"))
	if err != nil || err2 != nil || ma < 5 || ma == 5 && mi < 11 {
		return false
	}
	var buf [4096]byte
	b, err := linux.ReadFile("/proc/filesystems", buf[:])
	return err == nil && bytes.Contains(b, []byte("\toverlay\n"))
}
