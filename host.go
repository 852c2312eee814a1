package hull

import (
	"bytes"
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
	"hull/internal/linux"
	"hull/internal/overlay"
	"hull/internal/rootfs"
	"hull/internal/user"
)

// HostFiles say what a Cmd without a Rootfs sees of the host's files. What it writes to them goes to memory, and is gone
// with it.
//
// The zero value shows the programs and libraries of the host and the working tree: the git repository that Dir is in,
// or else Dir. All other directories of the root are empty, and so are places like /var/tmp, where users and services
// keep what is theirs; known secrets, such as /etc/shadow, are covered. docs/do.md has the lists.
//
// Paths are relative to the caller's working directory. What they name must exist.
type HostFiles struct {
	// Root is the directory shown as /. Empty means the host's own. If it is another one, all of it is shown.
	Root string
	// All shows the private places and secrets, too.
	All bool
	// Home shows the caller's home directory, but for known secrets in it.
	Home bool
	// Bind are files and directories that the command sees as they are: what it writes to them is written.
	Bind []HostBind
	// Hide are files and directories that the command doesn't see: they are covered by something empty.
	Hide []string
	// TmpfsSize bounds what can be written, as the option size of tmpfs(5) does. Empty means half of the memory.
	TmpfsSize string
	// Keep is a directory that what is written goes to instead of memory, into a directory named upper there: an upper
	// directory that overlayfs can mount over Root. It must not exist, or be empty.
	Keep string
	// Watch has Cmd.Changes be set, for looking at what was written and putting it onto the host.
	Watch bool
}

// HostBind is a file or directory of the host that a command sees as it is.
type HostBind struct {
	Source   string
	Dest     string // where the command sees it; empty means at the same path
	ReadOnly bool
}

func (b HostBind) String() string {
	switch {
	case b.Dest == "":
		return b.Source
	case b.ReadOnly:
		return b.Source + ":" + b.Dest + ":ro"
	}
	return b.Source + ":" + b.Dest
}

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

// privatePlaces are those that the caller could look into.
func (v *view) privatePlaces() (places []string) {
	for _, dir := range overlay.Private {
		if v.mayUse(dir) {
			places = append(places, dir)
		}
	}
	return places
}

// mayUse tells whether a file exists and the caller may do anything with it.
func (v *view) mayUse(name string) bool {
	if !v.userNS {
		return unix.Access(name, unix.F_OK) == nil
	}
	for _, mode := range []uint32{unix.R_OK, unix.W_OK, unix.X_OK} {
		switch err := unix.Access(name, mode); err {
		case nil:
			return true
		case unix.ENOENT, unix.ENOTDIR: // so it is for any use
			return false
		}
	}
	return false
}

// firstUserID is the lowest id that systems give to people (UID_MIN, login.defs(5)).
const firstUserID = 1000

// otherHomes are home directories that are not where homes usually are: those of people, and the caller's.
func (v *view) otherHomes() (homes []string) {
	if v.home != "" {
		homes = append(homes, v.home)
	}
	passwd, err := linux.ReadFile("/etc/passwd", make([]byte, 4<<10))
	if err != nil {
		return homes
	}
	users, err := user.Users(bytes.NewReader(passwd))
	if err != nil {
		return homes
	}
	caller := uint32(os.Geteuid())
	for _, u := range users {
		if u.UID < firstUserID && u.UID != caller || !path.IsAbs(u.Home) || path.Clean(u.Home) != u.Home {
			continue
		}
		// A directory of the root that isn't among the programs is empty anyway. Otherwise it is not a home.
		if path.Dir(u.Home) != "/" && !slices.Contains(homes, u.Home) {
			homes = append(homes, u.Home)
		}
	}
	return homes
}

// masks returns what is covered in the container.
func (v *view) masks() []string {
	masks := slices.Clone(v.hidden)
	if v.All {
		return masks
	}
	for _, s := range overlay.Secrets {
		masks = v.mask(masks, s, v.host() && slices.Contains(overlay.Programs, s[:1+strings.IndexByte(s[1:], '/')]))
	}
	if v.home == "" || !v.Home && !slices.ContainsFunc(v.binds, func(b overlay.Bind) bool { return below(v.home, b.Source) || below(b.Source, v.home) }) {
		return masks
	}
	for _, s := range overlay.HomeSecrets {
		masks = v.mask(masks, path.Join(v.home, s), v.Home)
	}
	return masks
}

// mask adds the places where a secret would be seen: its own, if that is shown, and where it is in what is bound.
func (v *view) mask(masks []string, secret string, shown bool) []string {
	dir := prefix(secret)
	near := func(b overlay.Bind) bool { return below(dir, b.Source) || below(b.Source, dir) }
	if !shown && !slices.ContainsFunc(v.binds, near) {
		return masks
	}
	names := []string{secret}
	if strings.ContainsRune(secret, '*') {
		names = v.glob(secret)
	}
	for _, name := range names {
		if !v.mayUse(name) {
			continue
		}
		over := func(b overlay.Bind) bool { return below(name, b.Path) || below(b.Path, name) }
		if shown && !slices.ContainsFunc(v.binds, over) {
			masks = append(masks, name)
		}
		for _, b := range v.binds {
			if name != b.Source && below(name, b.Source) {
				masks = append(masks, path.Join(b.Path, strings.TrimPrefix(name, b.Source)))
			}
		}
	}
	return masks
}

// glob is filepath.Glob that reads a directory once for all patterns of secrets in it.
func (v *view) glob(pattern string) (found []string) {
	dir, last := path.Split(pattern)
	if strings.ContainsRune(dir, '*') || !slices.Contains(overlay.Secrets, pattern) {
		found, _ = filepath.Glob(pattern)
		return found
	}
	names, read := v.listed[dir]
	if !read {
		names = secretsIn(dir)
		if v.listed == nil {
			v.listed = map[string][]string{}
		}
		v.listed[dir] = names
	}
	for _, name := range names {
		if ok, _ := path.Match(last, name); ok {
			found = append(found, dir+name)
		}
	}
	return found
}

// secretsIn returns the names in a directory, which ends in a slash, that begin as a pattern of secrets there does.
func secretsIn(dir string) (names []string) {
	var begins [][]byte
	for _, s := range overlay.Secrets {
		if d, last := path.Split(s); d == dir {
			if plain, _, wild := strings.Cut(last, "*"); wild {
				begins = append(begins, []byte(plain))
			}
		}
	}
	_ = linux.EachName(dir, func(name []byte) {
		if slices.ContainsFunc(begins, func(b []byte) bool { return bytes.HasPrefix(name, b) }) {
			names = append(names, string(name))
		}
	})
	slices.Sort(names)
	return names
}

// prefix returns the directories of a pattern before the first that has a wildcard.
func prefix(pattern string) string {
	plain, _, wild := strings.Cut(pattern, "*")
	if wild {
		plain = path.Dir(plain + "x")
	}
	return plain
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

// homeDir is the caller's home directory without symbolic links, or "".
func homeDir() string {
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		return ""
	}
	real, err := overlay.Real(home)
	if err != nil || real == "/" {
		return ""
	}
	if fi, err := os.Stat(real); err != nil || !fi.IsDir() {
		return ""
	}
	return real
}
