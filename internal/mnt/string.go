package mnt

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// String returns one line that says all that Parse has understood.
func (m Mount) String() string {
	var w []string
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	verb := "mount"
	switch {
	case m.Remount:
		verb = "remount"
	case m.Bind && m.Recursive:
		verb = "rbind"
	case m.Bind:
		verb = "bind"
	}
	add("%s %s", verb, m.Destination)
	if !m.Bind && m.Type != "" {
		add("type=%s", m.Type)
	}
	if m.Source != "" {
		add("source=%q", m.Source)
	}
	if s := m.Attr.String(); s != "" {
		add("attr=%s", s)
	}
	if s := m.Rec.String(); s != "" {
		add("recursive=%s", s)
	}
	if s := superString(m.Super, m.SuperClear); s != "" {
		add("super=%s", s)
	}
	for _, p := range m.Propagation {
		add("propagation=%s", PropagationName(p))
	}
	if m.CopyUp {
		add("tmpcopyup")
	}
	if m.IDMap != nil {
		add("%s", m.IDMap)
	}
	if len(m.Data) > 0 {
		add("data=%q", strings.Join(m.Data, ","))
	}
	return strings.Join(w, " ")
}

// String returns the attributes by the names of their options: those set, then those cleared with a minus.
func (a Attr) String() string {
	var names []string
	for _, f := range attrFlags {
		if a.Set&f.attr != 0 {
			names = append(names, f.names[0])
		}
	}
	if a.Atime && a.Set&unix.MOUNT_ATTR__ATIME == 0 {
		names = append(names, "relatime")
	}
	for _, f := range attrFlags {
		if a.Clear&f.attr != 0 {
			names = append(names, "-"+f.names[0])
		}
	}
	return strings.Join(names, ",")
}

func (m *IDMap) String() string {
	name := "idmap"
	if m.Recursive {
		name = "ridmap"
	}
	if m.UID == nil {
		return name + "=container"
	}
	var w []string
	for _, e := range m.UID {
		w = append(w, fmt.Sprintf("u:%d:%d:%d", e.ContainerID, e.HostID, e.Size))
	}
	for _, e := range m.GID {
		w = append(w, fmt.Sprintf("g:%d:%d:%d", e.ContainerID, e.HostID, e.Size))
	}
	return name + "=" + strings.Join(w, ",")
}

var superNames = []struct {
	flag uintptr
	name string
}{
	{unix.MS_SYNCHRONOUS, "sync"}, {unix.MS_DIRSYNC, "dirsync"}, {unix.MS_MANDLOCK, "mand"},
	{unix.MS_LAZYTIME, "lazytime"}, {unix.MS_I_VERSION, "iversion"}, {unix.MS_SILENT, "silent"},
}

func superString(set, clear uintptr) string {
	var names []string
	for _, f := range superNames {
		if set&f.flag != 0 {
			names = append(names, f.name)
		}
		if clear&f.flag != 0 {
			names = append(names, "-"+f.name)
		}
	}
	return strings.Join(names, ",")
}

// PropagationName returns the option's name of MS_SHARED and the like.
func PropagationName(flags uint64) string {
	for _, name := range []string{
		"shared", "rshared", "slave", "rslave", "private", "rprivate", "unbindable", "runbindable",
	} {
		if o, _ := lookup(name); o.propagation == flags {
			return name
		}
	}
	return fmt.Sprintf("%#x", flags)
}
