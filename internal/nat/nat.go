// Package nat gives a container a network that reaches the outside through the host.
//
// The work is done by a program of its own, hull-net, which links a TCP/IP stack and package net; hull only starts it,
// tells it what is wanted and passes it the container's network namespace:
//
//	hull                                            hull-net
//	Start: settings over a socket pair  ─────────>  binds the published ports, chooses addresses
//	Ready                               <─────────  ok with resolv.conf and hosts, or error
//	Attach: the network namespace       ─────────>  makes the interface there, routes, resolver
//	                                    <─────────  ok, which path, and perhaps a socket to keep
//	Close                               ─────────>
//	                                    <─────────  what was refused; exits
//	(end of file on the socket)         ─────────>  exits
//
// Nothing outlives hull, by construction: the socket's end of file ends hull-net, the interface is in the container's
// anonymous namespace, and ends with it, and with it the host's end of a veth and its routes. Rules of nftables end with the
// socket that made them. hull keeps it, too: if hull-net is killed, they stay for as long as the container has the veth. No
// sysctl of the host is changed, and where there is no veth nothing else is.
package nat

import (
	"errors"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/install"
)

// patience bounds the wait for an answer of hull-net. It never asks the network for one, but at the end carries on for up to
// thirty seconds what the container has sent.
const patience = 40 * time.Second

// Config says what is wanted.
type Config struct {
	Hostname string // of the container
	IP       string // of the container, see CheckIP; "" lets hull-net choose
	Publish  []Port
	Allow    []Rule // nil lets the container reach everything beyond the host
	Sandbox  bool   // the container has a kernel of its own, to be attached by Connect
	Program  string // hull-net's path; "" looks for it beside the executable
}

// A Network is the network of one container. It is used by one goroutine at a time.
type Network struct {
	socket  *os.File
	process *os.Process

	path, why     string
	rules         *os.File // keeps them; or nil
	resolv, hosts []byte
	notes         []string
}

// Refusal is what the container tried to reach and was not allowed to.
type Refusal struct {
	Protocol string `json:"protocol"` // "tcp", "udp", "icmp", or "dns" for a name that was asked for
	Host     string `json:"host"`     // name or address
	Port     uint16 `json:"port,omitempty"`
	Times    int    `json:"times"`
}

func (r Refusal) String() string {
	s := r.Protocol + " " + r.Host
	if r.Port != 0 {
		s += " port " + strconv.Itoa(int(r.Port))
	}
	if r.Times > 1 {
		s += ", " + strconv.Itoa(r.Times) + " times"
	}
	return s
}

// Report is what there is to say of a network when it ends.
type Report struct {
	Refused []Refusal
	More    int // refusals that Refused had no room for
}

// Start starts hull-net. It doesn't wait for it: hull has other things to do meanwhile.
func Start(cfg Config) (*Network, error) {
	if cfg.IP != "" {
		if err := CheckIP(cfg.IP); err != nil {
			return nil, err
		}
	}
	program := cfg.Program
	if program == "" {
		var err error
		if program, err = install.Path("network nat: look for the program hull-net", "hull-net"); err != nil {
			return nil, err
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, &fault.Error{Step: "network nat", Err: os.NewSyscallError("socketpair", err)}
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "hull-net"), os.NewFile(uintptr(pair[1]), "hull-net")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		ours.Close()
		theirs.Close()
		return nil, err
	}
	process, err := os.StartProcess(program, []string{"hull-net"}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: []*os.File{null, null, os.Stderr, theirs},
		Sys:   &unix.SysProcAttr{Setsid: true}, // a Ctrl-C is for the command
	})
	null.Close()
	theirs.Close() // the end of hull-net is the end of its file only if nobody else has the socket
	if err != nil {
		ours.Close()
		return nil, &fault.Error{Step: "network nat", Err: err}
	}
	n := &Network{socket: ours, process: process}
	if err := limit(ours, patience); err != nil {
		n.end()
		return nil, err
	}
	// What comes of a program that ends at once is for Ready to tell.
	if err := Send(ours, cfg.message(), nil); err != nil && !errors.Is(err, unix.EPIPE) {
		n.end()
		return nil, &fault.Error{Step: "network nat: hull-net", Err: err}
	}
	return n, nil
}

// Ready waits until the published ports are bound and the addresses are chosen. Nothing is changed before that has
// succeeded.
func (n *Network) Ready() error {
	answer, hosts, err := n.answer()
	if err != nil {
		return err
	}
	if hosts != nil {
		defer hosts.Close()
		if n.hosts, err = readAll(hosts); err != nil {
			return err
		}
	}
	return n.take(answer)
}

// maxHosts bounds a hosts file. Those that block advertisements have some megabytes.
const maxHosts = 8 << 20

func readAll(f *os.File) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, maxHosts+1))
	if err == nil && len(b) > maxHosts {
		err = &fault.Error{Step: "network nat: /etc/hosts", Err: unix.EFBIG}
	}
	return b, err
}

func (c Config) message() Message {
	m := Message{{"hull-net", Version}, {"hostname", c.Hostname}}
	if c.IP != "" {
		m = append(m, []string{"ip", c.IP})
	}
	if c.Sandbox {
		m = append(m, []string{"sandbox"})
	}
	for _, p := range c.Publish {
		m = append(m, []string{"publish", p.Host, strconv.Itoa(int(p.HostPort)), strconv.Itoa(int(p.Container))})
	}
	for _, r := range c.Allow {
		m = append(m, []string{"allow", r.Host, strconv.Itoa(int(r.Port))})
	}
	return m
}

// ParseConfig is what hull-net makes of the first message.
func ParseConfig(m Message) (c Config, err error) {
	if len(m[0]) != 2 || m[0][0] != "hull-net" {
		return c, errMessage
	}
	if m[0][1] != Version {
		return c, errors.New("hull speaks version " + m[0][1] + " of the protocol and hull-net version " + Version + ": they are of different releases")
	}
	for _, l := range m[1:] {
		switch {
		case len(l) == 1 && l[0] == "sandbox":
			c.Sandbox = true
		case len(l) == 2 && l[0] == "hostname":
			c.Hostname = l[1]
		case len(l) == 2 && l[0] == "ip":
			c.IP = l[1]
		case len(l) == 4 && l[0] == "publish":
			p := Port{Host: l[1]}
			if p.HostPort, err = parsePort(l[2]); err == nil {
				p.Container, err = parsePort(l[3])
			}
			c.Publish = append(c.Publish, p)
		case len(l) == 3 && l[0] == "allow":
			r := Rule{Host: l[1]}
			if l[2] != "0" {
				r.Port, err = parsePort(l[2])
			}
			c.Allow = append(c.Allow, r)
		default:
			err = errMessage
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// ask sends a request and returns the answer, if it is not an error, and the file that came with it or nil.
func (n *Network) ask(m Message, file *os.File) (Message, *os.File, error) {
	if err := Send(n.socket, m, file); err != nil && !errors.Is(err, unix.EPIPE) {
		return nil, nil, &fault.Error{Step: "network nat: hull-net", Err: err}
	}
	return n.answer()
}

// answer returns the next answer, and the file that came with it or nil.
func (n *Network) answer() (Message, *os.File, error) {
	answer, passed, err := Receive(n.socket)
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil, &fault.Error{Step: "network nat", Err: errors.New("hull-net ended before it answered")}
	case err != nil:
		return nil, nil, &fault.Error{Step: "network nat: hull-net", Err: err}
	}
	l := answer[0]
	if l[0] == "ok" {
		return answer[1:], passed, nil
	}
	if passed != nil {
		passed.Close()
	}
	if l[0] == "error" && len(l) == 3 {
		return nil, nil, &fault.Error{Step: "network nat", Err: errors.New(l[1]), Hint: l[2]}
	}
	return nil, nil, &fault.Error{Step: "network nat: hull-net", Err: errMessage}
}

// take notes what hull-net tells.
func (n *Network) take(answer Message) error {
	for _, l := range answer {
		if l[0] == "path" && len(l) == 3 {
			n.path, n.why = l[1], l[2]
			continue
		}
		if len(l) != 2 {
			return errMessage
		}
		switch l[0] {
		case "resolv":
			n.resolv = []byte(l[1])
		case "note":
			n.notes = append(n.notes, l[1])
		default:
			return errMessage
		}
	}
	return nil
}

// Attach gives the namespace its network. The interface is configured when it returns.
func (n *Network) Attach(netns *os.File) error {
	answer, rules, err := n.ask(Message{{"attach"}}, netns)
	if err != nil {
		return err
	}
	n.rules = rules
	return n.take(answer)
}

// Link is a device of a container's with a kernel of its own, which has no namespace of the host's to have one in.
type Link struct {
	// Socket has the device's packets, each a message: a struct virtio_net_hdr, the Ethernet header and the rest.
	Socket   *os.File
	MTU      uint32
	Hardware []byte // address
	Ends     []LinkEnd
}

// LinkEnd is an address of a Link in a network with no other but that of the gateway, which is no neighbour who answers.
type LinkEnd struct {
	IP, Gateway []byte
	Bits        int
	Hardware    []byte // the gateway's address
}

// Connect is Attach for a kernel that isn't the host's. The caller closes the socket.
func (n *Network) Connect() (*Link, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, &fault.Error{Step: "network nat", Err: os.NewSyscallError("socketpair", err)}
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "network"), os.NewFile(uintptr(pair[1]), "network")
	defer theirs.Close()
	for _, fd := range pair {
		// Root alone may have as much as packets of this size need. Others lose some more of them.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, linkBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, linkBuffer)
		}
	}
	answer, rules, err := n.ask(Message{{"attach"}}, theirs)
	if rules != nil {
		rules.Close()
	}
	l := &Link{Socket: ours}
	if err == nil {
		err = n.take(l.take(answer))
	}
	if err == nil && (len(l.Hardware) != 6 || len(l.Ends) == 0) {
		err = errMessage
	}
	if err != nil {
		ours.Close()
		return nil, err
	}
	return l, nil
}

// linkBuffer is what may be on its way to the other end of a Link, in bytes.
const linkBuffer = 4 << 20

// Lines returns the link as hull-net sends it.
func (l *Link) Lines() (m Message) {
	m = append(m, []string{"link", strconv.FormatUint(uint64(l.MTU), 10), string(l.Hardware)})
	for _, e := range l.Ends {
		m = append(m, []string{"end", string(e.IP), strconv.Itoa(e.Bits), string(e.Gateway), string(e.Hardware)})
	}
	return m
}

// take takes the lines of an answer that are of the link, and returns the others.
func (l *Link) take(answer Message) (rest Message) {
	for _, line := range answer {
		switch {
		case line[0] == "link" && len(line) == 3:
			if mtu, err := strconv.ParseUint(line[1], 10, 32); err == nil {
				l.MTU, l.Hardware = uint32(mtu), []byte(line[2])
			}
		case line[0] == "end" && len(line) == 5:
			if bits, err := strconv.Atoi(line[2]); err == nil {
				l.Ends = append(l.Ends, LinkEnd{IP: []byte(line[1]), Bits: bits, Gateway: []byte(line[3]), Hardware: []byte(line[4])})
			}
		default:
			rest = append(rest, line)
		}
	}
	return rest
}

// The ways that a container's packets can take: by a tap through hull-net, or by a veth through the host's kernel. With a
// veth for one family, the other has the tap.
const (
	PathTap   = "tap"
	PathVeth  = "veth"
	PathVeth4 = "veth for IPv4, tap for IPv6"
	PathVeth6 = "tap for IPv4, veth for IPv6"
	// PathSocket is the way of a sandbox: by a socket to hull-net.
	PathSocket = "socket"
)

// Path says how the container reaches the outside, and Why why that is not by a veth, as far as it isn't. Valid after
// Attach.
func (n *Network) Path() string { return n.path }

// Why is "" if all goes by a veth.
func (n *Network) Why() string { return n.why }

// ResolvConf is the container's /etc/resolv.conf. Valid after Ready.
func (n *Network) ResolvConf() []byte { return n.resolv }

// Hosts is the container's /etc/hosts. Valid after Ready.
func (n *Network) Hosts() []byte { return n.hosts }

// Notes is what a person should know, a sentence each.
func (n *Network) Notes() []string { return n.notes }

// Abandon ends a network that nobody has used.
func (n *Network) Abandon() { n.end() }

// Close ends the network and tells what was refused.
func (n *Network) Close() (Report, error) {
	answer, passed, err := n.ask(Message{{"close"}}, nil)
	if passed != nil {
		passed.Close()
	}
	n.end()
	if err != nil {
		return Report{}, err
	}
	return parseReport(answer)
}

func (n *Network) end() {
	n.socket.Close()
	if n.rules == nil {
		_, _ = n.process.Wait() // ECHILD if the program around this reaps its children itself
		return
	}
	// Who closes the rules' socket last waits 10 to 20 ms for the kernel to take them away. That is for hull-net to do:
	// nobody is left in the container.
	n.rules.Close()
	go func() { _, _ = n.process.Wait() }()
}

// Lines returns the report as hull-net sends it.
func (r Report) Lines() Message {
	m := Message{{"ok"}}
	for _, f := range r.Refused {
		m = append(m, []string{"refused", f.Protocol, f.Host, strconv.Itoa(int(f.Port)), strconv.Itoa(f.Times)})
	}
	return append(m, []string{"more", strconv.Itoa(r.More)})
}

func parseReport(m Message) (r Report, err error) {
	for _, l := range m {
		switch {
		case len(l) == 5 && l[0] == "refused":
			f := Refusal{Protocol: l[1], Host: l[2]}
			port, err1 := strconv.ParseUint(l[3], 10, 16)
			times, err2 := strconv.Atoi(l[4])
			if err1 != nil || err2 != nil {
				return r, errMessage
			}
			f.Port, f.Times = uint16(port), times
			r.Refused = append(r.Refused, f)
		case len(l) == 2 && l[0] == "more":
			if r.More, err = strconv.Atoi(l[1]); err != nil {
				return r, errMessage
			}
		default:
			return r, errMessage
		}
	}
	return r, nil
}
