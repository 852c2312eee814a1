package main

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newer is the number of the first system call that Linux 5.4 lacks. From 424 on all architectures have the same numbers;
// 435 is clone3(2), of Linux 5.3.
const newer = 436

// A filter answers some system calls in the kernel's place.
type filter struct {
	name, about string
	newer       unix.Errno // what calls newer than 5.4 get; 0: they pass
	clone3      unix.Errno // what clone3(2) gets; 0: it passes, but for what 5.4 doesn't know of it
}

var filters = []filter{
	{name: "enosys", newer: unix.ENOSYS, about: "Linux 5.4"},
	{name: "eperm", newer: unix.EPERM, clone3: unix.EPERM, about: "a seccomp profile written before Linux 5.4, as old container engines load it"},
	{name: "clone3", clone3: unix.ENOSYS, about: "a seccomp profile that can't look into clone3's struct, as container engines load it"},
}

// Offsets in struct seccomp_data (seccomp(2)).
const (
	dataNr   = 0
	dataArch = 4
	dataArg0 = 16
	dataArg1 = 24
)

var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// program returns the filter's code. With newer set it also answers for what calls of 5.4 have learned since, as far as
// that shows in their arguments.
func (f filter) program() []unix.SockFilter {
	var p program
	p.load(dataArch)
	p.unless(unix.BPF_JEQ, auditArch[runtime.GOARCH], allow)
	p.load(dataNr)
	if f.newer != 0 {
		p.when(unix.BPF_JGE, newer, deny(f.newer))
	}
	if f.clone3 != 0 {
		p.when(unix.BPF_JEQ, unix.SYS_CLONE3, deny(f.clone3))
	}
	if f.newer == 0 {
		return append(p, ret(allow))
	}
	p.call(unix.SYS_SETNS, func(p *program) {
		// More than one namespace is what a pidfd takes (5.8): then n & (n-1) isn't 0.
		p.load(dataArg1)
		p.when(unix.BPF_JSET, unix.CLONE_NEWTIME, deny(unix.EINVAL))
		*p = append(*p,
			unix.SockFilter{Code: unix.BPF_MISC | unix.BPF_TAX},
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_SUB | unix.BPF_K, K: 1},
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_X})
		p.unless(unix.BPF_JEQ, 0, deny(unix.EINVAL))
	})
	p.call(unix.SYS_UNSHARE, func(p *program) {
		p.load(dataArg0)
		p.when(unix.BPF_JSET, unix.CLONE_NEWTIME, deny(unix.EINVAL)) // 5.6
	})
	return append(p, ret(allow))
}

const allow = unix.SECCOMP_RET_ALLOW

func deny(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

// program is classic BPF (seccomp(2)).
type program []unix.SockFilter

func ret(verdict uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: verdict}
}

// load loads 32 bits; of an argument, the low ones.
func (p *program) load(offset uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset})
}

// when returns the verdict if what was loaded compares so with k.
func (p *program) when(op uint16, k, verdict uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | op, Jf: 1, K: k}, ret(verdict))
}

// unless returns the verdict if it doesn't.
func (p *program) unless(op uint16, k, verdict uint32) {
	*p = append(*p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | op, Jt: 1, K: k}, ret(verdict))
}

// call has a call, whose number is loaded, judged by body, and allowed if body doesn't return.
func (p *program) call(nr uint32, body func(*program)) {
	var b program
	body(&b)
	b = append(b, ret(allow))
	*p = append(*p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | unix.BPF_JEQ, Jf: uint8(len(b)), K: nr})
	*p = append(*p, b...)
}

// install loads the filter for this thread and for all that it executes. no_new_privs stays as it is, for the sake of
// set-user-ID programs: that takes CAP_SYS_ADMIN.
func (f filter) install() error {
	p := f.program()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return errno
	}
	return nil
}
