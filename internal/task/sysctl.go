package task

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Sysctl is a kernel parameter that belongs to a namespace.
type Sysctl struct {
	Path      string                   // below /proc/sys, such as "net/ipv4/ip_forward"
	Namespace specs.LinuxNamespaceType // which must be the container's own, or the host's value would change
}

// ParseSysctl returns the parameter with that key in linux.sysctl. As in sysctl(8), the separator that comes first
// separates and the other one stands for itself exchanged: "net.ipv4.conf.eno2/100.rp_filter" and
// "net/ipv4/conf/eno2.100/rp_filter" are the same. A parameter that no namespace has of its own is refused.
func ParseSysctl(name string) (Sysctl, error) {
	field := fmt.Sprintf("linux.sysctl %q", name)
	path := sysctlPath(name)
	if why := checkSysctlPath(path); why != "" {
		return Sysctl{}, problem(field, "%s", why)
	}
	if path == "kernel/hostname" {
		return Sysctl{}, problem(field, "set hostname instead")
	}
	ns, ok := sysctlNamespace(path)
	if !ok {
		return Sysctl{}, problem(field, "not namespaced: it would change the host")
	}
	return Sysctl{path, ns}, nil
}

// sysctlPath brings name into its form with slashes.
func sysctlPath(name string) string {
	i := strings.IndexAny(name, "./")
	if i < 0 || name[i] == '/' {
		return name
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, name)
}

// checkSysctlPath says what is wrong with a path that is to stay below /proc/sys. The file is opened below a verified
// procfs that follows no links, so this isn't what holds an attacker; it is what gives a mistake its name.
func checkSysctlPath(path string) string {
	if path == "" {
		return "the name is empty"
	}
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "":
			return "the name has an empty part"
		case part == "." || part == "..":
			return fmt.Sprintf("the name has the part %q", part)
		}
	}
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "the name has a control character"
	}
	return ""
}

// sysctlNamespace returns the type of the namespaces that have path of their own. Below net, what isn't namespaced is
// there only in the initial network namespace, so a container can't reach it.
func sysctlNamespace(path string) (specs.LinuxNamespaceType, bool) {
	dir, _, _ := strings.Cut(path, "/")
	switch {
	case dir == "net":
		return specs.NetworkNamespace, true
	case dir == "user":
		// The ucounts of user_namespaces(7). The host's limit what the whole host may create.
		return specs.UserNamespace, true
	case strings.HasPrefix(path, "fs/mqueue/"):
		return specs.IPCNamespace, true
	}
	switch path {
	case "kernel/domainname":
		return specs.UTSNamespace, true
	case "kernel/auto_msgmni", "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/msg_next_id",
		"kernel/sem", "kernel/sem_next_id",
		"kernel/shmall", "kernel/shmmax", "kernel/shmmni", "kernel/shm_next_id", "kernel/shm_rmid_forced":
		return specs.IPCNamespace, true // ipc/ipc_sysctl.c
	}
	return "", false
}
