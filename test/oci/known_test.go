package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// excuse is why a program may fail without the runtime being at fault.
type excuse struct {
	reason string
	racy   bool        // passes now and then, with any runtime
	when   func() bool // on machines where this holds; nil: everywhere
}

func (e excuse) applies() bool { return e.reason != "" && (e.when == nil || e.when()) }

// known are the programs that fail, and why. Sections are those of the runtime-spec 1.3.0.
var known = map[string]excuse{
	// Programs that are broken or contradict the specification.
	"delete": {reason: "wants delete of a created container refused; engines delete such containers, so runtimes allow it"},
	"hooks": {reason: "compares with text that its own hooks don't write (post-start1 for post-start1 called), " +
		"and looks for the file after the bundle is gone"},
	"misc_props":      {reason: "runs /runtimetest, which it doesn't put into the bundle"},
	"pidfile":         {reason: "kills a container that ran true and ended, and wants that to succeed", racy: true},
	"poststart_fail":  {reason: "wants a failing poststart hook ignored; runtime.md, Lifecycle, step 9: an error that stops the container"},
	"poststart":       {reason: "compares the order in which two programs write to one file; they run at the same time", racy: true},
	"prestart":        {reason: "wants prestart hooks run by start; runtime.md, Lifecycle, step 3: during create"},
	"process_rlimits": {reason: "sets RLIMIT_NOFILE's soft limit to 3000 of 4000, and its own Go runtime raises the soft limit to the hard one"},
	"process_capabilities_fail": {reason: "wants an unknown capability refused; config.md, Linux Process: since 1.1 " +
		"a runtime that can't grant one logs a warning"},
	"start": {reason: "wants start of a container without a process to succeed; runtime.md, Start: MUST generate an error"},

	// Programs that want what the machine may lack.
	"linux_uid_mappings": {reason: "takes the order in which Linux 6.8 and later list mounts for that of mounting: the parent makes " +
		"the /dev of a user namespace, for its devices, before the rest is mounted, and Linux 6.15 was the first that copies such a mount",
		racy: true, when: before(6, 15)},
	"linux_cgroups_blkio":          {reason: "wants blkio.leaf_weight", when: lacksFile("/sys/fs/cgroup/blkio/blkio.leaf_weight")},
	"linux_cgroups_relative_blkio": {reason: "wants blkio.leaf_weight", when: lacksFile("/sys/fs/cgroup/blkio/blkio.leaf_weight")},
	"linux_cgroups_hugetlb": {reason: "wants hugetlb as a v1 hierarchy, which Linux refuses while v2 has a group with it",
		when: lacksFile("/sys/fs/cgroup/hugetlb/tasks")},
	"linux_cgroups_relative_hugetlb": {reason: "as linux_cgroups_hugetlb", when: lacksFile("/sys/fs/cgroup/hugetlb/tasks")},
	"linux_cgroups_memory":           {reason: "wants a limit of kernel memory, which Linux 5.16 ended", when: lacksKmem},
	"linux_cgroups_relative_memory":  {reason: "wants a limit of kernel memory, which Linux 5.16 ended", when: lacksKmem},
	"linux_process_apparmor_profile": {reason: "wants AppArmor", when: lacksFile("/sys/module/apparmor")},
	"process_capabilities":           {reason: "wants every capability; this process has no CAP_SYS_RESOURCE", when: lacksSysResource},
}

func before(major, minor int) func() bool {
	return func() bool {
		release, err := os.ReadFile("/proc/sys/kernel/osrelease")
		var x, y int
		if n, _ := fmt.Sscanf(string(release), "%d.%d", &x, &y); err != nil || n != 2 {
			return false
		}
		return x < major || x == major && y < minor
	}
}

func lacksFile(name string) func() bool {
	return func() bool {
		_, err := os.Stat(name)
		return errors.Is(err, fs.ErrNotExist)
	}
}

// lacksKmem reports whether a limit of kernel memory can't be set. Since Linux 5.16 writes to the file
// do not limit anything, and depending on the version are ignored or refused.
func lacksKmem() bool {
	const dir = "/sys/fs/cgroup/memory/hull-oci-kmem"
	if err := os.Mkdir(dir, 0o755); err != nil {
		return true
	}
	defer os.Remove(dir)
	const limit = "50593792"
	file := dir + "/memory.kmem.limit_in_bytes"
	if err := os.WriteFile(file, []byte(limit), 0); err != nil {
		return true
	}
	data, err := os.ReadFile(file)
	return err != nil || strings.TrimSpace(string(data)) != limit
}

// lacksSysResource reads this process' bounding set: proc_pid_status(5).
func lacksSysResource() bool {
	const capSysResource = 24 // linux/capability.h
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(data), "\nCapBnd:")
	word, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	set, err := strconv.ParseUint(word, 16, 64)
	return err != nil || set&(1<<capSysResource) == 0
}
