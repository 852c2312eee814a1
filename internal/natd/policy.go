package natd

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"hull/internal/nat"
)

const (
	// maxRefusals bounds what is remembered of refusals, and maxPins the addresses that names have: the container chooses
	// how many there are.
	maxRefusals = 100
	maxPins     = 4096
	// minPin is for how long a name's address may be reached at least: programs resolve first and connect later.
	minPin = time.Minute
)

// policy decides what the container may reach, and remembers what it may not.
type policy struct {
	isLocal  func(netip.Addr) bool
	limited  bool // only what rules allow
	names    map[string][]uint16
	prefixes []prefixRule

	mu      sync.Mutex
	pins    map[netip.Addr]pin
	refused map[nat.Refusal]int
	more    int
}

type prefixRule struct {
	prefix netip.Prefix
	port   uint16 // 0 is any
}

// pin is an address that the resolver has handed out for an allowed name.
type pin struct {
	name  string
	ports []uint16
	until time.Time
}

func newPolicy(rules []nat.Rule, isLocal func(netip.Addr) bool) (*policy, error) {
	p := &policy{
		isLocal: isLocal,
		limited: len(rules) > 0,
		names:   map[string][]uint16{},
		pins:    map[netip.Addr]pin{},
		refused: map[nat.Refusal]int{},
	}
	for _, r := range rules {
		if prefix, err := netip.ParsePrefix(r.Host); err == nil {
			p.prefixes = append(p.prefixes, prefixRule{prefix.Masked(), r.Port})
		} else if a, err := netip.ParseAddr(r.Host); err == nil {
			if a.Zone() != "" || a.Is4In6() {
				return nil, fmt.Errorf("allow %s: not an address that can be reached", r.Host)
			}
			p.prefixes = append(p.prefixes, prefixRule{netip.PrefixFrom(a, a.BitLen()), r.Port})
		} else if strings.Trim(r.Host, "0123456789./:") == "" {
			return nil, fmt.Errorf("allow %s: not an address", r.Host)
		} else {
			p.names[r.Host] = append(p.names[r.Host], r.Port)
		}
	}
	return p, nil
}

// permit tells whether the container may send to an address, and notes it if not. Port 0 is a protocol without ports.
func (p *policy) permit(proto string, to netip.AddrPort) bool {
	a := to.Addr()
	if p.allowed(a, to.Port()) {
		return true
	}
	host := a.String()
	p.mu.Lock()
	if pin, ok := p.pins[a]; ok {
		host = pin.name
	}
	p.mu.Unlock()
	p.refuse(nat.Refusal{Protocol: proto, Host: host, Port: to.Port()})
	return false
}

func (p *policy) allowed(a netip.Addr, port uint16) bool {
	// An IPv4 address in the form of an IPv6 one would be dialled as that IPv4 address, which may be the loopback's.
	if !a.IsValid() || a.Is4In6() || a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() ||
		a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) {
		return false
	}
	for _, r := range p.prefixes {
		if r.prefix.Contains(a) && (r.port == 0 || r.port == port) {
			return true
		}
	}
	// A router doesn't forward to link-local addresses (RFC 3927, section 7). In clouds, credentials are there.
	if a.IsLinkLocalUnicast() || p.isLocal(a) {
		return false
	}
	if !p.limited {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pin, ok := p.pins[a]
	return ok && time.Now().Before(pin.until) && (slices.Contains(pin.ports, 0) || slices.Contains(pin.ports, port))
}

// ports returns the ports of a name that may be reached, or false if the name may not be resolved.
func (p *policy) ports(name string) ([]uint16, bool) {
	if !p.limited {
		return nil, true
	}
	ports, ok := p.names[name]
	for rest := name; ; {
		_, after, found := strings.Cut(rest, ".")
		if !found {
			return ports, ok
		}
		rest = after
		if more, found := p.names["*."+rest]; found {
			ports, ok = append(slices.Clip(ports), more...), true
		}
	}
}

// hand notes that an address was given as that of a name.
func (p *policy) hand(name string, ports []uint16, a netip.Addr, ttl time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	old, ok := p.pins[a]
	if !ok && len(p.pins) >= maxPins {
		for k, v := range p.pins {
			if now.After(v.until) {
				delete(p.pins, k)
			}
		}
		if len(p.pins) >= maxPins {
			return
		}
	}
	n := pin{name: name, ports: ports, until: now.Add(max(ttl, minPin))}
	// Two names may have one address.
	if ok && now.Before(old.until) && old.name != name {
		for _, port := range old.ports {
			if !slices.Contains(n.ports, port) {
				n.ports = append(slices.Clip(n.ports), port)
			}
		}
		n.until = later(n.until, old.until)
	}
	p.pins[a] = n
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (p *policy) refuse(r nat.Refusal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.refused[r]; !ok && len(p.refused) >= maxRefusals {
		p.more++
		return
	}
	p.refused[r]++
}

func (p *policy) report() nat.Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := nat.Report{More: p.more}
	for f, times := range p.refused {
		f.Times = times
		r.Refused = append(r.Refused, f)
	}
	slices.SortFunc(r.Refused, func(a, b nat.Refusal) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
	})
	return r
}
