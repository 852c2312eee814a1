package wire

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Sysctl is a setting of a sandbox's kernel, by the name that linux.sysctl gives it.
type Sysctl struct {
	Name    string
	Numbers []int
}

// setting is what a Sysctl's numbers can be.
type setting struct {
	count, min, max int
	ascending       bool
}

// Settings that a sandbox's kernel really has, all of its network.
const (
	LocalPortRange = "net.ipv4.ip_local_port_range"
	TCPRecovery    = "net.ipv4.tcp_recovery"
	TCPReceive     = "net.ipv4.tcp_rmem"
	TCPSACK        = "net.ipv4.tcp_sack"
	TCPSend        = "net.ipv4.tcp_wmem"
)

// Domainname is of the UTS namespace.
const Domainname = "kernel.domainname"

// maxBuffer bounds the buffers of connections, in bytes.
const maxBuffer = 1<<31 - 1

var settings = map[string]setting{
	LocalPortRange: {count: 2, min: 1, max: 65535, ascending: true},
	TCPRecovery:    {count: 1, max: 7},
	TCPReceive:     {count: 3, min: 1, max: maxBuffer, ascending: true},
	TCPSACK:        {count: 1, max: 1},
	TCPSend:        {count: 3, min: 1, max: maxBuffer, ascending: true},
}

// ParseSysctl returns a setting. ok is false if the kernel has none of the name.
func ParseSysctl(name, value string) (s Sysctl, ok bool, err error) {
	name = strings.ReplaceAll(name, "/", ".")
	want, ok := settings[name]
	if !ok {
		return s, false, nil
	}
	s.Name = name
	words := strings.Fields(value)
	for _, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil || n < want.min || n > want.max {
			return s, true, fmt.Errorf("%q: want a number from %d to %d", w, want.min, want.max)
		}
		s.Numbers = append(s.Numbers, n)
	}
	if len(words) != want.count {
		return s, true, fmt.Errorf("%q: want %d numbers", value, want.count)
	}
	if want.ascending && !slices.IsSorted(s.Numbers) {
		return s, true, fmt.Errorf("%q: want numbers that ascend", value)
	}
	return s, true, nil
}

// Sysctls returns the settings among those of a configuration, in the order of their names. Others are left out.
func Sysctls(all map[string]string) (list []Sysctl, err error) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s, ok, err := ParseSysctl(name, all[name])
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, s)
		}
	}
	return list, nil
}
