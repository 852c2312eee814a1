package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// suiteCgroup is the parent that the suite gives its containers' cgroups.
const suiteCgroup = "runc-cgroups-integration-test"

// controllers is what a v2 hierarchy's root hands down: the contents of its cgroup.subtree_control.
type controllers map[string][]string

// readControllers looks at both places where the hierarchy may be mounted.
func readControllers() controllers {
	c := controllers{}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		file := filepath.Join(root, "cgroup.subtree_control")
		if data, err := os.ReadFile(file); err == nil {
			c[file] = strings.Fields(string(data))
		}
	}
	return c
}

// restore removes the suite's cgroups and takes back the controllers that were handed down since c was read.
func (c controllers) restore() error {
	errs := []error{removeCgroups()}
	for file, before := range c {
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
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
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
