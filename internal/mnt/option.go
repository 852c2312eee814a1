package mnt

import (
	"slices"

	"golang.org/x/sys/unix"
)

// option is what a mount option of config.json means. Exactly one group of its fields is set.
type option struct {
	attr  uint64 // MOUNT_ATTR_*
	clear bool   // attr or super is cleared, not set
	rec   bool   // attr is for all mounts below, too

	atime uint64 // one of the access time modes, MOUNT_ATTR__ATIME
	mode  bool   // atime is meant

	super uintptr // MS_* of the superblock

	propagation uint64 // MS_SHARED and the like, perhaps with MS_REC

	do func(*Mount)
}

// options are the options of the table in config.md, "Linux mount options", of the runtime specification 1.3.0.
var options = map[string]option{
	"defaults": {do: func(*Mount) {}},

	"ro": {attr: unix.MOUNT_ATTR_RDONLY}, "rw": {attr: unix.MOUNT_ATTR_RDONLY, clear: true},
	"nosuid": {attr: unix.MOUNT_ATTR_NOSUID}, "suid": {attr: unix.MOUNT_ATTR_NOSUID, clear: true},
	"nodev": {attr: unix.MOUNT_ATTR_NODEV}, "dev": {attr: unix.MOUNT_ATTR_NODEV, clear: true},
	"noexec": {attr: unix.MOUNT_ATTR_NOEXEC}, "exec": {attr: unix.MOUNT_ATTR_NOEXEC, clear: true},
	"nosymfollow": {attr: unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {attr: unix.MOUNT_ATTR_NOSYMFOLLOW, clear: true},
	"nodiratime": {attr: unix.MOUNT_ATTR_NODIRATIME}, "diratime": {attr: unix.MOUNT_ATTR_NODIRATIME, clear: true},

	"noatime": {mode: true, atime: unix.MOUNT_ATTR_NOATIME}, "atime": {mode: true, atime: unix.MOUNT_ATTR_NOATIME, clear: true},
	"relatime": {mode: true, atime: unix.MOUNT_ATTR_RELATIME}, "norelatime": {mode: true, atime: unix.MOUNT_ATTR_RELATIME, clear: true},
	"strictatime":   {mode: true, atime: unix.MOUNT_ATTR_STRICTATIME},
	"nostrictatime": {mode: true, atime: unix.MOUNT_ATTR_STRICTATIME, clear: true},

	"rro": {rec: true, attr: unix.MOUNT_ATTR_RDONLY}, "rrw": {rec: true, attr: unix.MOUNT_ATTR_RDONLY, clear: true},
	"rnosuid": {rec: true, attr: unix.MOUNT_ATTR_NOSUID}, "rsuid": {rec: true, attr: unix.MOUNT_ATTR_NOSUID, clear: true},
	"rnodev": {rec: true, attr: unix.MOUNT_ATTR_NODEV}, "rdev": {rec: true, attr: unix.MOUNT_ATTR_NODEV, clear: true},
	"rnoexec": {rec: true, attr: unix.MOUNT_ATTR_NOEXEC}, "rexec": {rec: true, attr: unix.MOUNT_ATTR_NOEXEC, clear: true},
	"rnosymfollow": {rec: true, attr: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"rsymfollow":   {rec: true, attr: unix.MOUNT_ATTR_NOSYMFOLLOW, clear: true},
	"rnodiratime":  {rec: true, attr: unix.MOUNT_ATTR_NODIRATIME},
	"rdiratime":    {rec: true, attr: unix.MOUNT_ATTR_NODIRATIME, clear: true},

	"rnoatime":       {rec: true, mode: true, atime: unix.MOUNT_ATTR_NOATIME},
	"ratime":         {rec: true, mode: true, atime: unix.MOUNT_ATTR_NOATIME, clear: true},
	"rrelatime":      {rec: true, mode: true, atime: unix.MOUNT_ATTR_RELATIME},
	"rnorelatime":    {rec: true, mode: true, atime: unix.MOUNT_ATTR_RELATIME, clear: true},
	"rstrictatime":   {rec: true, mode: true, atime: unix.MOUNT_ATTR_STRICTATIME},
	"rnostrictatime": {rec: true, mode: true, atime: unix.MOUNT_ATTR_STRICTATIME, clear: true},

	"sync": {super: unix.MS_SYNCHRONOUS}, "async": {super: unix.MS_SYNCHRONOUS, clear: true},
	"dirsync": {super: unix.MS_DIRSYNC},
	"mand":    {super: unix.MS_MANDLOCK}, "nomand": {super: unix.MS_MANDLOCK, clear: true},
	"lazytime": {super: unix.MS_LAZYTIME}, "nolazytime": {super: unix.MS_LAZYTIME, clear: true},
	"iversion": {super: unix.MS_I_VERSION}, "noiversion": {super: unix.MS_I_VERSION, clear: true},
	"silent": {super: unix.MS_SILENT}, "loud": {super: unix.MS_SILENT, clear: true},

	"shared": {propagation: unix.MS_SHARED}, "rshared": {propagation: unix.MS_SHARED | unix.MS_REC},
	"slave": {propagation: unix.MS_SLAVE}, "rslave": {propagation: unix.MS_SLAVE | unix.MS_REC},
	"private": {propagation: unix.MS_PRIVATE}, "rprivate": {propagation: unix.MS_PRIVATE | unix.MS_REC},
	"unbindable": {propagation: unix.MS_UNBINDABLE}, "runbindable": {propagation: unix.MS_UNBINDABLE | unix.MS_REC},

	"bind":      {do: func(m *Mount) { m.Bind = true }},
	"rbind":     {do: func(m *Mount) { m.Bind, m.Recursive = true, true }},
	"remount":   {do: func(m *Mount) { m.Remount = true }},
	"tmpcopyup": {do: func(m *Mount) { m.CopyUp = true }},
	"idmap":     {do: func(m *Mount) { m.idmap(false) }},
	"ridmap":    {do: func(m *Mount) { m.idmap(true) }},
}

// Options returns the names of all options that have a meaning of their own, sorted. Any other is passed to the file
// system.
func Options() []string {
	names := make([]string, 0, len(options))
	for name := range options {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Propagation returns the MS_* flags of a value of linux.rootfsPropagation.
func Propagation(name string) (flags uint64, ok bool) {
	o, ok := options[name]
	return o.propagation, ok && o.propagation != 0
}

func (o option) apply(m *Mount) {
	switch {
	case o.do != nil:
		o.do(m)
	case o.propagation != 0:
		m.Propagation = append(m.Propagation, o.propagation)
	case o.super != 0:
		o.applySuper(m)
	case o.rec:
		o.applyAttr(&m.Rec)
	default:
		o.applyAttr(&m.Attr)
	}
}

func (o option) applySuper(m *Mount) {
	m.Flagged = true
	if o.clear {
		m.Super &^= o.super
		m.SuperClear |= o.super
		return
	}
	m.Super |= o.super
	m.SuperClear &^= o.super
}

func (o option) applyAttr(a *Attr) {
	a.Given = true
	if o.mode {
		a.applyAtime(o)
		return
	}
	if o.attr == unix.MOUNT_ATTR_NODIRATIME && !o.clear && !o.rec {
		// As with mount(8): it implies relatime, unless another mode is given.
		a.Atime = true
	}
	if o.clear {
		a.Set &^= o.attr
		a.Clear |= o.attr
		return
	}
	a.Set |= o.attr
	a.Clear &^= o.attr
}

// applyAtime handles the access time modes, of which a mount has one. The last of an entry wins.
//
// To clear a mode means no more than to forget it, as with mount(8): "atime" alone leaves a bind mount of a noatime
// mount as it is. The recursive forms are newer than that custom and ask for the default, relatime.
func (a *Attr) applyAtime(o option) {
	switch {
	case !o.clear:
		a.Set = a.Set&^unix.MOUNT_ATTR__ATIME | o.atime
		a.Atime = true
	case a.Set&unix.MOUNT_ATTR__ATIME == o.atime:
		a.Set &^= unix.MOUNT_ATTR__ATIME
		a.Atime = o.rec || a.Set&unix.MOUNT_ATTR_NODIRATIME != 0
	default:
		a.Atime = a.Atime || o.rec
	}
}
