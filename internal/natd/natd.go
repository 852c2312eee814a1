// Package natd is hull-net: the network of one container, at the host's side.
//
// The container's namespace gets a tap, and what comes out of it is served by a TCP/IP stack in this process, which stands
// for every address there is: a connection of the container's ends here, and one of an ordinary socket of the host's
// begins. So nothing of the host's network is changed, and no privilege over it is needed.
//
//	container's namespace         hull-net                                  host
//	eth0 (tap) ── frames ──────>  stack ── TCP, UDP ── policy ── relay ──>  sockets
//	                              resolver ── policy ────────────────────>  the host's name servers
//	port <── stack ─────────────  listeners  <────────────────────────────  published ports
//
// A sandbox has a kernel of its own, and a socket to that takes the tap's place.
//
// The container is not trusted: frames, names and answers of name servers are hostile input. What it may reach is decided
// in one place (policy), for literal addresses and names alike: nothing of the host itself, no link-local address (where
// clouds have their credentials), and only what was allowed, if anything was.
package natd

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/nat"
	"hull/internal/stub"
)

// daemon serves one container.
type daemon struct {
	cfg       nat.Config
	plan      plan
	policy    *policy
	resolver  *resolver
	listeners []*listener
	host      *host
	veth      *veth    // what IPv4, IPv6 or both go by; or nil
	why       string   // not all of it does
	stack     *gateway // once it is attached
	diag      *netlink.Conn
}

// IsControl tells whether a descriptor can be the socket that hull passes.
func IsControl(fd int) bool {
	typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && typ == unix.SOCK_SEQPACKET
}

// Serve does what hull asks for, until hull says close or ends.
func Serve(control *os.File) error {
	if err := serve(control); !errors.Is(err, unix.EPIPE) { // else nobody is there to be told
		return err
	}
	return nil
}

func serve(control *os.File) error {
	unix.CloseOnExec(int(control.Fd()))
	var d *daemon
	early := prepare()
	for {
		m, passed, err := nat.Receive(control)
		if errors.Is(err, io.EOF) {
			if d != nil {
				d.outlive()
			}
			return nil
		}
		if err != nil {
			return err
		}
		var answer nat.Message
		var file *os.File // with the answer
		switch m[0][0] {
		case "hull-net":
			if d, err = start(m); err == nil {
				answer, file, err = d.files()
			}
		case "attach":
			if d == nil || passed == nil {
				err = errors.New("attach without settings or namespace")
			} else if d.cfg.Sandbox {
				answer, err = d.attachSandbox(passed, <-early)
			} else {
				answer, file, err = d.attach(passed, <-early)
			}
		case "close":
			if d == nil {
				return nil
			}
			if d.stack != nil {
				d.drain(control)
			}
			return nat.Send(control, d.policy.report().Lines(), nil)
		default:
			err = fmt.Errorf("unknown request %q", m[0][0])
		}
		if passed != nil {
			passed.Close()
		}
		if err != nil {
			var hint string
			if e := (*fault.Error)(nil); errors.As(err, &e) {
				hint = e.Hint
			}
			return nat.Send(control, nat.Message{{"error", err.Error(), hint}}, nil)
		}
		err = nat.Send(control, answer, file)
		if file != nil {
			file.Close()
		}
		if err != nil {
			return err
		}
	}
}

// start does all that can fail because of what was asked for, before anything is changed.
func start(m nat.Message) (*daemon, error) {
	cfg, err := nat.ParseConfig(m)
	if err != nil {
		return nil, err
	}
	raiseFileLimit()
	h, err := readHost()
	if err != nil {
		return nil, err
	}
	d := &daemon{cfg: cfg, host: h}
	if d.policy, err = newPolicy(cfg.Allow, h.isLocal); err != nil {
		return nil, err
	}
	d.resolver = newResolver(resolvConf, d.policy)
	if d.plan, err = makePlan(h, cfg.IP, d.resolver.servers()); err != nil {
		return nil, err
	}
	for _, p := range cfg.Publish {
		l, err := listen(p)
		if err != nil {
			return nil, err
		}
		d.listeners = append(d.listeners, l)
	}
	if !cfg.Sandbox {
		d.reserve()
	}
	return d, nil
}

// files tells what the container has as resolv.conf and hosts. The latter may be longer than a message.
func (d *daemon) files() (nat.Message, *os.File, error) {
	hosts, err := os.ReadFile(hostsFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	file, err := memoryFile(Hosts(hosts, d.cfg.Hostname, d.plan.addresses()...))
	if err != nil {
		return nil, nil, err
	}
	answer := nat.Message{{"ok"}, {"resolv", string(ResolvConf(d.resolver.read(), d.plan.gateway4))}}
	for _, n := range d.plan.notes {
		answer = append(answer, []string{"note", n})
	}
	return answer, file, nil
}

// memoryFile returns a file with that content, to be read from its beginning.
func memoryFile(content []byte) (*os.File, error) {
	// MFD_NOEXEC_SEAL (6.3) is what vm.memfd_noexec=2 wants; kernels before answer EINVAL.
	fd, err := unix.MemfdCreate("hosts", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate("hosts", unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "hosts")
	_, err = f.Write(content)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// raiseFileLimit lets the container have as many connections as this process may have files.
func raiseFileLimit() {
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		l.Cur = l.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
	}
}

// prepared is what attach needs and nothing has to be known for.
type prepared struct {
	stub  *stub.Stub // that will enter the container's namespace
	stack *gateway
	err   error
}

// prepare makes it at once, while hull makes the container.
func prepare() <-chan prepared {
	early := make(chan prepared, 1)
	go func() {
		var p prepared
		if p.stub, p.err = stub.Start(stub.Config{}); p.err == nil {
			p.stack, p.err = newStack()
		}
		early <- p
	}()
	return early
}

// attach makes the interface in the container's namespace and serves it. The descriptor with the answer, if there is one,
// is for hull to keep.
func (d *daemon) attach(netns *os.File, p prepared) (nat.Message, *os.File, error) {
	if p.err != nil {
		return nil, nil, p.err
	}
	tap := device
	var linked chan error
	if d.veth != nil {
		tap, linked = secondDevice, make(chan error, 1)
		go func() { linked <- d.veth.link(d.host, netns, d.plan) }()
	}
	in, err := openTap(p.stub, netns, tap, d.veth != nil)
	p.stub.Kill()
	if linked != nil {
		if vethErr := <-linked; vethErr != nil {
			d.giveUp(vethErr.Error())
		}
	}
	if err != nil {
		return nil, nil, err
	}
	d.diag = in.diag
	err = configure(links{in.route}, tap, d.plan, d.host.own)
	if err == nil && d.veth != nil {
		err = errors.Join(links{in.route}.awaitCarrier(device), links{d.host.conn}.awaitCarrier(d.veth.name))
	}
	in.route.Close()
	if err != nil {
		in.tap.Close()
		return nil, nil, err
	}
	var rules *os.File
	if d.veth != nil {
		if rules, err = d.veth.rules.File(); err != nil {
			return nil, nil, err
		}
	}
	if err := d.serve(in.tap, p.stack); err != nil {
		if rules != nil {
			rules.Close()
		}
		return nil, nil, err
	}
	return nat.Message{{"ok"}, {"path", d.plan.path(), d.why}}, rules, nil
}

// serve has the stack take what comes by the tap.
func (d *daemon) serve(tap *os.File, s *gateway) error {
	if err := confine(); err != nil {
		return err
	}
	s.plan, s.policy = d.plan, d.policy
	if err := s.connectTap(tap); err != nil {
		return err
	}
	d.stack = s
	if err := d.resolver.serve(s, d.plan); err != nil {
		return err
	}
	for _, l := range d.listeners {
		go l.serve(s, d.plan.ip4)
	}
	return nil
}

// attachSandbox takes a socket to the kernel of a sandbox, and serves it.
func (d *daemon) attachSandbox(socket *os.File, p prepared) (nat.Message, error) {
	if p.err != nil {
		return nil, p.err
	}
	p.stub.Kill()
	link, err := linux.Pollable(socket, "sandbox")
	if err != nil {
		return nil, err
	}
	if err := d.serve(link, p.stack); err != nil {
		link.Close()
		return nil, err
	}
	l := nat.Link{MTU: mtu, Hardware: containerMAC[:],
		Ends: []nat.LinkEnd{{IP: d.plan.ip4.AsSlice(), Bits: d.plan.bits4, Gateway: d.plan.gateway4.AsSlice(), Hardware: gatewayMAC[:]}}}
	if d.plan.ip6.IsValid() {
		l.Ends = append(l.Ends, nat.LinkEnd{IP: d.plan.ip6.AsSlice(), Bits: network6.Bits(), Gateway: d.plan.gateway6.AsSlice(), Hardware: gatewayMAC[:]})
	}
	return append(nat.Message{{"ok"}, {"path", nat.PathSocket, ""}}, l.Lines()...), nil
}

// A plan is the addresses that the container and its gateway have. Only the container sees them.
type plan struct {
	ip4, gateway4 netip.Addr
	bits4         int
	ip6, gateway6 netip.Addr // not valid if the host has no IPv6 route to anywhere
	veth4, veth6  bool       // what goes by the veth, and not by the tap
	notes         []string
}

// path names the way that the container's packets take.
func (p plan) path() string {
	switch {
	case p.veth4 && (p.veth6 || !p.ip6.IsValid()):
		return nat.PathVeth
	case p.veth4:
		return nat.PathVeth4
	case p.veth6:
		return nat.PathVeth6
	}
	return nat.PathTap
}

func (p plan) addresses() []netip.Addr {
	all := []netip.Addr{p.ip4}
	if p.ip6.IsValid() {
		all = append(all, p.ip6)
	}
	return all
}
