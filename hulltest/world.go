package hulltest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// Netns is a network namespace, and a mount namespace with it, that has a thread.
type Netns struct {
	File *os.File
	TID  int // of the thread
	work chan func()
}

// NewNetns makes a network namespace, or takes that which open opens.
func NewNetns(t testing.TB, open func() (*os.File, error)) *Netns {
	t.Helper()
	n := &Netns{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: a thread with other namespaces is never unlocked
		ready <- n.enter(open)
		for f := range n.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(n.work)
		n.File.Close()
	})
	return n
}

func (n *Netns) enter(open func() (*os.File, error)) (err error) {
	n.TID = unix.Gettid()
	if open != nil {
		if n.File, err = open(); err != nil {
			return err
		}
		return unix.Setns(int(n.File.Fd()), unix.CLONE_NEWNET)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	n.File, err = os.Open("/proc/thread-self/ns/net")
	return err
}

// Do runs f in the namespace.
func (n *Netns) Do(f func()) {
	done := make(chan struct{})
	n.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// Run runs a program there and returns what it says.
func (n *Netns) Run(t testing.TB, args ...string) string {
	t.Helper()
	var out []byte
	var err error
	n.Do(func() { out, err = exec.Command(args[0], args[1:]...).CombinedOutput() })
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Listen listens for TCP there.
func (n *Netns) Listen(t testing.TB, at string) net.Listener {
	t.Helper()
	var l net.Listener
	var err error
	n.Do(func() { l, err = net.Listen("tcp", at) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// Dial connects from there.
func (n *Netns) Dial(network, to string) (c net.Conn, err error) {
	n.Do(func() { c, err = net.DialTimeout(network, to, 5*time.Second) })
	return c, err
}

// World is a host with an uplink to an outside where servers are.
type World struct {
	Host, Outside *Netns
	User          bool // on the host
}

// Addresses of the outside, where an echo answers at TCP port 80 and UDP port 7, and of the host.
const (
	Outside4 = "10.99.0.2"
	Outside6 = "fd99::2"
	Host4    = "10.99.0.1"
)

// NewWorld makes namespaces for the host and for what is outside. What is run on the host is an ordinary user's if user is
// set. The host's name server is on its loopback; ServeDNS has it answer. What setUp does on the host is done by root.
func NewWorld(t testing.TB, user bool, setUp ...func() error) *World {
	t.Helper()
	Require(t, Root, Command("ip"), Command("go"), Tun)
	w := &World{Host: NewNetns(t, nil), Outside: NewNetns(t, nil), User: user}
	h, o := w.Host, w.Outside
	h.Run(t, "ip", "link", "set", "lo", "up")
	o.Run(t, "ip", "link", "set", "lo", "up")
	h.Run(t, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "uplink", "netns", fmt.Sprint(o.TID))
	for _, e := range []struct {
		ns     *Netns
		v4, v6 string
	}{{h, Host4, "fd99::1"}, {o, Outside4, Outside6}} {
		e.ns.Run(t, "ip", "link", "set", "uplink", "addrgenmode", "none") // what changes by itself hides what hull changes
		e.ns.Run(t, "ip", "addr", "add", e.v4+"/24", "dev", "uplink")
		e.ns.Run(t, "ip", "addr", "add", e.v6+"/64", "dev", "uplink", "nodad")
		e.ns.Run(t, "ip", "link", "set", "uplink", "up")
	}
	o.Run(t, "ip", "addr", "add", "10.99.0.3/24", "dev", "uplink")
	h.Run(t, "ip", "route", "add", "default", "via", Outside4)
	h.Run(t, "ip", "-6", "route", "add", "default", "via", Outside6)
	// The kernel sees to both in its own time.
	ready := func() bool {
		return !strings.Contains(h.Run(t, "ip", "link", "show", "uplink"), "NO-CARRIER") &&
			strings.Contains(h.Run(t, "ip", "-6", "route", "show", "table", "local"), "local fd99::1 ")
	}
	for end := time.Now().Add(10 * time.Second); !ready(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the uplink has no carrier, or not its address")
		}
	}
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 127.0.0.53\nsearch example.test\noptions edns0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	h.Do(func() {
		err = errors.Join(
			unix.Mount(resolv, "/etc/resolv.conf", "", unix.MS_BIND, ""),
			unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "mode=0755"),
			unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))),
			os.Chmod("/dev/net/tun", 0o666),
			// A new namespace forwards if the machine does, as one with Docker.
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("0"), 0),
			os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0),
			os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0))
		for _, f := range setUp {
			err = errors.Join(err, f())
		}
		if err == nil && user {
			// The thread alone; from here on it starts processes as that user.
			for _, c := range [][]uintptr{{unix.SYS_SETGROUPS, 0, 0, 0}, {unix.SYS_SETRESGID, 1000, 1000, 1000}, {unix.SYS_SETRESUID, 1000, 1000, 1000}} {
				if _, _, errno := unix.RawSyscall(c[0], c[1], c[2], c[3]); errno != 0 {
					err = errno
				}
			}
			_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	ServeTCP(w.Outside.Listen(t, Outside4+":80"))
	ServeTCP(w.Outside.Listen(t, "10.99.0.3:80"))
	ServeTCP(w.Outside.Listen(t, "["+Outside6+"]:80"))
	w.Outside.ServeUDP(t, Outside4+":7")
	w.Outside.ServeUDP(t, "["+Outside6+"]:7")
	return w
}

// Tun is the need of the device that a network of hull-net begins with.
var Tun = Need{Name: "tun", Check: func() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err
}}

// OwnerTables is the need of nftables with tables that end with their owner.
var OwnerTables = Need{Name: "nft-owner", Check: func() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		return err
	}
	if major < 5 || major == 5 && minor < 12 {
		return errors.New("they are of Linux 5.12")
	}
	return nil
}}

// ServeTCP answers with what it was sent, when the sender has ended.
func ServeTCP(l net.Listener) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				p, _ := io.ReadAll(c)
				_, _ = c.Write(p)
			}()
		}
	}()
}

// Packets takes packets of UDP there.
func (n *Netns) Packets(t testing.TB, at string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	var err error
	n.Do(func() { c, err = net.ListenPacket("udp", at) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ServeUDP answers packets with themselves.
func (n *Netns) ServeUDP(t testing.TB, at string) {
	t.Helper()
	c := n.Packets(t, at)
	go func() {
		p := make([]byte, 65535)
		for {
			n, from, err := c.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(p[:n], from)
		}
	}()
}

// ServeDNS is the host's resolver, on its loopback as systemd-resolved is.
func (w *World) ServeDNS(t testing.TB, names map[string]string) {
	t.Helper()
	w.Host.ServeDNS(t, "127.0.0.53:53", DNS(names))
}

// ServeDNS is a name server there, for UDP and TCP. It returns the ports that it listens on.
func (n *Netns) ServeDNS(t testing.TB, at string, answer func(network string, query []byte) []byte) (udp, tcp int) {
	t.Helper()
	c := n.Packets(t, at)
	go func() {
		p := make([]byte, 65535)
		for {
			n, from, err := c.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(answer("udp", p[:n]), from)
		}
	}()
	l := n.Listen(t, at)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if p := readDNS(c); p != nil {
				writeDNS(c, answer("tcp", p))
			}
			c.Close()
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).Port, l.Addr().(*net.TCPAddr).Port
}

// readDNS reads a message from a connection.
func readDNS(c io.Reader) []byte {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil
	}
	p := make([]byte, int(size[0])<<8|int(size[1]))
	if _, err := io.ReadFull(c, p); err != nil {
		return nil
	}
	return p
}

func writeDNS(c io.Writer, p []byte) {
	_, _ = c.Write(append([]byte{byte(len(p) >> 8), byte(len(p))}, p...))
}

// DockerDNS is a name server as dockerd has one in the namespace of a container in a user-defined network: on 127.0.0.11, at
// ports of its own choice, with what is sent to port 53 redirected there (libnetwork, resolver_unix.go). What it doesn't know by
// itself it asks a server for, out of that namespace.
func (n *Netns) DockerDNS(t testing.TB, names map[string]string, server string) {
	t.Helper()
	ask := func(network string, query []byte) []byte {
		c, err := n.Dial(network, server)
		if err != nil {
			return nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if network == "tcp" {
			writeDNS(c, query)
			return readDNS(c)
		}
		p := make([]byte, 65535)
		if _, err = c.Write(query); err != nil {
			return nil
		}
		m, _ := c.Read(p)
		return p[:m]
	}
	udp, tcp := n.ServeDNS(t, "127.0.0.11:0", func(network string, query []byte) []byte {
		var p dnsmessage.Parser
		_, err := p.Start(query)
		q, err2 := p.Question()
		if _, have := names[strings.TrimSuffix(q.Name.String(), ".")]; err == nil && err2 == nil && !have {
			return ask(network, query)
		}
		return dnsAnswer(query, names)
	})
	rules := "table ip nat {\n"
	for _, c := range []struct{ name, hook, matches string }{
		{"DOCKER_OUTPUT", "output priority -100", "ip daddr 127.0.0.11 %[1]s dport 53 dnat to 127.0.0.11:%[2]d"},
		{"DOCKER_POSTROUTING", "postrouting priority 100", "ip daddr 127.0.0.11 ip saddr 127.0.0.11 %[1]s sport %[2]d snat to :53"},
	} {
		rules += "chain " + c.name + " { type nat hook " + c.hook + ";\n"
		rules += fmt.Sprintf(c.matches+"\n", "tcp", tcp) + fmt.Sprintf(c.matches+"\n", "udp", udp) + "}\n"
	}
	file := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(file, []byte(rules+"}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.Run(t, "nft", "-f", file)
}

// DNS answers questions for addresses of names.
func DNS(names map[string]string) func(string, []byte) []byte {
	return func(_ string, query []byte) []byte { return dnsAnswer(query, names) }
}

func dnsAnswer(query []byte, names map[string]string) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	a, err := netip.ParseAddr(names[strings.TrimSuffix(q.Name.String(), ".")])
	h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
	switch {
	case err != nil:
		m.RCode = dnsmessage.RCodeNameError
	case a.Is4() && q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: a.As4()}}}
	case a.Is6() && q.Type == dnsmessage.TypeAAAA:
		m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}}}
	}
	p, _ := m.Pack()
	return p
}

// Echo sends bytes and wants them back.
func (n *Netns) Echo(to string, size int) error {
	c, err := n.Dial("tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	p := bytes.Repeat([]byte("0123456789abcdef\n"), size/17+1)[:size]
	go func() {
		_, _ = c.Write(p)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if sha256.Sum256(got) != sha256.Sum256(p) {
		return fmt.Errorf("sent %d bytes, got %d others", len(p), len(got))
	}
	return nil
}

// EchoUDP is Echo with one packet.
func (n *Netns) EchoUDP(to string, size int) error {
	c, err := n.Dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	p := bytes.Repeat([]byte("x"), size)
	if _, err := c.Write(p); err != nil {
		return err
	}
	got := make([]byte, 65535)
	m, err := c.Read(got)
	if err != nil {
		return err
	}
	if !bytes.Equal(got[:m], p) {
		return fmt.Errorf("sent %d bytes, got %d others", size, m)
	}
	return nil
}
