package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/overlay"
)

// giveHostFiles passes what a plan shows of the host's files. The jail's stub makes the overlays, by the same code as for a
// native container, and leaves the sandbox nothing but a descriptor of each: what is written is where hull looks for it
// afterwards, and the kernel in the sandbox, which would keep an upper layer for itself, needs none.
//
// What is bound is mounted by the sandbox as the configuration's bind mounts are, after its /dev.
func (c *creation) giveHostFiles() error {
	plan := *c.Overlay
	plan.Entries = visible(plan.Entries)
	inside := *c.Spec
	inside.Mounts = slices.Clone(inside.Mounts)
	c.inside = &inside
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	d := &overlay.Donation{Plan: &plan, Make: mountPoints(c.Spec.Mounts), Root: len(c.files)}
	c.giveTree(null, "")
	for _, e := range plan.Entries {
		if e.Path != "/" && (e.Kind == overlay.Overlay || e.Kind == overlay.File || e.Kind == overlay.Dir && e.Over) {
			c.flags = append(c.flags, "--mount-point", e.Path)
		}
	}
	expect := func(name string, file bool) {
		d.Trees = append(d.Trees, overlay.Donated{Path: name, File: file, Extra: len(c.files)})
		c.giveTree(null, "")
	}
	if c.Rootless {
		if err := checkBinds(plan.Binds); err != nil {
			return err
		}
	} else {
		plan.Binds = nil // the caller can copy the mounts itself, also those that have others in them
	}
	for _, b := range c.Overlay.Binds {
		inside.Mounts = append(inside.Mounts, bindMount(b.Path, b.Source, b.ReadOnly))
	}
	if err := c.giveBinds(inside.Mounts[:len(inside.Mounts)-len(plan.Binds)]); err != nil {
		return err
	}
	for _, b := range plan.Binds {
		fi, err := os.Stat(b.Source)
		expect(b.Path, err == nil && !fi.IsDir())
	}
	for _, m := range plan.Files {
		inside.Mounts = append(inside.Mounts, bindMount(m.Path, m.Path, true))
		expect(m.Path, true)
	}
	c.donated = d
	c.flags = append(c.flags, "--throwaway")
	return nil
}

// mountPoints returns those that lie in no other: in an ordinary user's user namespace the sandbox, for whom its own root
// makes them, could not.
func mountPoints(mounts []specs.Mount) (points []string) {
	for _, m := range mounts {
		point := path.Clean("/" + m.Destination)
		if !slices.ContainsFunc(points, func(p string) bool { return overlay.Below(point, p) }) {
			points = append(points, point)
		}
	}
	return points
}

func bindMount(at, source string, readonly bool) specs.Mount {
	m := specs.Mount{Destination: at, Type: "none", Source: source, Options: []string{"rbind"}}
	if readonly {
		m.Options = append(m.Options, "rro")
	}
	return m
}

// visible returns the entries without files that the caller can't open, as the jail can't, and without what shows the host's
// kernel: places for those of them that are directories.
func visible(entries []overlay.Entry) (left []overlay.Entry) {
	for _, e := range entries {
		if e.Kind == overlay.File && unix.Access(e.Source, unix.R_OK) != nil {
			continue
		}
		if e.Kind == overlay.Overlay || e.Kind == overlay.File {
			var st unix.Statfs_t
			if unix.Statfs(e.Source, &st) == nil && showsKernel(st.Type) {
				if e.Kind == overlay.File {
					continue
				}
				e.Kind = overlay.Dir
			}
		}
		left = append(left, e)
	}
	return left
}

// checkBinds refuses what an ordinary user can't give to a sandbox: the kernel locks mounts together that came into a user
// namespace together (mount_namespaces(7)), so that one can't be had without those in it.
func checkBinds(binds []overlay.Bind) error {
	points, err := overlay.Mounts()
	if err != nil {
		return err
	}
	for _, b := range binds {
		refuse := func(why string) error {
			return &fault.Error{Step: fmt.Sprintf("bind %q", b.Source), Kind: fault.Unsupported, Err: errors.New("not possible in sandbox isolation: " + why)}
		}
		var st unix.Stat_t
		if err := unix.Stat(b.Source, &st); err != nil {
			return &os.PathError{Op: "stat", Path: b.Source, Err: err}
		}
		if t := st.Mode & unix.S_IFMT; t != unix.S_IFDIR && t != unix.S_IFREG {
			return refuse("only directories and regular files of the host")
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(b.Source, &fs); err != nil {
			return &os.PathError{Op: "statfs", Path: b.Source, Err: err}
		}
		if showsKernel(fs.Type) {
			return refuse("a file system in which the host's kernel shows itself, as /proc and /sys")
		}
		if i := slices.IndexFunc(points, func(p string) bool { return p != b.Source && overlay.Below(p, b.Source) }); i >= 0 {
			return refuse(points[i] + " is mounted in it; as root that can be done")
		}
	}
	return nil
}
