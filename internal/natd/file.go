package natd

import (
	"bytes"
	"net/netip"
	"strings"
)

// The host's files.
const (
	resolvConf = "/etc/resolv.conf"
	hostsFile  = "/etc/hosts"
)

// ResolvConf makes the container's resolv.conf of the host's: its search domains and options, and hull's resolver as the
// one name server.
func ResolvConf(host []byte, server netip.Addr) []byte {
	var out bytes.Buffer
	out.WriteString("nameserver " + server.String() + "\n")
	for line := range strings.Lines(string(host)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "search", "domain", "options", "sortlist":
			out.WriteString(strings.Join(fields, " ") + "\n")
		}
	}
	return out.Bytes()
}

// Hosts makes the container's hosts file of the host's: its own names and addresses, and the host's lines, except those
// that give names to addresses of the host itself.
func Hosts(host []byte, name string, own ...netip.Addr) []byte {
	var out bytes.Buffer
	out.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if name != "" {
		for _, a := range own {
			out.WriteString(a.String() + "\t" + name + "\n")
		}
	}
	for line := range strings.Lines(string(host)) {
		text, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		a, err := netip.ParseAddr(fields[0])
		if err != nil || a.Unmap().IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() {
			continue
		}
		out.WriteString(fields[0] + "\t" + strings.Join(fields[1:], " ") + "\n")
	}
	return out.Bytes()
}

// nameServers returns the name servers that a resolv.conf has: the loopback's if it has none (resolv.conf(5)).
func nameServers(conf []byte) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(string(conf)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	if servers == nil {
		servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	}
	return servers
}
