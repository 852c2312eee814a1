package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// suiteCgroup is the parent that the suite gives its containers' cgroups.
const suiteCgroup = "runc-cgroups-integration-test"

const cgroupMount = "/sys/fs/cgroup"

// machine is what the suite changes of a machine's cgroups.
type machine struct {
	controllers map[string][]string // by file: what a v2 hierarchy's root hands down, its cgroup.subtree_control
	entries     []string            // of cgroupMount, if that holds mount points of v1
}

func readMachine() machine {
	m := machine{controllers: map[string][]string{}, entries: entries()}
	// Both places where the v2 hierarchy may be mounted.
	for _, root := range []string{cgroupMount, cgroupMount + "/unified"} {
		file := filepath.Join(root, "cgroup.subtree_control")
		if data, err := os.ReadFile(file); err == nil {
			m.controllers[file] = strings.Fields(string(data))
		}
	}
	return m
}

func entries() []string {
	var st unix.Statfs_t
	if unix.Statfs(cgroupMount, &st) != nil || st.Type != unix.TMPFS_MAGIC {
		return nil // the names in it are cgroups
	}
	names, _ := filepath.Glob(cgroupMount + "/*")
	return names
}

// restore removes the suite's cgroups, the directories that it has made where it expects hierarchies, and takes back the
// controllers that were handed down since m was read.
func (m machine) restore() error {
	errs := []error{removeCgroups()}
	for _, name := range entries() {
		if !slices.Contains(m.entries, name) {
			errs = append(errs, os.Remove(name))
		}
	}
	for file, before := range m.controllers {
		data, err := os.ReadFile(file)
		errs = append(errs, err)
		for name := range strings.FieldsSeq(string(data)) {
			if !slices.Contains(before, name) {
				errs = append(errs, os.WriteFile(file, []byte("-"+name), 0))
			}
		}
	}
	return errors.Join(errs...)
}

// removeCgroups removes the suite's cgroups of all hierarchies: what tests left that ended early.
func removeCgroups() error {
	var errs []error
	for _, pattern := range []string{cgroupMount + "/", cgroupMount + "/*/"} {
		tops, err := filepath.Glob(pattern + suiteCgroup)
		errs = append(errs, err)
		for _, top := range tops {
			errs = append(errs, removeTree(top))
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup and those below it, if it is there.
func removeTree(top string) error {
	var dirs []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, dir := range slices.Backward(dirs) {
		err = errors.Join(err, os.Remove(dir))
	}
	return err
}
