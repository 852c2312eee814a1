// Package mnt says what an entry of mounts in config.json asks of the kernel: the attributes, propagation and file
// system parameters behind each option. It decides and touches nothing; package rootfs acts.
package mnt

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// Attr are attributes of a mount, MOUNT_ATTR_*, for mount_setattr(2).
type Attr struct {
	Set, Clear uint64
	Atime      bool // Set has a mode of access times; else the mount's is kept
	Given      bool // some option speaks of attributes, be it only to clear one
}

// Param is a parameter of a file system, for fsconfig(2).
type Param struct {
	Key, Value string
	Flag       bool // it has no value
}

// IDMap says which ids an idmapped mount shows.
type IDMap struct {
	UID, GID  []specs.LinuxIDMapping // none: those of the container's user namespace
	Recursive bool
}

// Mismatch is what a person is told when move_mount(2) doesn't take a place.
const Mismatch = "a directory can't be mounted on a file, nor a file on a directory"

// Mount is an entry of mounts.
type Mount struct {
	Field       string // for errors: `mounts[2] "/proc"`
	Destination string // absolute and clean
	Source      string // for a bind mount: absolute
	Type        string // file system; "bind" for a bind mount

	Bind      bool
	Recursive bool // of a bind mount: with the mounts below
	Remount   bool // changes the mount at Destination instead of making one
	CopyUp    bool // a tmpfs that begins with a copy of what it covers

	Attr        Attr
	Rec         Attr // for all mounts of the tree
	Super       uintptr
	SuperClear  uintptr
	Flagged     bool     // some option speaks of the superblock
	Propagation []uint64 // MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, with MS_REC or without; in order
	Data        []string // options for the file system, as given
	Ignored     []string // such options of a bind mount, which has no file system of its own
	IDMap       *IDMap
}

// Parse returns what the entry with index i of mounts asks for. Relative sources of bind mounts are below bundle.
func Parse(i int, s specs.Mount, bundle string) (Mount, error) {
	m := Mount{
		Field:       fmt.Sprintf("mounts[%d] %q", i, s.Destination),
		Destination: filepath.Clean("/" + s.Destination),
		Source:      s.Source,
		Type:        s.Type,
		Bind:        s.Type == "bind",
	}
	for _, name := range s.Options {
		if o, ok := lookup(name); ok {
			o.apply(&m)
		} else if name != "" {
			m.Data = append(m.Data, name)
		}
	}
	if m.Bind {
		m.Type = "bind"
		if !filepath.IsAbs(m.Source) {
			m.Source = filepath.Join(bundle, m.Source)
		}
	}
	if s.UIDMappings != nil || s.GIDMappings != nil {
		m.idmap(false)
		m.IDMap.UID, m.IDMap.GID = s.UIDMappings, s.GIDMappings
	}
	if err := m.check(s); err != nil {
		return Mount{}, err
	}
	return m, nil
}

// Warnings tells of what is tolerated but not applied.
func (m *Mount) Warnings() (warnings []string) {
	for _, o := range m.Ignored {
		warnings = append(warnings, fmt.Sprintf("%s: option %q ignored: a bind mount has no file system of its own", m.Field, o))
	}
	return warnings
}

// idmap makes it an idmapped mount. Both options together mean the recursive one.
func (m *Mount) idmap(recursive bool) {
	if m.IDMap == nil {
		m.IDMap = new(IDMap)
	}
	m.IDMap.Recursive = m.IDMap.Recursive || recursive
}

// check refuses what can't be done whatever the host is.
func (m *Mount) check(s specs.Mount) error {
	if s.Destination == "" {
		return m.wrong("destination", "missing")
	}
	for _, v := range [][2]string{{"destination", s.Destination}, {"source", s.Source}, {"type", s.Type}} {
		if strings.IndexByte(v[1], 0) >= 0 {
			return m.wrong(v[0], "has a NUL byte")
		}
	}
	for i, o := range s.Options {
		if strings.IndexByte(o, 0) >= 0 {
			return m.wrong(fmt.Sprintf("options[%d]", i), "has a NUL byte")
		}
	}
	switch {
	case m.Destination == "/":
		return m.wrong("destination", "nothing can be mounted over the container's root")
	case m.Bind && s.Source == "" && !m.Remount:
		return m.wrong("source", "a bind mount needs one")
	case s.Type == "" && !m.Bind && !m.Remount:
		return m.wrong("type", "missing: want a file system such as tmpfs, or the option bind or rbind")
	case m.CopyUp && m.Type != "tmpfs":
		return m.wrong(optionField(s, "tmpcopyup"), "tmpcopyup is for the type tmpfs")
	}
	if m.Bind {
		// The kernel ignores them (mount(2), "Creating a bind mount"), and engines send some.
		m.Ignored, m.Data = m.Data, nil
	}
	return m.checkIDMap(s)
}

func (m *Mount) checkIDMap(s specs.Mount) error {
	switch {
	case m.IDMap == nil:
		return nil
	case !m.Bind:
		return m.wrong("uidMappings", "only a bind mount can be idmapped")
	case m.Remount:
		return m.wrong("uidMappings", "a mount in use can't be idmapped: remount")
	case (len(s.UIDMappings) == 0) != (len(s.GIDMappings) == 0):
		return m.wrong("uidMappings", "uidMappings and gidMappings need each other")
	}
	return nil
}

func optionField(s specs.Mount, name string) string {
	return fmt.Sprintf("options[%d]", slices.Index(s.Options, name))
}

func (m *Mount) wrong(field, problem string) error {
	return fault.Spec(m.Field+": "+field, problem)
}

// Params returns the options for the file system one by one. ok is false if they can be passed only as they are, to
// mount(2): fsconfig(2) takes values of up to 255 bytes, and what a backslash means is for the file system to say.
func (m *Mount) Params() (params []Param, ok bool) {
	for _, d := range m.Data {
		for _, o := range splitQuoted(d) {
			p := parseParam(o)
			if p.Key == "" && !p.Flag {
				return nil, false
			}
			if len(p.Key) > 255 || len(p.Value) > 255 || strings.ContainsRune(o, '\\') {
				return nil, false
			}
			params = append(params, p)
		}
	}
	return params, true
}

// parseParam parses key=value. Quotes protect commas from mount(2) (an SELinux context has them) and are no part of
// the value.
func parseParam(o string) Param {
	key, value, found := strings.Cut(o, "=")
	if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	return Param{Key: key, Value: value, Flag: !found}
}

// splitQuoted splits at commas that are not between double quotes, and drops what is empty.
func splitQuoted(s string) []string {
	var parts []string
	quoted, from := false, 0
	for i := 0; i <= len(s); i++ {
		switch {
		case i == len(s) || s[i] == ',' && !quoted:
			if i > from {
				parts = append(parts, s[from:i])
			}
			from = i + 1
		case s[i] == '"':
			quoted = !quoted
		}
	}
	return parts
}

// Has tells whether the options for the file system have key.
func (m *Mount) Has(key string) bool {
	for _, d := range m.Data {
		for _, o := range splitQuoted(d) {
			if parseParam(o).Key == key {
				return true
			}
		}
	}
	return false
}

// Flags returns attributes and superblock flags as mount(2) takes them.
func (m *Mount) Flags() uintptr {
	flags := m.Super | AttrFlags(m.Attr.Set)
	if m.Attr.Atime && m.Attr.Set&(unix.MOUNT_ATTR__ATIME|unix.MOUNT_ATTR_NODIRATIME) == 0 {
		flags |= unix.MS_RELATIME
	}
	return flags
}

var attrFlags = []struct {
	attr  uint64
	flag  uintptr
	names [2]string // set, cleared
}{
	{unix.MOUNT_ATTR_RDONLY, unix.MS_RDONLY, [2]string{"ro", "rw"}},
	{unix.MOUNT_ATTR_NOSUID, unix.MS_NOSUID, [2]string{"nosuid", "suid"}},
	{unix.MOUNT_ATTR_NODEV, unix.MS_NODEV, [2]string{"nodev", "dev"}},
	{unix.MOUNT_ATTR_NOEXEC, unix.MS_NOEXEC, [2]string{"noexec", "exec"}},
	{unix.MOUNT_ATTR_NOATIME, unix.MS_NOATIME, [2]string{"noatime", "atime"}},
	{unix.MOUNT_ATTR_STRICTATIME, unix.MS_STRICTATIME, [2]string{"strictatime", "nostrictatime"}},
	{unix.MOUNT_ATTR_NODIRATIME, unix.MS_NODIRATIME, [2]string{"nodiratime", "diratime"}},
	{unix.MOUNT_ATTR_NOSYMFOLLOW, unix.MS_NOSYMFOLLOW, [2]string{"nosymfollow", "symfollow"}},
}

// AttrFlags returns the MS_* flags of attributes.
func AttrFlags(attr uint64) (flags uintptr) {
	for _, f := range attrFlags {
		if attr&f.attr != 0 {
			flags |= f.flag
		}
	}
	return flags
}
