package hull

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/overlay"
	"hull/internal/rootfs"
)

// freshPlaces are where a container has file systems of its own.
var freshPlaces = []string{"/proc", "/sys", "/dev"}

// view is what a command is shown: HostFiles with all that is to be known of the host's files.
type view struct {
	*HostFiles
	root   string // without symbolic links
	dir    string // where the command starts, in the container
	home   string // the caller's; or ""
	user   string // home of the command's user, if that is another; or ""
	userNS bool
	jailed bool // it is shown to a sandbox, whose jail has a user namespace for any caller
	binds  []overlay.Bind
	// asGiven are the caller's words for binds, by their paths in the container.
	asGiven map[string]string
	hidden  []string            // paths in the container
	tree    []string            // the working tree
	listed  map[string][]string // secretsIn of directories, by their names with a slash
}

// newView checks what is to be shown.
func newView(h *HostFiles, dir string, userNS bool) (*view, error) {
	v := &view{HostFiles: h, root: "/", home: homeDir(), userNS: userNS}
	if h.Root != "" {
		var err error
		if v.root, err = overlay.Real(absolute(h.Root)); err != nil {
			return nil, missing("root", h.Root, err)
		}
		if fi, err := os.Stat(v.root); err == nil && !fi.IsDir() {
			return nil, missing("root", h.Root, unix.ENOTDIR)
		}
	}
	switch {
	case h.Home && !v.host():
		return nil, conflict("home", v.home, "it is the host's, and the root is "+v.root)
	case h.Home && v.home == "":
		return nil, &fault.Error{Step: "home", Err: errors.New("the environment variable HOME names no directory")}
	}
	for _, check := range []func() error{v.checkSize, v.checkBinds, func() error { return v.findDir(dir) }, v.checkHidden} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	if v.host() {
		v.tree = workingTree(v.dir, v.home)
	}
	return v, nil
}

// checkSize refuses what tmpfs would, or would take for no bound.
func (v *view) checkSize() error {
	number := strings.TrimRight(v.TmpfsSize, "kKmMgG%")
	n, err := strconv.ParseUint(number, 10, 64)
	if v.TmpfsSize == "" || err == nil && n > 0 && len(v.TmpfsSize)-len(number) <= 1 {
		return nil
	}
	return conflict("size", v.TmpfsSize, "want bytes, a number with k, m or g, or a share of the memory in %")
}

// host tells whether the host's own root is shown.
func (v *view) host() bool { return v.root == "/" }

// partial tells whether private places are not shown.
func (v *view) partial() bool { return v.host() && !v.All }

func missing(what, name string, err error) error {
	return &fault.Error{Step: fmt.Sprintf("%s %q", what, name), Err: cause(err)}
}

func conflict(what, name, problem string) error {
	return &fault.Error{Step: fmt.Sprintf("%s %q", what, name), Kind: fault.BadUsage, Err: errors.New(problem)}
}

// cause is what the kernel said.
func cause(err error) error {
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// absolute is filepath.Abs for a working directory that is known by its name without links.
func absolute(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	wd, err := unix.Getwd()
	if err != nil || !filepath.IsAbs(wd) {
		return "/" + name // a directory that is gone: nothing is found in it
	}
	return filepath.Join(wd, name)
}

// checkBinds resolves what is shown as it is.
func (v *view) checkBinds() error {
	for _, b := range v.Bind {
		source, err := overlay.Real(absolute(b.Source))
		if err != nil {
			return missing("bind", b.String(), err)
		}
		dest := b.Dest
		if dest == "" {
			if !v.host() {
				return conflict("bind", b.String(), "with another root than the host's, it needs a place there: SOURCE:DESTINATION")
			}
			dest = b.Source
		}
		dest = absolute(dest)
		switch {
		case dest == "/" || slices.Contains(freshPlaces, dest):
			return conflict("bind", b.String(), "the container has its own "+dest)
		case below(dest, "/proc"):
			return conflict("bind", b.String(), "nothing can be shown in /proc")
		case slices.ContainsFunc(v.binds, func(o overlay.Bind) bool { return o.Path == dest }):
			return conflict("bind", b.String(), "something else is to be shown there already")
		}
		if v.asGiven == nil {
			v.asGiven = make(map[string]string)
		}
		v.asGiven[dest] = b.String()
		v.binds = append(v.binds, overlay.Bind{
			Path: dest, Source: source, ReadOnly: b.ReadOnly, Device: below(source, "/dev"),
			Recursive: rootfs.Probe().MountSetattr || !b.ReadOnly,
		})
	}
	// What lies in another comes after it.
	slices.SortFunc(v.binds, func(a, b overlay.Bind) int { return strings.Compare(a.Path, b.Path) })
	return nil
}

// findDir finds out where the command starts.
func (v *view) findDir(dir string) error {
	if !v.host() {
		if dir == "" { // the caller's, if it is shown
			if wd, err := unix.Getwd(); err == nil && below(wd, v.root) {
				dir = strings.TrimPrefix(wd, v.root)
			}
		}
		v.dir = path.Join("/", dir)
		return nil
	}
	if dir == "" {
		dir = "."
	}
	name := absolute(dir)
	if slices.ContainsFunc(v.binds, func(b overlay.Bind) bool { return below(name, b.Path) }) {
		v.dir = name
		return nil
	}
	var err error
	if v.dir, err = overlay.Real(name); err != nil {
		return missing("working directory", dir, err)
	}
	if fi, err := os.Stat(v.dir); err != nil || !fi.IsDir() {
		if err == nil {
			err = unix.ENOTDIR
		}
		return missing("working directory", dir, err)
	}
	return nil
}

// checkHidden resolves what is to be hidden. A path with links in it is covered by this name and by its real one: where
// the link itself isn't seen, only that is there.
func (v *view) checkHidden() error {
	for _, h := range v.Hide {
		name := absolute(h)
		real, err := overlay.Real(v.source(name))
		if err != nil {
			return missing("hide", h, err)
		}
		if name == "/" {
			return conflict("hide", h, "there would be nothing to run")
		}
		names := []string{name}
		if v.host() && real != v.source(name) {
			names = append(names, real)
		}
		for _, n := range names {
			if below(v.dir, n) {
				return conflict("hide", h, "the working directory lies in it")
			}
			for _, b := range v.binds {
				if below(b.Path, n) {
					return conflict("hide", h, b.Path+" is to be shown in it")
				}
			}
		}
		v.hidden = append(v.hidden, names...)
	}
	return nil
}

// source returns where on the host a path of the container is.
func (v *view) source(name string) string {
	for _, b := range slices.Backward(v.binds) {
		if below(name, b.Path) {
			return path.Join(b.Source, name[len(b.Path):])
		}
	}
	return path.Join(v.root, name)
}

// plan returns the plan of what is shown.
func (v *view) plan() (*overlay.Plan, error) {
	o := overlay.Options{Root: v.root, Omit: freshPlaces, UserNS: v.userNS || v.jailed}
	var err error
	if o.Mounts, err = overlay.Mounts(); err != nil {
		return nil, err
	}
	o.Show = v.tree
	if v.partial() {
		o.Only = overlay.Programs
		o.Empty = append(v.privatePlaces(), v.otherHomes()...)
		if v.Home {
			o.Show = append([]string{v.home}, o.Show...)
		}
		for _, home := range []string{v.home, v.user} {
			if home != "" {
				o.Make = append(o.Make, home)
			}
		}
	}
	p, err := overlay.New(o)
	if err != nil {
		return nil, &fault.Error{Step: "look at the host's files", Err: err}
	}
	p.Size, p.Binds = v.TmpfsSize, v.binds
	for i := range p.Binds {
		if why := p.Unbindable(i); why != "" {
			return nil, conflict("bind", v.asGiven[p.Binds[i].Path], why)
		}
	}
	return p, nil
}

// warning tells of a working directory that is not shown.
func (v *view) warning() string {
	switch {
	case !v.partial() || len(v.tree) > 0 || v.Home && below(v.dir, v.home):
		return ""
	case v.dir == v.home:
		return fmt.Sprintf("%s is empty for the command: a home directory is shown only if it is asked for (--home)", v.dir)
	case slices.Contains(overlay.Programs, topOf(v.dir)) && !slices.Contains(overlay.Private, v.dir) || v.dir == "/":
		return ""
	case slices.ContainsFunc(v.binds, func(b overlay.Bind) bool { return below(v.dir, b.Path) }):
		return ""
	}
	return fmt.Sprintf("%s is empty for the command: others keep their files there, too (--bind shows what it needs)", v.dir)
}

// explainMissing adds to the error of a program that was not found where the host has it, if the command doesn't see that.
func (v *view) explainMissing(err error, name string) error {
	var e *fault.Error
	if !v.partial() || name == "" || !errors.Is(err, unix.ENOENT) || !errors.As(err, &e) || e.Field != CommandField {
		return err
	}
	found, lerr := exec.LookPath(name)
	if lerr != nil || !filepath.IsAbs(found) {
		return err
	}
	explained := *e
	dir := filepath.Dir(found)
	explained.Hint = fmt.Sprintf("the host's %s is in a place that is empty for the command; it is shown by --bind %s:%s:ro, together with what it needs", found, dir, dir)
	return &explained
}

// nameBind has an error about a bind say it in the caller's words: a configuration that has it as mounts[6] is nothing the caller
// has seen.
func (v *view) nameBind(err error) error {
	var e *fault.Error
	for cause := err; errors.As(cause, &e); cause = e.Err {
		what, quoted, ok := strings.Cut(e.Field, " ")
		if !ok || what != "bind" && !strings.HasPrefix(what, "mounts[") {
			continue
		}
		if path, qerr := strconv.Unquote(quoted); qerr == nil && v.asGiven[path] != "" {
			e.Field = fmt.Sprintf("bind %q", v.asGiven[path])
		}
	}
	return err
}

func topOf(name string) string {
	if i := strings.IndexByte(name[1:], '/'); i >= 0 {
		return name[:i+1]
	}
	return name
}

// below tells whether name is dir or lies in it.
func below(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir) && name[len(dir)] == '/'
}
