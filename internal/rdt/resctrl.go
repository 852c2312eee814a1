package rdt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/mountinfo"
)

// mountPoint is the directory that the kernel makes for resctrl where it and the CPU have it.
const mountPoint = "/sys/fs/resctrl"

// resctrl is the file system. Its functions are the kernel's, but for tests.
type resctrl struct {
	root         string
	mkdir, rmdir func(dir string) error
	write        func(file, text string) error
}

func kernel(root string) resctrl {
	return resctrl{
		root:  root,
		mkdir: func(dir string) error { return os.Mkdir(dir, 0o755) },
		rmdir: func(dir string) error { return os.Remove(dir) },
		write: func(file, text string) error {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString(text)
			return errors.Join(err, f.Close())
		},
	}
}

// find returns the file system, where it is mounted.
func find() (resctrl, error) {
	if !exists(mountPoint) {
		return resctrl{}, &fault.Error{Field: field, Kind: fault.Unsupported, Err: errors.New("this host's CPU or kernel has no resctrl")}
	}
	var st unix.Statfs_t
	if unix.Statfs(mountPoint, &st) == nil && st.Type == unix.RDTGROUP_SUPER_MAGIC {
		return kernel(mountPoint), nil
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return resctrl{}, &fault.Error{Field: field, Err: err}
	}
	if root := mountedAt(mounts); root != "" {
		return kernel(root), nil
	}
	return resctrl{}, &fault.Error{Field: field, Kind: fault.Unsupported, Err: errors.New("no resctrl is mounted on this host"),
		Hint: "mount -t resctrl resctrl " + mountPoint}
}

// mountedAt returns where resctrl is in a mountinfo, or "".
func mountedAt(text []byte) string {
	for m := range mountinfo.Parse(text) {
		if m.Type() == "resctrl" {
			return m.Point()
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// lockTimeout bounds the wait for another program that changes groups.
const lockTimeout = 10 * time.Second

// lock keeps others from changing groups, until the function that it returns is called. flock(2) on the root is how
// programs that use resctrl agree on that (resctrl.rst, "Examples for working with the resctrl file system").
func (fs resctrl) lock(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	dir, err := os.Open(fs.root)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { dir.Close() }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			dir.Close()
			return nil, os.NewSyscallError("flock", err)
		}
		select {
		case <-ctx.Done():
			dir.Close()
			return nil, fmt.Errorf("another program holds it: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// explain adds what resctrl says of its last failure: an errno alone, EINVAL above all, tells little.
func (fs resctrl) explain(field, step string, err error) error {
	b, rerr := os.ReadFile(filepath.Join(fs.root, "info", "last_cmd_status"))
	if status := strings.TrimSpace(string(b)); rerr == nil && status != "" && status != "ok" {
		err = fmt.Errorf("%s: %w", status, err)
	}
	return &fault.Error{Field: field, Step: step, Err: err}
}

// resources returns the names of what the host can share out: each has its line in the default group's schemata.
func (fs resctrl) resources() (map[string]bool, error) {
	text, err := os.ReadFile(filepath.Join(fs.root, "schemata"))
	if err != nil {
		return nil, err
	}
	names := make(map[string]bool)
	for name := range parse(strings.Split(string(text), "\n")) {
		names[name] = true
	}
	return names, nil
}

// granularity returns the step to which the kernel rounds up a bandwidth, or 0 for a resource that is no bandwidth.
func (fs resctrl) granularity(resource string) uint64 {
	b, err := os.ReadFile(filepath.Join(fs.root, "info", resource, "bandwidth_gran"))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return max(n, 1)
}
