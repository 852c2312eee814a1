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
// An array, unlike a map, costs nothing when hull starts.
var options = [...]struct {
	name string
	option
}{
	{"defaults", option{do: func(*Mount) {}}},

	{"ro", option{attr: unix.MOUNT_ATTR_RDONLY}}, {"rw", option{attr: unix.MOUNT_ATTR_RDONLY, clear: true}},
	{"nosuid", option{attr: unix.MOUNT_ATTR_NOSUID}}, {"suid", option{attr: unix.MOUNT_ATTR_NOSUID, clear: true}},
	{"nodev", option{attr: unix.MOUNT_ATTR_NODEV}}, {"dev", option{attr: unix.MOUNT_ATTR_NODEV, clear: true}},
	{"noexec", option{attr: unix.MOUNT_ATTR_NOEXEC}}, {"exec", option{attr: unix.MOUNT_ATTR_NOEXEC, clear: true}},
	{"nosymfollow", option{attr: unix.MOUNT_ATTR_NOSYMFOLLOW}}, {"symfollow", option{attr: unix.MOUNT_ATTR_NOSYMFOLLOW, clear: true}},
	{"nodiratime", option{attr: unix.MOUNT_ATTR_NODIRATIME}}, {"diratime", option{attr: unix.MOUNT_ATTR_NODIRATIME, clear: true}},

	{"noatime", option{mode: true, atime: unix.MOUNT_ATTR_NOATIME}}, {"atime", option{mode: true, atime: unix.MOUNT_ATTR_NOATIME, clear: true}},
	{"relatime", option{mode: true, atime: unix.MOUNT_ATTR_RELATIME}}, {"norelatime", option{mode: true, atime: unix.MOUNT_ATTR_RELATIME, clear: true}},
	{"strictatime", option{mode: true, atime: unix.MOUNT_ATTR_STRICTATIME}},
	{"nostrictatime", option{mode: true, atime: unix.MOUNT_ATTR_STRICTATIME, clear: true}},

	{"rro", option{rec: true, attr: unix.MOUNT_ATTR_RDONLY}}, {"rrw", option{rec: true, attr: unix.MOUNT_ATTR_RDONLY, clear: true}},
	{"rnosuid", option{rec: true, attr: unix.MOUNT_ATTR_NOSUID}}, {"rsuid", option{rec: true, attr: unix.MOUNT_ATTR_NOSUID, clear: true}},
	{"rnodev", option{rec: true, attr: unix.MOUNT_ATTR_NODEV}}, {"rdev", option{rec: true, attr: unix.MOUNT_ATTR_NODEV, clear: true}},
	{"rnoexec", option{rec: true, attr: unix.MOUNT_ATTR_NOEXEC}}, {"rexec", option{rec: true, attr: unix.MOUNT_ATTR_NOEXEC, clear: true}},
	{"rnosymfollow", option{rec: true, attr: unix.MOUNT_ATTR_NOSYMFOLLOW}},
	{"rsymfollow", option{rec: true, attr: unix.MOUNT_ATTR_NOSYMFOLLOW, clear: true}},
	{"rnodiratime", option{rec: true, attr: unix.MOUNT_ATTR_NODIRATIME}},
	{"rdiratime", option{rec: true, attr: unix.MOUNT_ATTR_NODIRATIME, clear: true}},

	{"rnoatime", option{rec: true, mode: true, atime: unix.MOUNT_ATTR_NOATIME}},
	{"ratime", option{rec: true, mode: true, atime: unix.MOUNT_ATTR_NOATIME, clear: true}},
	{"rrelatime", option{rec: true, mode: true, atime: unix.MOUNT_ATTR_RELATIME}},
	{"rnorelatime", option{rec: true, mode: true, atime: unix.MOUNT_ATTR_RELATIME, clear: true}},
	{"rstrictatime", option{rec: true, mode: true, atime: unix.MOUNT_ATTR_STRICTATIME}},
	{"rnostrictatime", option{rec: true, mode: true, atime: unix.MOUNT_ATTR_STRICTATIME, clear: true}},

	{"sync", option{super: unix.MS_SYNCHRONOUS}}, {"async", option{super: unix.MS_SYNCHRONOUS, clear: true}},
	{"dirsync", option{super: unix.MS_DIRSYNC}},
	{"mand", option{super: unix.MS_MANDLOCK}}, {"nomand", option{super: unix.MS_MANDLOCK, clear: true}},
	{"lazytime", option{super: unix.MS_LAZYTIME}}, {"nolazytime", option{super: unix.MS_LAZYTIME, clear: true}},
	{"iversion", option{super: unix.MS_I_VERSION}}, {"noiversion", option{super: unix.MS_I_VERSION, clear: true}},
	{"silent", option{super: unix.MS_SILENT}}, {"loud", option{super: unix.MS_SILENT, clear: true}},

	{"shared", option{propagation: unix.MS_SHARED}}, {"rshared", option{propagation: unix.MS_SHARED | unix.MS_REC}},
	{"slave", option{propagation: unix.MS_SLAVE}}, {"rslave", option{propagation: unix.MS_SLAVE | unix.MS_REC}},
	{"private", option{propagation: unix.MS_PRIVATE}}, {"rprivate", option{propagation: unix.MS_PRIVATE | unix.MS_REC}},
	{"unbindable", option{propagation: unix.MS_UNBINDABLE}}, {"runbindable", option{propagation: unix.MS_UNBINDABLE | unix.MS_REC}},

	{"bind", option{do: func(m *Mount) { m.Bind = true }}},
	{"rbind", option{do: func(m *Mount) { m.Bind, m.Recursive = true, true }}},
	{"remount", option{do: func(m *Mount) { m.Remount = true }}},
	{"tmpcopyup", option{do: func(m *Mount) { m.CopyUp = true }}},
	{"idmap", option{do: func(m *Mount) { m.idmap(false) }}},
	{"ridmap", option{do: func(m *Mount) { m.idmap(true) }}},
}

// lookup returns the option with that name.
func lookup(name string) (option, bool) {
	for i := range options {
		if options[i].name == name {
			return options[i].option, true
		}
	}
	return option{}, false
}

// Options returns the names of all options that have a meaning of their own, sorted. Any other is passed to the file
// system.
func Options() []string {
	names := make([]string, 0, len(options))
	for i := range options {
		names = append(names, options[i].name)
	}
	slices.Sort(names)
	return names
}

// Propagation returns the MS_* flags of a value of linux.rootfsPropagation.
func Propagation(name string) (flags uint64, ok bool) {
	o, ok := lookup(name)
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
