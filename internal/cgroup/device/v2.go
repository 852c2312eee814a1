package device

import (
	"errors"
	"os"

	"hull/internal/linux"

	"golang.org/x/sys/unix"
)

// The instructions that a device filter is made of (linux/bpf.h, linux/bpf_common.h), and its registers.
const (
	opLoadWord = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opMove     = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opSet      = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K
	opAnd      = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opShift    = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	opSkipNot  = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K // skip unless register == constant
	opSkipNotR = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_X // skip unless register == register
	opSkipIs   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opExit     = unix.BPF_JMP | unix.BPF_EXIT

	regResult, regContext, regKind, regAccess, regMajor, regMinor = 0, 1, 2, 3, 4, 5
)

// program returns the filter for a cgroup of v2, where devices have no files: the kernel runs it at every access and
// denies those for which it returns 0. It gets struct bpf_cgroup_dev_ctx: type and access in one word, major, minor.
func (a *Access) program() []linux.BPFInsn {
	p := []linux.BPFInsn{
		load(regKind, 0),
		{Op: opMove, Regs: regs(regAccess, regKind)},
		{Op: opAnd, Regs: regKind, Imm: 0xffff},
		{Op: opShift, Regs: regAccess, Imm: 16},
		load(regMajor, 4),
		load(regMinor, 8),
	}
	for _, r := range a.Exceptions() {
		p = append(p, block(r)...)
	}
	return append(p, verdict(a.AllowAll)...)
}

func regs(dst, src uint8) uint8 { return dst | src<<4 }

func load(dst uint8, offset int16) linux.BPFInsn {
	return linux.BPFInsn{Op: opLoadWord, Regs: regs(dst, regContext), Off: offset}
}

func verdict(allow bool) []linux.BPFInsn {
	result := int32(0)
	if allow {
		result = 1
	}
	return []linux.BPFInsn{{Op: opSet, Regs: regResult, Imm: result}, {Op: opExit}}
}

// block returns the instructions for one exception; unless it applies, they jump past their end.
//
// As in v1, an exception that allows applies if it has every kind of access that is asked for, and one that denies if
// it has any.
func block(r Rule) []linux.BPFInsn {
	kind := int32(unix.BPF_DEVCG_DEV_CHAR)
	if r.Kind == 'b' {
		kind = unix.BPF_DEVCG_DEV_BLOCK
	}
	b := []linux.BPFInsn{{Op: opSkipNot, Regs: regKind, Imm: kind}}
	if r.Perm != All {
		b = append(b,
			linux.BPFInsn{Op: opMove, Regs: regs(regContext, regAccess)}, // the context isn't needed any more
			linux.BPFInsn{Op: opAnd, Regs: regContext, Imm: accessBits(r.Perm)})
		if r.Allow {
			b = append(b, linux.BPFInsn{Op: opSkipNotR, Regs: regs(regContext, regAccess)})
		} else {
			b = append(b, linux.BPFInsn{Op: opSkipIs, Regs: regContext, Imm: 0})
		}
	}
	if r.Major != Any {
		b = append(b, linux.BPFInsn{Op: opSkipNot, Regs: regMajor, Imm: int32(r.Major)})
	}
	if r.Minor != Any {
		b = append(b, linux.BPFInsn{Op: opSkipNot, Regs: regMinor, Imm: int32(r.Minor)})
	}
	b = append(b, verdict(r.Allow)...)
	for i := range b {
		if op := b[i].Op; op == opSkipNot || op == opSkipNotR || op == opSkipIs {
			b[i].Off = int16(len(b) - i - 1)
		}
	}
	return b
}

// accessBits returns p as the kernel's BPF_DEVCG_ACC bits.
func accessBits(p Perm) int32 {
	bits := int32(0)
	if p&Read != 0 {
		bits |= unix.BPF_DEVCG_ACC_READ
	}
	if p&Write != 0 {
		bits |= unix.BPF_DEVCG_ACC_WRITE
	}
	if p&Mknod != 0 {
		bits |= unix.BPF_DEVCG_ACC_MKNOD
	}
	return bits
}

// SetV2 puts the filter for a in the place of those that the cgroup at path has. All that are attached must allow an
// access, so that the old ones may go only when the new one is in place.
func (a *Access) SetV2(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	old, err := linux.CgroupDevicePrograms(dir)
	if err != nil {
		return err
	}
	defer func() {
		for _, p := range old {
			p.Close()
		}
	}()
	prog, err := linux.LoadCgroupDevice(a.program())
	if err != nil {
		return err
	}
	defer prog.Close()
	if len(old) == 1 {
		err := linux.AttachCgroupDevice(dir, prog, old[0])
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		// Linux before 5.6 can't replace.
	}
	if err := linux.AttachCgroupDevice(dir, prog, nil); err != nil {
		return err
	}
	for _, p := range old {
		if err := linux.DetachCgroupDevice(dir, p); err != nil {
			return err
		}
	}
	return nil
}
