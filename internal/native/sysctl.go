package native

import (
	"errors"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/stub"
	"hull/internal/task"
)

// checkSysctls refuses parameters that would change the host's: those of a namespace that the container shares.
func checkSysctls(s *specs.Spec) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(s.Linux.Sysctl)) {
		p, err := task.ParseSysctl(key)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !engine.HasNamespace(s, p.Namespace) {
			errs = append(errs, fault.Spec("linux.sysctl."+key, "needs a "+string(p.Namespace)+" namespace of the container's own: it would change the host's value"))
		}
	}
	return errors.Join(errs...)
}

// procfs emits a procfs of the stub's own, attached nowhere: whatever the image or a volume has put at /proc, writes
// below this descriptor reach the kernel's files and nothing else (CVE-2019-16884, CVE-2025-52881).
func procfs(b *stub.Batch) stub.FD {
	fs := b.Fsopen("proc")
	b.FsconfigCreate(fs, "proc")
	return b.Fsmount(fs, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, "proc")
}

// writeProc emits a write to a file below a procfs that procfs returned. Before Linux 5.6 nothing but the checks of package
// task keeps the path below: nobody can have mounted or linked anything there.
func writeProc(b *stub.Batch, proc stub.FD, file, value string) {
	var fd stub.FD
	if linux.HaveOpenat2() {
		fd = b.Openat2(proc, file, unix.OpenHow{
			Flags:   unix.O_WRONLY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
		})
	} else {
		fd = b.Openat(proc, file, unix.O_WRONLY|unix.O_NOFOLLOW, 0)
	}
	b.Write(fd, []byte(value))
	b.Close(fd)
}

func writeSysctls(b *stub.Batch, s *specs.Spec) {
	if len(s.Linux.Sysctl) == 0 {
		return
	}
	b.In("linux.sysctl")
	proc := procfs(b)
	for _, key := range slices.Sorted(maps.Keys(s.Linux.Sysctl)) {
		p, _ := task.ParseSysctl(key)
		b.In("linux.sysctl." + key)
		writeProc(b, proc, "sys/"+p.Path, s.Linux.Sysctl[key])
	}
	b.Close(proc)
}

// explainSysctl adds to the error of a parameter that there isn't what that means.
func explainSysctl(err error) error {
	e, ok := err.(*fault.Error)
	if !ok || e.Hint != "" || !strings.HasPrefix(e.Field, "linux.sysctl.") || !errors.Is(err, unix.ENOENT) {
		return err
	}
	explained := *e
	explained.Hint = "this kernel has no such sysctl in namespaces of a container's own"
	return &explained
}
