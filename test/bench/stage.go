package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// stage is where runtimes perform: a tmpfs with their state directories and the bundles, in a mount namespace of this
// process' own. State is on a tmpfs on real machines as well (/run).
type stage struct {
	dir    string
	prefix string // of the ids of all containers, by which their cgroups and processes are told
	mounts []mount
}

// openStage wants to be in the mount namespace already.
func openStage() (*stage, error) {
	if os.Getenv(inside) == "" {
		return nil, errors.New("bug: not in a mount namespace of its own")
	}
	if err := hideUnified(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hull-bench-")
	if err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, errors.Join(fmt.Errorf("mount tmpfs: %w", err), os.Remove(dir))
	}
	s := &stage{dir: dir, prefix: filepath.Base(dir)}
	s.mounts, err = readMounts()
	return s, err
}

func (s *stage) close() error {
	if err := unix.Unmount(s.dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", s.dir, err)
	}
	return os.Remove(s.dir)
}

// hideUnified puts an empty tmpfs in the place of cgroup v2 in this namespace where v1 is mounted as well. crun fails
// there when v2 has controllers, which systemd's hybrid hasn't. It makes its cgroups' directories in the tmpfs all the
// same; in what is below the mount of v2 they would stay.
func hideUnified() error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	for _, point := range unified(mounts) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
		if err := unix.Mount("tmpfs", point, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount tmpfs on %s: %w", point, err)
		}
	}
	return nil
}

// unified returns where cgroup v2 is mounted beside v1.
func unified(mounts []mount) []string {
	var v1 bool
	var v2 []string
	for _, m := range mounts {
		switch m.fstype {
		case "cgroup":
			v1 = true
		case "cgroup2":
			v2 = append(v2, m.point)
		}
	}
	if !v1 {
		return nil
	}
	return v2
}

// mount is one of the calling process' namespace.
type mount struct{ point, fstype string }

func readMounts() ([]mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(text))
}

// parseMounts reads mountinfo, proc_pid_mountinfo(5).
func parseMounts(text string) ([]mount, error) {
	var mounts []mount
	for line := range strings.Lines(text) {
		front, back, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(front), strings.Fields(back)
		if !ok || len(fields) < 5 || len(types) == 0 {
			return nil, fmt.Errorf("mountinfo: %q", line)
		}
		mounts = append(mounts, mount{fields[4], types[0]})
	}
	return mounts, nil
}

// settle is how long something may still be going away after the last delete.
const settle = 3 * time.Second

// left returns what containers left behind, once that is nothing or has had time to go away.
func (s *stage) left(root string) ([]string, error) {
	for deadline := time.Now().Add(settle); ; time.Sleep(20 * time.Millisecond) {
		found, err := s.find(root)
		if err != nil || len(found) == 0 || time.Now().After(deadline) {
			return found, err
		}
	}
}

// find looks for entries of a state directory, and for cgroups, processes and mounts of containers.
func (s *stage) find(root string) (found []string, err error) {
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), s.prefix) { // others are the runtime's own
			found = append(found, filepath.Join(root, e.Name()))
		}
	}
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if !slices.Contains(s.mounts, m) {
			found = append(found, "mount "+m.point)
		}
	}
	return slices.Concat(found, s.cgroups(), s.processes()), nil
}

func (s *stage) cgroups() []string {
	var found []string
	// Cgroups of others come and go; one that can't be read is one that went.
	_ = filepath.WalkDir(cgroupRoot, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(d.Name(), s.prefix) && onCgroup(path) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// onCgroup tells a cgroup from a directory that hideUnified let a runtime make.
func onCgroup(path string) bool {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	return err == nil && (st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC)
}

func (s *stage) processes() []string {
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup") // no error: the pattern is good
	return slices.DeleteFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		return err != nil || !strings.Contains(string(text), s.prefix)
	})
}
