package hull

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/caps"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/rootfs"
	"hull/internal/user"
	"hull/spec"
)

// hostSpec makes the configuration of a command that sees the host's files.
func (c *Cmd) hostSpec(id *identity, v *view) (*specs.Spec, error) {
	s := spec.Example(spec.Options{Args: slices.Clone(c.Args), Cwd: v.dir})
	s.Root = &specs.Root{Path: "/"}
	if s.Hostname = c.Hostname; s.Hostname == "" {
		s.Hostname, _ = os.Hostname()
	}
	p := s.Process
	p.Terminal = c.Console != nil
	p.User.UID, p.User.GID, p.User.AdditionalGids = id.uid, id.gid, id.groups
	p.Rlimits = nil
	p.Env = c.environment(id)
	var err error
	if p.Capabilities, err = capabilities(c.Capabilities, id.uid); err != nil {
		return nil, err
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	// All of proc is read-only, not only parts: of its files the modes are the same in all containers and on the host, and
	// who has the host's user id 0 may change them.
	s.Linux.ReadonlyPaths = nil
	for i := range s.Mounts {
		if m := &s.Mounts[i]; m.Type == "proc" {
			m.Options = append(m.Options, "nosuid", "nodev", "noexec", "ro")
		}
	}
	if v.userNS {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: id.uid, HostID: uint32(os.Geteuid()), Size: 1}}
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: id.gid, HostID: uint32(os.Getegid()), Size: 1}}
		for i := range s.Mounts {
			m := &s.Mounts[i]
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "gid=") })
		}
	}
	s.Linux.Resources = nil
	if s.Linux.Seccomp = c.Seccomp; c.Seccomp == nil {
		s.Linux.Seccomp = spec.Seccomp(p.Capabilities.Bounding...)
	}
	c.networkSpec(s, v)
	if c.Spec != nil {
		c.Spec(s)
	}
	if v.userNS && !v.jailed {
		bindSysfs(s)
	}
	return s, nil
}

// checkHostname refuses a name that is more than a word to whoever reads it: the container's /etc/hosts has it in a line.
func checkHostname(name string) error {
	const most = 64 // __NEW_UTS_LEN, include/uapi/linux/utsname.h
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r)
	}
	if len(name) <= most && !strings.ContainsFunc(name, func(r rune) bool { return !ok(r) }) {
		return nil
	}
	return conflict("hostname", name, "want at most 64 bytes, and of letters, digits, - _ and . alone")
}

// bindSysfs shows the host's /sys to a container in the host's network namespace, where a user namespace may not mount
// sysfs: read-only with all that is mounted in it, and without the cgroups, of which some may be the caller's. Before Linux
// 5.12 what is mounted in it would be writable; then it is empty.
func bindSysfs(s *specs.Spec) {
	if ns, ok := engine.Namespace(s, specs.NetworkNamespace); ok && ns.Path == "" {
		return
	}
	for i, m := range s.Mounts {
		if m.Type != "sysfs" {
			continue
		}
		if rootfs.Probe().MountSetattr {
			s.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "none", Source: "/sys",
				Options: []string{"rbind", "nosuid", "noexec", "nodev", "rro"}}
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/sys/fs/cgroup")
		} else {
			s.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}}
		}
	}
}

// identity is who a command is.
type identity struct {
	uid, gid uint32
	groups   []uint32
	name     string // or "" if the ids have none; not asked for where they are the caller's
	home     string
	shell    string
	other    bool // than the caller
}

// findIdentity returns who the user is that Cmd.User names. In a user namespace with one id an ordinary user is itself,
// or root there: root of nothing else. Anything else would only seem so: it would still be the caller who reads and
// writes the host's files.
func findIdentity(name string, userNS bool) (*identity, error) {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	id := &identity{uid: uid, gid: gid}
	if name == "" {
		if userNS {
			return id, nil // groups that it has, it keeps
		}
		groups, err := os.Getgroups()
		if err != nil {
			return nil, err
		}
		for _, g := range groups {
			id.groups = append(id.groups, uint32(g))
		}
		return id, nil
	}
	if err := id.look(name); err != nil {
		return nil, &fault.Error{Step: fmt.Sprintf("user %q", name), Kind: fault.BadUsage, Err: err}
	}
	if userNS {
		id.groups = nil
		switch {
		case id.uid != uid && id.uid != 0:
			return nil, notMapped(name, "user", id.uid, uid)
		case id.gid != gid && id.gid != 0:
			return nil, notMapped(name, "group", id.gid, gid)
		}
	}
	id.other = id.uid != uid
	return id, nil
}

func notMapped(name, what string, id, own uint32) error {
	return &fault.Error{Step: fmt.Sprintf("user %q", name), Kind: fault.Unsupported,
		Err:  fmt.Errorf("%s %d needs root: an ordinary user has only one id to give", what, id),
		Hint: fmt.Sprintf("what can be had is %d, the caller's own, or 0, which is the caller's own by the name of root", own),
	}
}

// look completes id from USER or USER:GROUP, names of the host or numbers.
func (id *identity) look(s string) error {
	name, group, hasGroup := strings.Cut(s, ":")
	users, err := readList("/etc/passwd", user.Users)
	if err != nil {
		return err
	}
	number, isNumber := parseID(name)
	i := slices.IndexFunc(users, func(u user.User) bool { return u.Name == name })
	if i < 0 && isNumber {
		i = slices.IndexFunc(users, func(u user.User) bool { return u.UID == number })
	}
	switch {
	case i >= 0:
		u := users[i]
		id.uid, id.gid, id.name, id.home, id.shell = u.UID, u.GID, u.Name, u.Home, u.Shell
	case isNumber:
		// Nothing says which group: not the caller's, which may be root's.
		id.uid, id.gid, id.home = number, number, "/"
	case name == "":
		return errors.New("the name before : is missing")
	default:
		return errors.New("the host has no such user")
	}
	groups, err := readList("/etc/group", user.Groups)
	if err != nil {
		return err
	}
	if hasGroup {
		return id.setGroup(group, groups)
	}
	if id.name == "" {
		return nil
	}
	for _, g := range groups {
		if slices.Contains(g.Members, id.name) && g.GID != id.gid {
			id.groups = append(id.groups, g.GID)
		}
	}
	return nil
}

// setGroup makes a group the only one.
func (id *identity) setGroup(name string, groups []user.Group) error {
	if i := slices.IndexFunc(groups, func(g user.Group) bool { return g.Name == name }); i >= 0 {
		id.gid = groups[i].GID
		return nil
	}
	n, ok := parseID(name)
	if !ok {
		return fmt.Errorf("the host has no group %q", name)
	}
	id.gid = n
	return nil
}

// parseID reads a number that can be an id: (uid_t)-1 can't.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != math.MaxUint32
}

func readList[T any](file string, read func(io.Reader) ([]T, error)) ([]T, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(f)
}

// capabilities returns sets with the named capabilities. A program keeps them that isn't root's as well.
func capabilities(names []string, uid uint32) (*specs.LinuxCapabilities, error) {
	var set []string
	for _, name := range names {
		full := strings.ToUpper(name)
		if !strings.HasPrefix(full, "CAP_") {
			full = "CAP_" + full
		}
		if _, ok := caps.Number(full); !ok {
			return nil, &fault.Error{Step: fmt.Sprintf("capability %q", name), Kind: fault.BadUsage,
				Err: errors.New("there is none of this name"), Hint: caps.Hint(name)}
		}
		if !slices.Contains(set, full) {
			set = append(set, full)
		}
	}
	c := &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
	if uid != 0 {
		c.Inheritable, c.Ambient = set, set
	}
	return c, nil
}

// passedEnv are the variables that a program gets from its caller unless it is told otherwise: what it needs to talk to
// people, and nothing that might be a secret.
var passedEnv = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLORTERM", "NO_COLOR", "LANG", "LANGUAGE", "TZ", "LS_COLORS",
	"COLUMNS", "LINES", "EDITOR", "PAGER",
}

// environment returns the variables of a command that sees the host's files.
func (c *Cmd) environment(id *identity) []string {
	env := slices.Clone(c.Env)
	if c.Env == nil {
		for _, v := range os.Environ() {
			name, _, _ := strings.Cut(v, "=")
			if slices.Contains(passedEnv, name) || strings.HasPrefix(name, "LC_") {
				env = append(env, v)
			}
		}
		if id.other {
			env = setEnv(env, "HOME", id.home)
			for _, name := range []string{"USER", "LOGNAME"} {
				env = setEnv(env, name, id.name)
			}
			env = setEnv(env, "SHELL", id.shell)
		}
	}
	for _, v := range c.ExtraEnv {
		name, value, given := strings.Cut(v, "=")
		if !given {
			if value, given = os.LookupEnv(name); !given {
				continue
			}
		}
		env = setEnv(env, name, value)
		if value == "" {
			env = append(env, name+"=")
		}
	}
	if env == nil {
		env = []string{}
	}
	return env
}

// setEnv sets a variable, or removes it if the value is empty.
func setEnv(env []string, name, value string) []string {
	env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	if value == "" {
		return env
	}
	return append(env, name+"="+value)
}

// otherHome is the home directory to be made for a user that isn't the caller.
func (id *identity) otherHome() string {
	if !id.other || !path.IsAbs(id.home) || path.Clean(id.home) == "/" {
		return ""
	}
	if fi, err := os.Stat(id.home); err != nil || !fi.IsDir() {
		return ""
	}
	return path.Clean(id.home)
}
