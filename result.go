package hull

import "time"

// Result is what is known of a program over the host's files that has ended.
type Result struct {
	// TimedOut says that it ran until Limits.Time.
	TimedOut bool
	// OOMKilled is how many of its processes the kernel has killed for want of memory, if Limits.Memory is set and a cgroup
	// could be had.
	OOMKilled uint64
	// OverLimit says that it was Limits.Memory that they came up against, not what bounds the caller, or the machine's.
	OverLimit bool
	// AddressSpace says that Limits.Memory bounded the address space of each process, for want of a cgroup.
	AddressSpace bool
	// Wall is the time from its start to its end.
	Wall time.Duration
	// User and System are processor time: of the program and of the descendants that were waited for.
	User, System time.Duration
	// MaxRSS is the largest resident set of one of these processes, in bytes.
	MaxRSS int64
	// PeakMemory is the most memory that all processes have used together, in bytes, page cache included; 0 if it isn't
	// known. It is where OOMKilled is.
	PeakMemory uint64
	// NetworkPath says, with NetworkNAT, what its packets went by: "veth", "tap", "veth for IPv4, tap for IPv6", "tap for
	// IPv4, veth for IPv6" or, in a sandbox, "socket".
	NetworkPath string
	// Refused is what the program wanted to reach over NetworkNAT, and was not allowed to. RefusedMore are others, when there
	// were too many different ones to remember.
	Refused     []NetworkRefusal
	RefusedMore int
}
