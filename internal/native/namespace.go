package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/proc"
	"hull/internal/program"
	"hull/internal/stub"
)

// cloneFlag returns the CLONE_NEW* flag of a namespace type.
func cloneFlag(t specs.LinuxNamespaceType) uint64 {
	for _, n := range linux.Namespaces {
		if n.Name == string(t) {
			return n.Flag
		}
	}
	panic("bug: unknown namespace type " + string(t))
}

// namespaces sorts what config.json says of namespaces into what is to be done.
type namespaces struct {
	clone     uint64 // new ones the init is cloned into
	newUser   bool
	newTime   bool
	newCgroup bool // made by the init, when it is in its cgroup
	join      []joined
}

type joined struct {
	field string
	specs.LinuxNamespace
}

// sortNamespaces orders joins by what they need: root joins its own user namespace last, while it still has its
// rights over the others; anyone else must join it first, since that is what gives rights (user_namespaces(7)).
func sortNamespaces(s *specs.Spec, privileged bool) namespaces {
	var n namespaces
	var user []joined
	for i, ns := range s.Linux.Namespaces {
		switch {
		case ns.Path != "":
			j := joined{fmt.Sprintf("linux.namespaces[%d].path %q", i, ns.Path), ns}
			if ns.Type == specs.UserNamespace {
				user = append(user, j)
			} else {
				n.join = append(n.join, j)
			}
		case ns.Type == specs.UserNamespace:
			n.newUser = true
		case ns.Type == specs.TimeNamespace:
			n.newTime = true
		case ns.Type == specs.CgroupNamespace:
			n.newCgroup = true
		default:
			n.clone |= cloneFlag(ns.Type)
		}
	}
	if privileged {
		n.join = append(n.join, user...)
	} else {
		n.join = append(user, n.join...)
	}
	return n
}

// joinNamespaces emits the calls that join namespaces by path. setns fails with EINVAL if the file is no namespace or
// one of another type.
func joinNamespaces(b *stub.Batch, join []joined) {
	for _, j := range join {
		b.In(j.field)
		fd := b.Openat(stub.CWD, j.Path, unix.O_RDONLY, 0)
		b.Call(unix.SYS_SETNS, fd.Arg(), stub.Int(cloneFlag(j.Type)))
		b.Note(string(j.Type))
		b.Close(fd)
	}
}

// mapIDs writes the maps of the user namespace that process pid has just made.
func mapIDs(ctx context.Context, pid int, l *specs.Linux, privileged bool) error {
	if privileged {
		if err := writeMap(pid, "uid_map", l.UIDMappings); err != nil {
			return err
		}
		return writeMap(pid, "gid_map", l.GIDMappings)
	}
	return mapIDsUnprivileged(ctx, pid, l)
}

// mapIDsUnprivileged maps the caller's own ids by itself (setgroups must be given up for the group, see
// user_namespaces(7)), and any others with the set-user-ID programs of shadow-utils.
func mapIDsUnprivileged(ctx context.Context, pid int, l *specs.Linux) error {
	if single(l.UIDMappings, os.Geteuid()) {
		if err := writeMap(pid, "uid_map", l.UIDMappings); err != nil {
			return err
		}
	} else if err := runMapper(ctx, "newuidmap", pid, l.UIDMappings); err != nil {
		return mapperError("linux.uidMappings", err, "the ranges must be the caller's in /etc/subuid")
	}
	if single(l.GIDMappings, os.Getegid()) {
		if err := os.WriteFile(proc.File(pid, "setgroups"), []byte("deny"), 0); err != nil {
			return err
		}
		return writeMap(pid, "gid_map", l.GIDMappings)
	}
	if err := runMapper(ctx, "newgidmap", pid, l.GIDMappings); err != nil {
		return mapperError("linux.gidMappings", err, "the ranges must be the caller's in /etc/subgid")
	}
	return nil
}

func mapperError(field string, err error, hint string) error {
	if errors.Is(err, exec.ErrNotFound) {
		hint = "an ordinary user needs it for more ids than its own: distributions have it in their package uidmap or shadow-utils"
	}
	return &fault.Error{Field: field, Err: err, Hint: hint}
}

// ownIDs tells whether the maps are of the caller's own ids alone, which a process can write for itself (user_namespaces(7)).
func ownIDs(l *specs.Linux) bool {
	return single(l.UIDMappings, os.Geteuid()) && single(l.GIDMappings, os.Getegid())
}

// mapOwnIDs emits that the stub writes the maps of the user namespace that it has just made. For that it has to be dumpable.
func mapOwnIDs(b *stub.Batch, l *specs.Linux) {
	write := func(field, file, what string) {
		b.In(field)
		fd := b.Openat(stub.CWD, "/proc/self/"+file, unix.O_WRONLY, 0)
		b.Write(fd, []byte(what))
		b.Close(fd)
	}
	write("linux.uidMappings", "uid_map", idMap(l.UIDMappings))
	write("linux.gidMappings", "setgroups", "deny")
	write("linux.gidMappings", "gid_map", idMap(l.GIDMappings))
}

// idMap returns maps as the kernel takes them.
func idMap(m []specs.LinuxIDMapping) string {
	var p []byte
	for _, e := range m {
		for i, n := range []uint32{e.ContainerID, e.HostID, e.Size} {
			p = append(strconv.AppendUint(p, uint64(n), 10), "  \n"[i])
		}
	}
	return string(p)
}

func single(m []specs.LinuxIDMapping, id int) bool {
	return len(m) == 1 && m[0].Size == 1 && int(m[0].HostID) == id
}

// writeMap writes a map with one write, as the kernel wants it.
func writeMap(pid int, file string, m []specs.LinuxIDMapping) error {
	f, err := os.OpenFile(proc.File(pid, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(idMap(m)); err != nil {
		field := map[bool]string{true: "linux.uidMappings", false: "linux.gidMappings"}[file == "uid_map"]
		return &fault.Error{Field: field, Step: "write " + file, Err: fault.Errno(err)}
	}
	return nil
}

func runMapper(ctx context.Context, name string, pid int, m []specs.LinuxIDMapping) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	args := []string{name, strconv.Itoa(pid)}
	for _, e := range m {
		for _, n := range []uint32{e.ContainerID, e.HostID, e.Size} {
			args = append(args, strconv.FormatUint(uint64(n), 10))
		}
	}
	if err := (&program.Program{Path: path, Args: args, Env: os.Environ()}).Run(ctx, ""); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// writeTimeOffsets sets the clocks of the time namespace that process pid has made for its children
// (time_namespaces(7)). Nobody may have entered it yet.
func writeTimeOffsets(pid int, offsets map[string]specs.LinuxTimeOffset) error {
	if len(offsets) == 0 {
		return nil
	}
	var s strings.Builder
	for clock, o := range offsets {
		fmt.Fprintf(&s, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	f, err := os.OpenFile(proc.File(pid, "timens_offsets"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(s.String())
		f.Close()
	}
	if err != nil {
		return &fault.Error{Field: "linux.timeOffsets", Step: "write timens_offsets", Err: fault.Errno(err)}
	}
	return nil
}
