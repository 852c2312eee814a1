package seccomp

import (
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// x32Bit marks a call of the x32 ABI, which shares its AUDIT_ARCH with x86_64.
const x32Bit = 0x40000000

// armPrivateBase is __ARM_NR_BASE: arch/arm/include/uapi/asm/unistd.h.
const armPrivateBase = 0x0f0000

// An arch is one ABI: a set of numbers and the way its arguments are laid out.
type arch struct {
	name  specs.Arch
	audit uint32 // seccomp_data.arch
	base  uint32 // added to the table's numbers
	table *[nameCount]uint16

	wide        bool // arguments are 64 bits
	bigEndian   bool
	multiplexed bool // has socketcall and ipc
}

// The places of the multiplexers, the same on every architecture that has them.
const (
	socketcall = 102
	ipc        = 117
)

// archs are the architectures whose numbers are known, by name.
//
// x32 and 32-bit architectures have 32-bit arguments: filters compare the low words alone.
var archs = [...]arch{
	{name: specs.ArchAARCH64, audit: unix.AUDIT_ARCH_AARCH64, table: &numbersAARCH64, wide: true},
	{name: specs.ArchARM, audit: unix.AUDIT_ARCH_ARM, table: &numbersARM},
	{name: specs.ArchLOONGARCH64, audit: unix.AUDIT_ARCH_LOONGARCH64, table: &numbersLOONGARCH64, wide: true},
	{name: specs.ArchMIPS, audit: unix.AUDIT_ARCH_MIPS, base: 4000, table: &numbersMIPS, bigEndian: true, multiplexed: true},
	{name: specs.ArchMIPS64, audit: unix.AUDIT_ARCH_MIPS64, base: 5000, table: &numbersMIPS64, wide: true, bigEndian: true},
	{name: specs.ArchMIPSEL, audit: unix.AUDIT_ARCH_MIPSEL, base: 4000, table: &numbersMIPS, multiplexed: true},
	{name: specs.ArchMIPSEL64, audit: unix.AUDIT_ARCH_MIPSEL64, base: 5000, table: &numbersMIPS64, wide: true},
	{name: specs.ArchPPC, audit: unix.AUDIT_ARCH_PPC, table: &numbersPPC, bigEndian: true, multiplexed: true},
	{name: specs.ArchPPC64, audit: unix.AUDIT_ARCH_PPC64, table: &numbersPPC64, wide: true, bigEndian: true, multiplexed: true},
	{name: specs.ArchPPC64LE, audit: unix.AUDIT_ARCH_PPC64LE, table: &numbersPPC64, wide: true, multiplexed: true},
	{name: specs.ArchRISCV64, audit: unix.AUDIT_ARCH_RISCV64, table: &numbersRISCV64, wide: true},
	{name: specs.ArchS390X, audit: unix.AUDIT_ARCH_S390X, table: &numbersS390X, wide: true, bigEndian: true, multiplexed: true},
	{name: specs.ArchX32, audit: unix.AUDIT_ARCH_X86_64, base: x32Bit, table: &numbersX32},
	{name: specs.ArchX86, audit: unix.AUDIT_ARCH_I386, table: &numbersX86, multiplexed: true},
	{name: specs.ArchX86_64, audit: unix.AUDIT_ARCH_X86_64, table: &numbersX86_64, wide: true},
}

// Archs returns the values of "architectures" that Compile takes, sorted.
func Archs() []string {
	all := make([]string, len(archs))
	for i := range archs {
		all[i] = string(archs[i].name)
	}
	return all
}

// findArch returns the architecture of that name, or nil.
func findArch(name specs.Arch) *arch {
	for i := range archs {
		if archs[i].name == name {
			return &archs[i]
		}
	}
	return nil
}

// inSpec reports whether the runtime specification lists an architecture whose numbers are not known here.
func inSpec(name specs.Arch) bool {
	switch name {
	case specs.ArchMIPS64N32, specs.ArchMIPSEL64N32, specs.ArchS390, specs.ArchPARISC, specs.ArchPARISC64,
		specs.ArchM68K, specs.ArchSH, specs.ArchSHEB:
		return true
	}
	return false
}

// native returns the architecture of this program, or nil.
func native() *arch {
	switch runtime.GOARCH {
	case "386":
		return findArch(specs.ArchX86)
	case "amd64":
		return findArch(specs.ArchX86_64)
	case "arm":
		return findArch(specs.ArchARM)
	case "arm64":
		return findArch(specs.ArchAARCH64)
	case "loong64":
		return findArch(specs.ArchLOONGARCH64)
	case "mips":
		return findArch(specs.ArchMIPS)
	case "mips64":
		return findArch(specs.ArchMIPS64)
	case "mips64le":
		return findArch(specs.ArchMIPSEL64)
	case "mipsle":
		return findArch(specs.ArchMIPSEL)
	case "ppc64":
		return findArch(specs.ArchPPC64)
	case "ppc64le":
		return findArch(specs.ArchPPC64LE)
	case "riscv64":
		return findArch(specs.ArchRISCV64)
	case "s390x":
		return findArch(specs.ArchS390X)
	}
	return nil
}

// number returns the number, as seccomp_data.nr has it, of the call at a place of the table.
func (a *arch) number(place uint16) uint32 {
	if place >= armPrivate {
		return armPrivateBase + uint32(place-armPrivate)
	}
	return a.base + uint32(place)
}

// multiplexer returns the call that stands for another one and the value of its first argument that selects it.
func (a *arch) multiplexer(id uint16) (place uint16, selector uint64, ok bool) {
	m := multiplexed[id]
	switch {
	case !a.multiplexed || m == 0:
		return 0, 0, false
	case m&ipcBit != 0:
		return ipc, uint64(m &^ ipcBit), true
	default:
		return socketcall, uint64(m), true
	}
}

// callName returns the name with an id.
func callName(id uint16) string { return names[nameStart[id]:nameStart[id+1]] }

// lookup returns the id of the name of a system call. The search begins at hint: profiles are mostly sorted, so the id
// behind the last one is a good guess.
func lookup(name string, hint uint16) (id uint16, ok bool) {
	if hint < nameCount && callName(hint) == name {
		return hint, true
	}
	lo, hi := 0, nameCount
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if callName(uint16(mid)) < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == nameCount || callName(uint16(lo)) != name {
		return 0, false
	}
	return uint16(lo), true
}

// Number returns the number of a system call on an architecture, with x32's bit on x32.
func Number(name specs.Arch, call string) (number uint32, ok bool) {
	a := findArch(name)
	id, known := lookup(call, 0)
	if a == nil || !known || a.table[id] == none {
		return 0, false
	}
	return a.number(a.table[id]), true
}

// Names returns the names of all calls that an architecture known here has, sorted.
func Names() []string {
	all := make([]string, nameCount)
	for i := range all {
		all[i] = callName(uint16(i))
	}
	return all
}
