package task

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSysctl(t *testing.T) {
	for in, want := range map[string]Sysctl{
		"net.ipv4.ip_forward":                 {"net/ipv4/ip_forward", "network"},
		"net/ipv4/ip_forward":                 {"net/ipv4/ip_forward", "network"},
		"net.ipv4.conf.eno2/100.rp_filter":    {"net/ipv4/conf/eno2.100/rp_filter", "network"},
		"net/ipv4/conf/eno2.100/rp_filter":    {"net/ipv4/conf/eno2.100/rp_filter", "network"},
		"kernel.domainname":                   {"kernel/domainname", "uts"},
		"kernel/shm_rmid_forced":              {"kernel/shm_rmid_forced", "ipc"},
		"kernel.sem":                          {"kernel/sem", "ipc"},
		"fs.mqueue.msg_max":                   {"fs/mqueue/msg_max", "ipc"},
		"user.max_user_namespaces":            {"user/max_user_namespaces", "user"},
		"net.ipv4.conf.a/b/c.arp_ignore":      {"net/ipv4/conf/a.b.c/arp_ignore", "network"},
		"kernel.msgmax":                       {"kernel/msgmax", "ipc"},
		"net.core.somaxconn":                  {"net/core/somaxconn", "network"},
		"net/ipv6/conf/all/disable_ipv6":      {"net/ipv6/conf/all/disable_ipv6", "network"},
		"net.netfilter.nf_conntrack_max":      {"net/netfilter/nf_conntrack_max", "network"},
		"kernel.shm_next_id":                  {"kernel/shm_next_id", "ipc"},
		"net.ipv4.neigh.default.gc_thresh1":   {"net/ipv4/neigh/default/gc_thresh1", "network"},
		"fs/mqueue/queues_max":                {"fs/mqueue/queues_max", "ipc"},
		"kernel/msg_next_id":                  {"kernel/msg_next_id", "ipc"},
		"net.ipv4.ip_unprivileged_port_start": {"net/ipv4/ip_unprivileged_port_start", "network"},
	} {
		got, err := ParseSysctl(in)
		checkErr(t, err, "")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("ParseSysctl(%q) (-want +got):\n%s", in, diff)
		}
	}
}

func TestParseSysctlErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                           `linux.sysctl "": the name is empty`,
		"/net/ipv4/ip_forward":       `linux.sysctl "/net/ipv4/ip_forward": the name has an empty part`,
		".net.ipv4":                  `linux.sysctl ".net.ipv4": the name has an empty part`,
		"net..ipv4":                  `linux.sysctl "net..ipv4": the name has an empty part`,
		"net/":                       `linux.sysctl "net/": the name has an empty part`,
		"net/../kernel/core_pattern": `linux.sysctl "net/../kernel/core_pattern": the name has the part ".."`,
		"net.//.kernel.core_pattern": `linux.sysctl "net.//.kernel.core_pattern": the name has the part ".."`,
		"net/./ipv4":                 `linux.sysctl "net/./ipv4": the name has the part "."`,
		"net.ipv4\x00":               `linux.sysctl "net.ipv4\x00": the name has a control character`,
		"kernel.hostname":            `linux.sysctl "kernel.hostname": set hostname instead`,
		"kernel.core_pattern":        `linux.sysctl "kernel.core_pattern": not namespaced: it would change the host`,
		"kernel.shmmax.x":            `linux.sysctl "kernel.shmmax.x": not namespaced: it would change the host`,
		"fs.mqueue":                  `linux.sysctl "fs.mqueue": not namespaced: it would change the host`,
		"fs.file-max":                `linux.sysctl "fs.file-max": not namespaced: it would change the host`,
		"vm.swappiness":              `linux.sysctl "vm.swappiness": not namespaced: it would change the host`,
		"nets.ipv4":                  `linux.sysctl "nets.ipv4": not namespaced: it would change the host`,
	} {
		_, err := ParseSysctl(in)
		checkErr(t, err, want)
	}
}

func FuzzParseSysctl(f *testing.F) {
	for _, s := range []string{"net.ipv4.ip_forward", "net/../x", "net.//.x", "kernel.sem"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		s, err := ParseSysctl(name)
		if err != nil {
			return
		}
		if !filepath.IsLocal(s.Path) || filepath.Clean(s.Path) != s.Path || strings.ContainsRune(s.Path, 0) || s.Namespace == "" {
			t.Errorf("ParseSysctl(%q) = %+v", name, s)
		}
	})
}
