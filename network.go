package hull

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/engine"
	"hull/internal/nat"
	"hull/internal/overlay"
	"hull/internal/sandbox/wire"
)

// Network says what a program over the host's files reaches.
type Network string

const (
	NetworkNone Network = "none" // nothing but a loopback of its own
	NetworkHost Network = "host" // what the host reaches, as a program of the host
	// NetworkNAT is a network of its own, with a way to what lies beyond the host. A program of hull's, hull-net, takes the
	// container's connections and makes ones of its own for them; as root on a host that forwards, packets go through its
	// kernel. Nothing of the host's is changed for longer than the program runs, and no setting at all.
	NetworkNAT Network = "nat"
)

// NetworkRefusal is something that a program wanted to reach and was not allowed to.
//
//	Protocol string // "tcp", "udp", "icmp", or "dns" for a name that was asked for
//	Host     string // name or address
//	Port     uint16
//	Times    int
type NetworkRefusal = nat.Refusal

// checkNetwork refuses what can't be meant.
func (c *Cmd) checkNetwork() error {
	switch c.Network {
	case "", NetworkNone, NetworkHost, NetworkNAT:
	default:
		return conflict("network", string(c.Network), "want none, host or nat")
	}
	if c.Network == NetworkNAT {
		return nil
	}
	for _, o := range []struct {
		what  string
		given []string
	}{
		{"publish", c.Publish}, {"allow", c.Allow}, {"ip", slices.DeleteFunc([]string{c.IP}, func(s string) bool { return s == "" })},
	} {
		if len(o.given) > 0 {
			return conflict(o.what, o.given[0], "that is for --network nat")
		}
	}
	return nil
}

// natConfig is what the network's program is told.
func (c *Cmd) natConfig(hostname string) (nat.Config, error) {
	cfg := nat.Config{Sandbox: c.sandboxed(), Hostname: hostname, IP: c.IP, Program: c.NetworkProgram}
	var errs []error
	if c.IP != "" {
		errs = append(errs, nat.CheckIP(c.IP))
	}
	for _, s := range c.Publish {
		p, err := nat.ParsePort(s)
		cfg.Publish, errs = append(cfg.Publish, p), append(errs, err)
	}
	for _, s := range c.Allow {
		r, err := nat.ParseRule(s)
		cfg.Allow, errs = append(cfg.Allow, r), append(errs, err)
		if err == nil && r.Loopback() {
			c.Runtime.warn(fmt.Sprintf("network nat: allow %q: that is the command's own loopback; the host's is never reached", s))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return cfg, err
	}
	return cfg, nil
}

// ownNetwork tells whether a configuration has a network namespace that is made for it.
func ownNetwork(s *specs.Spec) bool {
	return slices.ContainsFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.NetworkNamespace && ns.Path == ""
	})
}

// networkSpec completes a configuration with what the network takes.
func (c *Cmd) networkSpec(s *specs.Spec, v *view) {
	switch c.Network {
	case NetworkHost:
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
			return ns.Type == specs.NetworkNamespace
		})
	case NetworkNAT:
		if v.jailed {
			break // its kernel keeps nobody from these
		}
		// The port numbers below 1024 are the container's own, and so nobody is kept from them; nor from ping(8), which would
		// need a capability. Groups without an id in the user namespace can't be named.
		groups := "0 2147483647"
		if v.userNS {
			gid := strconv.FormatUint(uint64(s.Process.User.GID), 10)
			groups = gid + " " + gid
		}
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": groups}
	}
}

// network is that of one command.
type network struct {
	shared   bool   // it is the host's
	hostname string // of the container, if that isn't the host's; or ""

	nat      *nat.Network // or nil
	link     *nat.Link    // to a sandbox; or nil
	netns    *os.File     // kept until the network has carried what the program has sent; or nil
	attached chan error   // of the attempt to give the container its network; or nil
	trace    func(string)
	warn     func(string)
}

// startNetwork begins what takes longest. Nil is a network that needs nothing.
func (c *Cmd) startNetwork(s *specs.Spec) (*network, error) {
	n := &network{shared: c.Network == NetworkHost, hostname: c.Hostname, trace: c.Runtime.Trace, warn: c.Runtime.warn}
	if c.Network != NetworkNAT {
		if !n.shared && n.hostname == "" {
			n = nil
		}
		return n, nil
	}
	if !ownNetwork(s) {
		return nil, usage("the network nat needs a network namespace of the container's own")
	}
	cfg, err := c.natConfig(s.Hostname)
	if err != nil {
		return nil, err
	}
	n.nat, err = nat.Start(cfg)
	return n, err
}

// The files by which programs find others in a network.
const (
	resolvConf = "/etc/resolv.conf"
	hostsFile  = "/etc/hosts"
)

// prepare waits until what was asked for can be had, and completes what the container is shown.
func (n *network) prepare(v *view, p *overlay.Plan) error {
	switch {
	case n == nil:
		return nil
	case n.nat == nil:
		if n.shared {
			if err := n.shareFiles(v, p); err != nil {
				return err
			}
		}
		return n.nameItself(v, p)
	}
	if err := n.nat.Ready(); err != nil {
		return err
	}
	for _, note := range n.nat.Notes() {
		n.warn("network nat: " + note)
	}
	n.addFile(v, p, resolvConf, n.nat.ResolvConf())
	n.addFile(v, p, hostsFile, n.nat.Hosts())
	return nil
}

// shareFiles shows the host's files to a command that doesn't see them: because it has another root, or because
// resolv.conf is a link to a place that is empty, as /run is.
func (n *network) shareFiles(v *view, p *overlay.Plan) error {
	for _, name := range []string{resolvConf, hostsFile} {
		fi, err := os.Lstat(name)
		if err != nil || v.host() && fi.Mode().IsRegular() {
			continue
		}
		content, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		n.addFile(v, p, name, content)
	}
	return nil
}

// nameItself adds the container's name to its hosts file, where Debian has that of a host without an address of its own.
func (n *network) nameItself(v *view, p *overlay.Plan) error {
	if n.hostname == "" {
		return nil
	}
	i := slices.IndexFunc(p.Files, func(m overlay.Made) bool { return m.Path == p.Resolve(hostsFile) })
	if i < 0 {
		content, err := os.ReadFile(v.source(p.Resolve(hostsFile)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if !n.addFile(v, p, hostsFile, content) {
			return nil
		}
		i = len(p.Files) - 1
	}
	m := &p.Files[i]
	if len(m.Content) > 0 && m.Content[len(m.Content)-1] != '\n' {
		m.Content = append(m.Content, '\n')
	}
	m.Content = append(m.Content, "127.0.1.1\t"+n.hostname+"\n"...)
	return nil
}

// addFile puts a file over the container's, unless the caller has bound something there. It tells whether it has.
func (n *network) addFile(v *view, p *overlay.Plan, name string, content []byte) bool {
	real := p.Resolve(name)
	for _, b := range p.Binds {
		if b.Path == name || b.Path == real {
			return false
		}
		if _, err := os.Stat(v.source(real)); err != nil && below(real, b.Path) {
			n.warn(fmt.Sprintf("the command has no %s: it is missing in %s, where it would be made on the host", name, b.Source))
			return false
		}
	}
	p.Files = append(p.Files, overlay.Made{Path: real, Content: content})
	return true
}

// attach returns what begins to give the container its network, while the rest of it is made; or nil.
func (n *network) attach() func(netns *os.File) {
	if n == nil || n.nat == nil || n.link != nil {
		return nil
	}
	return func(netns *os.File) {
		n.netns, n.attached = netns, make(chan error, 1)
		go func() { n.attached <- n.nat.Attach(netns) }()
	}
}

// connect connects a sandbox with its network, and returns its devices.
func (n *network) connect() (links []engine.Link, err error) {
	if n == nil || n.nat == nil {
		return nil, nil
	}
	if n.link, err = n.nat.Connect(); err != nil {
		return nil, err
	}
	n.tracePath()
	l := wire.Link{Name: "eth0", MTU: n.link.MTU, Hardware: n.link.Hardware}
	for _, e := range n.link.Ends {
		l.Addresses = append(l.Addresses, wire.Prefix{IP: e.IP, Bits: e.Bits})
		network := wire.Prefix{IP: slices.Clone(e.IP), Bits: e.Bits}
		l.Routes = append(l.Routes, wire.Route{To: network}, wire.Route{To: wire.Prefix{IP: make([]byte, len(e.IP))}, Gateway: e.Gateway})
		l.Neighbours = append(l.Neighbours, wire.Neighbour{IP: e.Gateway, Hardware: e.Hardware})
	}
	return []engine.Link{{Link: l, Socket: n.link.Socket}}, nil
}

func (n *network) tracePath() {
	if n.trace == nil {
		return
	}
	line := "network nat: by " + n.nat.Path()
	if why := n.nat.Why(); why != "" {
		line += ": " + why
	}
	n.trace(line)
}

// await waits until the container has its network.
func (n *network) await() error {
	if n == nil || n.attached == nil {
		return nil
	}
	err := <-n.attached
	n.attached = nil
	if err == nil {
		n.tracePath()
	}
	return err
}

// abandon ends the network of a program that was not started.
func (n *network) abandon() {
	if n == nil {
		return
	}
	_ = n.await() // nat is used by one goroutine at a time
	if n.nat != nil {
		n.nat.Abandon()
	}
	n.close()
}

func (n *network) close() {
	if n.netns != nil {
		n.netns.Close()
	}
	if n.link != nil {
		n.link.Socket.Close()
	}
}

// path says which way the packets took.
func (n *network) path() string {
	if n == nil || n.nat == nil {
		return ""
	}
	return n.nat.Path()
}

// end ends the network when all processes have ended.
func (n *network) end() (refused []NetworkRefusal, more int) {
	if n == nil || n.nat == nil {
		return nil, 0
	}
	defer n.close()
	r, err := n.nat.Close()
	if err != nil {
		n.warn(err.Error() + ": what was refused is not known")
	}
	return r.Refused, r.More
}
