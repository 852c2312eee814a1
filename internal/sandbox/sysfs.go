package sandbox

import (
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// withOwnSys returns the configuration with the kernel's own sysfs where one has the host's bound to /sys, read-only: so engines do
// that can't mount one, as ordinary users whose container has the host's network. Another kernel's would say nothing of this one.
func withOwnSys(s *specs.Spec) *specs.Spec {
	at := slices.IndexFunc(s.Mounts, bindsSys)
	if at < 0 {
		return s
	}
	own := *s
	own.Mounts = slices.Clone(s.Mounts)
	for i := at; i < len(own.Mounts); i++ {
		if m := &own.Mounts[i]; bindsSys(*m) {
			m.Type, m.Source = "sysfs", "sysfs"
			m.Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool {
				// Those of propagation were checked: private is the only one there is.
				return o == "bind" || o == "rbind" || strings.HasSuffix(o, "private")
			})
		}
	}
	return &own
}

// bindsSys tells whether a mount is the host's sysfs, all of it and at its place.
func bindsSys(m specs.Mount) bool {
	if filepath.Clean("/"+m.Destination) != "/sys" || filepath.Clean(m.Source) != "/sys" || !slices.Contains(m.Options, "ro") ||
		!slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
		return false
	}
	var st unix.Statfs_t
	return unix.Statfs(m.Source, &st) == nil && uint32(st.Type) == unix.SYSFS_MAGIC
}
