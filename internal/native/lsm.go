package native

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
	"hull/internal/task"
)

// AppArmorEnabled tells whether the kernel confines by AppArmor.
func AppArmorEnabled() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && len(b) > 0 && b[0] == 'Y'
}

// SELinuxEnabled tells whether selinuxfs is mounted, as libselinux does.
func SELinuxEnabled() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &st) == nil && st.Type == unix.SELINUX_MAGIC
}

// checkLabels refuses labels that no security module of this host would enforce.
func (t *process) checkLabels() error {
	var errs []error
	if t.ApparmorProfile != "" && !AppArmorEnabled() {
		errs = append(errs, &fault.Error{Field: "process.apparmorProfile", Kind: fault.Unsupported,
			Err: errors.New(quote(t.ApparmorProfile) + ": this host's kernel has no AppArmor, or has it disabled")})
	}
	if t.SelinuxLabel != "" && !SELinuxEnabled() {
		errs = append(errs, &fault.Error{Field: "process.selinuxLabel", Kind: fault.Unsupported,
			Err: errors.New(quote(t.SelinuxLabel) + ": this host's kernel has no SELinux, or has it disabled")})
	}
	return errors.Join(errs...)
}

// fromOutside emits what the first stub writes to its own files in the host's procfs, and what the process then
// inherits: in the container's procfs they might be something else, or not there.
func (t *process) fromOutside(b *stub.Batch) {
	adj := t.OOMScoreAdj
	if adj == nil && t.ApparmorProfile == "" && t.SelinuxLabel == "" {
		return
	}
	b.In("process")
	// These files belong to root while a process is not dumpable. Nobody but the caller can trace the stub here.
	b.Prctl(unix.PR_SET_DUMPABLE, stub.Int(1))
	self := b.Openat(stub.CWD, "/proc/self", unix.O_PATH|unix.O_DIRECTORY, 0)
	b.Assert(b.Load(b.Fstatfs(self), 0).Arg(), ^uint64(0), unix.PROC_SUPER_MAGIC, unix.ENOTSUP, "/proc is no procfs")
	if adj != nil {
		b.In("process.oomScoreAdj")
		v, _ := task.OOMScoreAdj(*adj)
		t.writeOOMScoreAdj(b, self, v)
	}
	if t.ApparmorProfile != "" {
		b.In("process.apparmorProfile")
		t.writeAppArmor(b, self)
	}
	if t.SelinuxLabel != "" {
		b.In("process.selinuxLabel")
		writeProc(b, self, "attr/exec", t.SelinuxLabel)
	}
	b.In("process")
	b.Close(self)
	b.Prctl(unix.PR_SET_DUMPABLE, stub.Int(0))
}

// writeOOMScoreAdj tolerates that an unprivileged caller can't lower the score (proc_pid_oom_score_adj(5)): engines
// send the same value to all.
func (t *process) writeOOMScoreAdj(b *stub.Batch, self stub.FD, value string) {
	fd := b.Openat(self, "oom_score_adj", unix.O_WRONLY, 0)
	w := b.Write(fd, []byte(value))
	if os.Geteuid() != 0 {
		b.Ignore(w, unix.EACCES)
	}
	b.Close(fd)
}

// writeAppArmor prefers the file that is AppArmor's alone where several modules are stacked (Linux 5.8).
func (t *process) writeAppArmor(b *stub.Batch, self stub.FD) {
	open, done := b.Label(), b.Label()
	fd := b.Openat(self, "attr/apparmor/exec", unix.O_WRONLY, 0)
	b.OnErr(fd.Result(), unix.ENOENT, open)
	b.Write(fd, []byte("exec "+t.ApparmorProfile))
	b.Close(fd)
	b.Goto(done)
	b.Mark(open)
	writeProc(b, self, "attr/exec", "exec "+t.ApparmorProfile)
	b.Mark(done)
}
