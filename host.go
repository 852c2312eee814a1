package hull

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/fault"
	"hull/internal/overlay"
	"hull/spec"
)

// HostFiles say what a Cmd without a Rootfs sees of the host's files. What it writes to them goes to memory, and is gone
// with it.
//
// The zero value shows the programs and libraries of the host and the working tree: the git repository that Dir is in,
// or else Dir. The places where users keep their things are empty: /home, /root, /run, /tmp, /var/tmp, /mnt, /media and
// /srv.
type HostFiles struct {
	// Root is the directory shown as /. Empty means the host's own. If it is another one, all of it is shown.
	Root string
	// All shows the private places, too.
	All bool
	// TmpfsSize bounds what can be written, as the option size of tmpfs(5) does. Empty means half of the memory.
	TmpfsSize string
}

// privatePlaces are where users keep their things, and what the host keeps of running programs.
var privatePlaces = []string{"/home", "/root", "/run", "/tmp", "/var/tmp", "/mnt", "/media", "/srv", "/lost+found"}

// freshPlaces are where a container has file systems of its own.
var freshPlaces = []string{"/proc", "/sys", "/dev"}

// plan returns what is shown, for a command that starts in dir.
func (h *HostFiles) plan(dir string, userNS bool) (*overlay.Plan, error) {
	o := overlay.Options{Root: "/", Omit: freshPlaces, UserNS: userNS}
	if h.Root != "" {
		var err error
		if o.Root, err = filepath.Abs(h.Root); err != nil {
			return nil, err
		}
	}
	var err error
	if o.Mounts, err = overlay.Mounts(); err != nil {
		return nil, err
	}
	if o.Root == "/" && !h.All {
		o.Empty = privatePlaces
		if home := homeDir(); home != "/" {
			o.Make = []string{home}
		}
		if tree := workingTree(dir); tree != "" {
			o.Show = []string{tree}
		}
	}
	p, err := overlay.New(o)
	if err != nil {
		return nil, &fault.Error{Step: "look at the host's files", Err: err}
	}
	p.Size = h.TmpfsSize
	return p, nil
}

// homeDir is the caller's home directory, or "/".
func homeDir() string {
	home := os.Getenv("HOME")
	if !filepath.IsAbs(home) {
		return "/"
	}
	if fi, err := os.Stat(home); err != nil || !fi.IsDir() {
		return "/"
	}
	return filepath.Clean(home)
}

// workingTree is the git repository that dir is in, or dir; never a home directory or what homes are in.
func workingTree(dir string) string {
	home := homeDir()
	tooMuch := func(d string) bool {
		return d == "/" || slices.Contains(privatePlaces, d) || home == d || strings.HasPrefix(home, d+"/")
	}
	for d := dir; d != "/"; d = path.Dir(d) {
		if tooMuch(d) {
			break
		}
		if _, err := os.Lstat(path.Join(d, ".git")); err == nil {
			return d
		}
	}
	if tooMuch(dir) {
		return ""
	}
	return dir
}

// hostSpec makes the configuration of a command that sees the host's files.
func (c *Cmd) hostSpec(dir string, userNS bool) (*specs.Spec, error) {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	groups, err := os.Getgroups()
	if err != nil {
		return nil, err
	}
	s := spec.Example(spec.Options{Args: slices.Clone(c.Args), Cwd: dir})
	s.Root = &specs.Root{Path: "/"}
	s.Hostname, _ = os.Hostname()
	p := s.Process
	p.Terminal = c.Console != nil
	p.User.UID, p.User.GID = uid, gid
	p.Capabilities = &specs.LinuxCapabilities{}
	p.Rlimits = nil
	p.Env = slices.Clone(c.Env)
	if c.Env == nil {
		p.Env = hostEnv()
	}
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	if userNS {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: uid, HostID: uid, Size: 1}}
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: gid, HostID: gid, Size: 1}}
		for i := range s.Mounts {
			m := &s.Mounts[i]
			m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "gid=") })
		}
	} else {
		for _, g := range groups {
			p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
		}
	}
	s.Linux.Resources = nil
	if c.Spec != nil {
		c.Spec(s)
	}
	return s, nil
}

// passedEnv are the variables that a program gets from its caller unless it is told otherwise: what it needs to talk to
// people, and nothing that might be a secret.
var passedEnv = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "COLORTERM", "NO_COLOR", "LANG", "LANGUAGE", "TZ", "LS_COLORS",
	"COLUMNS", "LINES", "EDITOR", "PAGER",
}

func hostEnv() []string {
	env := []string{}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if slices.Contains(passedEnv, name) || strings.HasPrefix(name, "LC_") {
			env = append(env, v)
		}
	}
	return env
}
