// Package caps turns the capabilities of config.json into what capset(2) and prctl(2) take.
//
// Everything but Last and Supported is pure. Names are those of capabilities(7), exactly: upper-case with the prefix
// CAP_. A name that is unknown here, or unknown to the kernel, is the caller's to report as a warning: since version
// 1.1 of the runtime-spec (config.md, "Linux Process") it isn't a mistake that stops a container.
package caps

import (
	"encoding/binary"
	"math/bits"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/typo"
)

// names holds the names of capabilities(7) without their prefix, by number (include/uapi/linux/capability.h).
var names = [unix.CAP_LAST_CAP + 1]string{
	unix.CAP_CHOWN:              "CHOWN",
	unix.CAP_DAC_OVERRIDE:       "DAC_OVERRIDE",
	unix.CAP_DAC_READ_SEARCH:    "DAC_READ_SEARCH",
	unix.CAP_FOWNER:             "FOWNER",
	unix.CAP_FSETID:             "FSETID",
	unix.CAP_KILL:               "KILL",
	unix.CAP_SETGID:             "SETGID",
	unix.CAP_SETUID:             "SETUID",
	unix.CAP_SETPCAP:            "SETPCAP",
	unix.CAP_LINUX_IMMUTABLE:    "LINUX_IMMUTABLE",
	unix.CAP_NET_BIND_SERVICE:   "NET_BIND_SERVICE",
	unix.CAP_NET_BROADCAST:      "NET_BROADCAST",
	unix.CAP_NET_ADMIN:          "NET_ADMIN",
	unix.CAP_NET_RAW:            "NET_RAW",
	unix.CAP_IPC_LOCK:           "IPC_LOCK",
	unix.CAP_IPC_OWNER:          "IPC_OWNER",
	unix.CAP_SYS_MODULE:         "SYS_MODULE",
	unix.CAP_SYS_RAWIO:          "SYS_RAWIO",
	unix.CAP_SYS_CHROOT:         "SYS_CHROOT",
	unix.CAP_SYS_PTRACE:         "SYS_PTRACE",
	unix.CAP_SYS_PACCT:          "SYS_PACCT",
	unix.CAP_SYS_ADMIN:          "SYS_ADMIN",
	unix.CAP_SYS_BOOT:           "SYS_BOOT",
	unix.CAP_SYS_NICE:           "SYS_NICE",
	unix.CAP_SYS_RESOURCE:       "SYS_RESOURCE",
	unix.CAP_SYS_TIME:           "SYS_TIME",
	unix.CAP_SYS_TTY_CONFIG:     "SYS_TTY_CONFIG",
	unix.CAP_MKNOD:              "MKNOD",
	unix.CAP_LEASE:              "LEASE",
	unix.CAP_AUDIT_WRITE:        "AUDIT_WRITE",
	unix.CAP_AUDIT_CONTROL:      "AUDIT_CONTROL",
	unix.CAP_SETFCAP:            "SETFCAP",
	unix.CAP_MAC_OVERRIDE:       "MAC_OVERRIDE",
	unix.CAP_MAC_ADMIN:          "MAC_ADMIN",
	unix.CAP_SYSLOG:             "SYSLOG",
	unix.CAP_WAKE_ALARM:         "WAKE_ALARM",
	unix.CAP_BLOCK_SUSPEND:      "BLOCK_SUSPEND",
	unix.CAP_AUDIT_READ:         "AUDIT_READ",
	unix.CAP_PERFMON:            "PERFMON",
	unix.CAP_BPF:                "BPF",
	unix.CAP_CHECKPOINT_RESTORE: "CHECKPOINT_RESTORE",
}

const prefix = "CAP_"

// Number returns the number of a capability, and false if hull has no such name.
func Number(name string) (int, bool) {
	bare, ok := strings.CutPrefix(name, prefix)
	if !ok || bare == "" {
		return 0, false
	}
	for n, s := range names {
		if s == bare {
			return n, true
		}
	}
	return 0, false
}

// Set is a set of capabilities: bit n stands for capability number n.
type Set uint64

// Of returns the set of the given numbers.
func Of(numbers ...int) Set {
	var s Set
	for _, n := range numbers {
		s |= 1 << n
	}
	return s
}

// Parse returns the set of the names that are known, and the others in their order.
func Parse(names []string) (s Set, unknown []string) {
	for _, name := range names {
		n, ok := Number(name)
		if !ok {
			unknown = append(unknown, name)
			continue
		}
		s |= Of(n)
	}
	return s, unknown
}

// Has tells whether capability number n is in s.
func (s Set) Has(n int) bool { return n >= 0 && n < 64 && s&Of(n) != 0 }

// Names returns the names of the capabilities in s, by number. One that is newer than hull has no name and is left out.
func (s Set) Names() []string {
	out := make([]string, 0, bits.OnesCount64(uint64(s)))
	for n, name := range names {
		if s.Has(n) {
			out = append(out, prefix+name)
		}
	}
	return out
}

// String returns the names separated by commas.
func (s Set) String() string { return strings.Join(s.Names(), ",") }

// Meant returns the name of the capability that is meant by one that doesn't exist, if it is written nearly so; or "". Case and a
// missing CAP_ are such slips.
func Meant(name string) string {
	bare := strings.TrimPrefix(strings.ToUpper(name), prefix)
	if meant := typo.Nearest(bare, names[:]); meant != "" {
		return prefix + meant
	}
	return ""
}

// Hint says of a name that is none how it is written, or where to look.
func Hint(name string) string {
	const where = "capabilities(7) lists them"
	if meant := Meant(name); meant != "" {
		return "did you mean " + meant + "? " + where
	}
	return where
}

// Names returns the names of all capabilities that hull knows, by number, whatever the kernel has.
func Names() []string { return upTo(unix.CAP_LAST_CAP).Names() }

// upTo returns the set of all capabilities with a number of at most last.
func upTo(last int) Set {
	if last >= 63 {
		return ^Set(0)
	}
	return Of(last+1) - 1
}

// Sets are the five capability sets of a thread (capabilities(7), "Thread capability sets").
type Sets struct {
	Bounding, Effective, Inheritable, Permitted, Ambient Set
}

// FromSpec returns the sets of process.capabilities, where nil means none at all, and the names in it that hull
// doesn't know, each once.
func FromSpec(c *specs.LinuxCapabilities) (Sets, []string) {
	if c == nil {
		return Sets{}, nil
	}
	var u unknowns
	s := Sets{
		Bounding:    u.parse(c.Bounding),
		Effective:   u.parse(c.Effective),
		Inheritable: u.parse(c.Inheritable),
		Permitted:   u.parse(c.Permitted),
		Ambient:     u.parse(c.Ambient),
	}
	return s, u
}

// unknowns collects names, each once: a profile usually repeats one name in several sets.
type unknowns []string

func (u *unknowns) parse(names []string) Set {
	s, unknown := Parse(names)
next:
	for _, name := range unknown {
		for _, seen := range *u {
			if seen == name {
				continue next
			}
		}
		*u = append(*u, name)
	}
	return s
}

// Within returns s with each set cut down to those in limit, and what was cut from any of them. With limit = Supported()
// it leaves what capset(2) and prctl(2) of this kernel can be asked for: they answer EINVAL to a number they don't know.
func (s Sets) Within(limit Set) (Sets, Set) {
	cut := (s.Bounding | s.Effective | s.Inheritable | s.Permitted | s.Ambient) &^ limit
	return Sets{
		Bounding:    s.Bounding & limit,
		Effective:   s.Effective & limit,
		Inheritable: s.Inheritable & limit,
		Permitted:   s.Permitted & limit,
		Ambient:     s.Ambient & limit,
	}, cut
}

// HeaderSize and DataSize are the sizes of what capset(2) takes.
const (
	HeaderSize = 8
	DataSize   = 24
)

// Header returns the cap_user_header_t of version 3 that names the calling thread.
func (s Sets) Header() [HeaderSize]byte {
	var b [HeaderSize]byte
	binary.NativeEndian.PutUint32(b[:], unix.LINUX_CAPABILITY_VERSION_3)
	return b // pid 0
}

// Data returns the cap_user_data_t[2] of version 3: effective, permitted and inheritable, of capabilities 0 to 31 first,
// then of 32 to 63. The bounding and the ambient set are prctl(2)'s.
func (s Sets) Data() [DataSize]byte {
	var b [DataSize]byte
	for i, set := range [...]Set{s.Effective, s.Permitted, s.Inheritable} {
		binary.NativeEndian.PutUint32(b[4*i:], uint32(set))
		binary.NativeEndian.PutUint32(b[4*i+12:], uint32(set>>32))
	}
	return b
}

// Effective returns what the caller's thread has.
func Effective() Set {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0
	}
	return Set(data[0].Effective) | Set(data[1].Effective)<<32
}
