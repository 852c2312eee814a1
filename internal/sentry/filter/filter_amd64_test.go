package filter

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest/golden"
	"hull/internal/seccomp"
)

// lines returns what a profile allows, sorted.
func lines(p *specs.LinuxSeccomp) string {
	var list []string
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			var b strings.Builder
			b.WriteString(name)
			for _, a := range s.Args {
				value := fmt.Sprintf("%#x", a.Value)
				if a.Value == uint64(os.Getpid()) {
					value = "PID"
				}
				if a.Op == specs.OpMaskedEqual {
					fmt.Fprintf(&b, " %d&%s==%#x", a.Index, value, a.ValueTwo)
				} else {
					fmt.Fprintf(&b, " %d==%s", a.Index, value)
				}
			}
			if s.Action != specs.ActAllow {
				fmt.Fprintf(&b, " %s", s.Action)
			}
			list = append(list, b.String())
		}
	}
	slices.Sort(list)
	return strings.Join(slices.Compact(list), "\n") + "\n"
}

// What a filter allows is widened on purpose, or not at all: what one platform needs is not allowed for the other.
func TestProfiles(t *testing.T) {
	for name, p := range map[string]Process{"systrap": {}, "kvm": {KVM: true}} {
		golden.Compare(t, "testdata/"+name+".txt", lines(p.profile()))
	}
}

// A kernel that runs in a machine of KVM's runs that one, and makes nothing new by it; nor has it helpers.
func TestKVM(t *testing.T) {
	f, err := Compile(Process{KVM: true})
	if err != nil {
		t.Fatal(err)
	}
	if !f.program.Allows(^uint32(0)) {
		t.Error("the call -1, by which the kernel leaves the machine, is not allowed")
	}
	other, err := Compile(Process{})
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]uint64{
		"KVM_RUN": 0xae80, "KVM_NMI": 0xae9a, "KVM_INTERRUPT": 0x4004ae86, "KVM_SET_USER_MEMORY_REGION": 0x4020ae46,
		"KVM_GET_REGS": 0x8090ae81, "KVM_SET_REGS": 0x4090ae82,
	}
	refused := map[string]uint64{
		"KVM_GET_API_VERSION": 0xae00, "KVM_CREATE_VM": 0xae01, "KVM_CHECK_EXTENSION": 0xae03, "KVM_CREATE_VCPU": 0xae41,
		"KVM_SET_TSS_ADDR": 0xae47, "KVM_CREATE_IRQCHIP": 0xae60, "KVM_IRQFD": 0x4020ae76, "KVM_IOEVENTFD": 0x4040ae79,
		"KVM_CREATE_PIT2": 0x4040ae77, "KVM_SET_GSI_ROUTING": 0x4008ae6a, "KVM_CREATE_DEVICE": 0xc00caee0, "KVM_SET_DEVICE_ATTR": 0x4018aee1,
		"KVM_SET_SREGS": 0x4138ae84, "KVM_GET_SREGS": 0x8138ae83, "KVM_SET_MSRS": 0x4008ae89, "KVM_SET_CPUID2": 0x4008ae90,
		"KVM_SET_SIGNAL_MASK": 0x4004ae8b, "KVM_SET_FPU": 0x41a0ae8d, "KVM_SET_LAPIC": 0x4400ae8f, "KVM_SET_GUEST_DEBUG": 0x4048ae9b,
		"KVM_SET_NESTED_STATE": 0x4080aebf, "KVM_ENABLE_CAP": 0x4068aea3, "KVM_MEMORY_ENCRYPT_OP": 0xc008aeba, "KVM_SMI": 0xaeb7,
		"KVM_SET_USER_MEMORY_REGION2": 0x40a0ae49, "KVM_CREATE_GUEST_MEMFD": 0xc040aed4, "KVM_GET_DIRTY_LOG": 0x4010ae42,
	}
	for name, request := range allowed {
		if !f.program.Allows(unix.SYS_IOCTL, 5, request, 0) {
			t.Errorf("%s is not allowed", name)
		}
		refused[name+" under systrap"] = request
	}
	for name, request := range refused {
		p := f
		if strings.HasSuffix(name, " under systrap") {
			p = other
		}
		if p.program.Allows(unix.SYS_IOCTL, 5, request, 0) {
			t.Errorf("%s is allowed", name)
		}
	}
	if f.program.Allows(unix.SYS_IOCTL, 5, allowed["KVM_RUN"], 1) {
		t.Error("KVM_RUN is allowed with an argument")
	}
	for _, call := range []string{"ptrace", "wait4", "waitid", "rt_tgsigqueueinfo", "setpriority"} {
		nr, ok := seccomp.Number(specs.ArchX86_64, call)
		if !ok {
			t.Fatal(call)
		}
		for _, a := range []uint64{0, 1, uint64(os.Getpid()), unix.PTRACE_CONT} {
			if f.program.Allows(nr, a, a) {
				t.Errorf("%s is allowed, which is for helpers", call)
			}
		}
	}
	if other.program.Allows(unix.SYS_MMAP, 0, 4096, 3, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_DENYWRITE) {
		t.Error("what a handler of KVM's maps is allowed under systrap")
	}
	if other.program.Allows(^uint32(0)) {
		t.Error("the call -1 is allowed under systrap")
	}
}
