package nat

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"hull/internal/fault"
)

// A Port is a port of the host that leads into the container: --publish.
type Port struct {
	Host      string // address of the host's; "" is 127.0.0.1
	HostPort  uint16
	Container uint16
}

// A Rule lets the container reach a host: --allow.
type Rule struct {
	Host string // a name, *.name, an address, or a prefix ADDRESS/BITS
	Port uint16 // 0 is any
}

// ParsePort reads [HOST:]PORT:PORT. An IPv6 address stands in brackets.
func ParsePort(s string) (Port, error) {
	rest, inside, ok := cutLast(s)
	if !ok {
		return Port{}, mistake("publish", s, "want [HOST:]PORT:PORT")
	}
	var p Port
	outside := rest
	if host, port, ok := cutLast(rest); ok {
		p.Host, outside = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), port
		if problem := checkAddress(p.Host, false); problem != "" {
			return Port{}, mistake("publish", s, problem)
		}
	}
	var err error
	if p.HostPort, err = parsePort(outside); err != nil {
		return Port{}, mistake("publish", s, err.Error())
	}
	if p.Container, err = parsePort(inside); err != nil {
		return Port{}, mistake("publish", s, err.Error())
	}
	return p, nil
}

// ParseRule reads HOST[:PORT]. An IPv6 address with a port stands in brackets.
func ParseRule(s string) (Rule, error) {
	r := Rule{Host: s}
	switch {
	case strings.Contains(s, "://"):
		return Rule{}, mistake("allow", s, "want HOST or HOST:PORT, which a URL is not")
	case strings.HasPrefix(s, "["):
		host, rest, ok := strings.Cut(s[1:], "]")
		if !ok {
			return Rule{}, mistake("allow", s, "a ] is missing")
		}
		r.Host = host
		if rest != "" {
			port, err := parsePort(strings.TrimPrefix(rest, ":"))
			if err != nil || rest[0] != ':' {
				return Rule{}, mistake("allow", s, "want [ADDRESS]:PORT")
			}
			r.Port = port
		}
	case strings.Count(s, ":") == 1:
		host, port, _ := strings.Cut(s, ":")
		var err error
		if r.Port, err = parsePort(port); err != nil {
			return Rule{}, mistake("allow", s, err.Error())
		}
		r.Host = host
	}
	r.Host = strings.ToLower(strings.TrimSuffix(r.Host, "."))
	if address(r.Host) {
		if problem := checkAddress(r.Host, true); problem != "" {
			return Rule{}, mistake("allow", s, problem)
		}
	} else if !hostName(strings.TrimPrefix(r.Host, "*.")) {
		return Rule{}, mistake("allow", s, "neither a host's name nor an address")
	}
	return r, nil
}

// Loopback tells whether the rule is for what is the container's own by any name that it has, and never the host's.
func (r Rule) Loopback() bool {
	return r.Host == "localhost" || strings.HasSuffix(r.Host, ".localhost") || r.Host == "::1" || strings.HasPrefix(r.Host, "127.") && address(r.Host)
}

// CheckIP refuses what can't be the container's address. That nobody else has it is checked by Start.
func CheckIP(s string) error {
	ip, err := netip.ParseAddr(s)
	if err != nil || !ip.Is4() {
		return mistake("ip", s, "want an IPv4 address")
	}
	n := ip.As4()
	switch {
	case n[3] == 0 || n[3] == 255:
		return mistake("ip", s, "the last number is that of a network or of a broadcast")
	case n[0] == 0 || n[0] == 127 || n[0] >= 224 || n[0] == 169 && n[1] == 254:
		return mistake("ip", s, "not an address that a container can have")
	}
	return nil
}

func mistake(what, value, problem string) error {
	return &fault.Error{Step: what + " " + strconv.Quote(value), Kind: fault.BadUsage, Err: errors.New(problem)}
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.HasSuffix(s, "]") {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' {
		return 0, errors.New(strconv.Quote(s) + " is not a port, 1 to 65535")
	}
	return uint16(n), nil
}

// checkAddress says what is wrong with an address, or where there may be some with a prefix of addresses; or "".
func checkAddress(s string, prefix bool) string {
	host, _, ranged := strings.Cut(s, "/")
	if ranged && !prefix {
		return strconv.Quote(s) + " is not an address"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" {
		return strconv.Quote(host) + " is not an address"
	}
	if _, err := netip.ParsePrefix(s); ranged && err != nil {
		return strconv.Quote(s) + " is not a network: want 0 to " + strconv.Itoa(ip.BitLen()) + " behind /"
	}
	return ""
}

// address tells whether s looks like an address or a prefix of addresses.
func address(s string) bool {
	if strings.Contains(s, ":") {
		return strings.Trim(s, "0123456789abcdefABCDEF:./") == ""
	}
	return s != "" && strings.Trim(s, "0123456789./") == ""
}

// hostName tells whether s has the form of RFC 1123, section 2.1, with underscores.
func hostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && c < 0x80 {
				return false
			}
		}
	}
	return true
}
