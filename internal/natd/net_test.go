package natd_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/fault"
	"hull/internal/nat"
)

// envStandIn has this program do what hull does, until it is killed.
const envStandIn = "HULL_NATD_TEST_STANDIN"

func TestMain(m *testing.M) {
	if program := os.Getenv(envStandIn); program != "" {
		standIn(program)
	}
	os.Exit(hulltest.NoLeaks(m))
}

// standIn has a network set up in the namespace that is descriptor 3.
func standIn(program string) {
	n, err := nat.Start(nat.Config{Program: program})
	if err == nil {
		err = n.Attach(os.NewFile(3, "netns"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

// netns is a network namespace, and a mount namespace with it, that has a thread.
type netns struct {
	file *os.File
	tid  int
	work chan func()
}

func newNetns(t testing.TB, open func() (*os.File, error)) *netns {
	t.Helper()
	n := &netns{work: make(chan func())}
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
		n.file.Close()
	})
	return n
}

func (n *netns) enter(open func() (*os.File, error)) (err error) {
	n.tid = unix.Gettid()
	if open != nil {
		if n.file, err = open(); err != nil {
			return err
		}
		return unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	n.file, err = os.Open("/proc/thread-self/ns/net")
	return err
}

// do runs f in the namespace.
func (n *netns) do(f func()) {
	done := make(chan struct{})
	n.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

func (n *netns) run(t testing.TB, args ...string) string {
	t.Helper()
	var out []byte
	var err error
	n.do(func() { out, err = exec.Command(args[0], args[1:]...).CombinedOutput() })
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (n *netns) listen(t testing.TB, at string) net.Listener {
	t.Helper()
	var l net.Listener
	var err error
	n.do(func() { l, err = net.Listen("tcp", at) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (n *netns) dial(network, to string) (c net.Conn, err error) {
	n.do(func() { c, err = net.DialTimeout(network, to, 5*time.Second) })
	return c, err
}

// world is a host with an uplink to an outside where servers are.
type world struct {
	host, outside *netns
	user          bool
}

const (
	outside4 = "10.99.0.2"
	outside6 = "fd99::2"
	host4    = "10.99.0.1"
)

// newWorld makes namespaces for the host and for what is outside. hull-net is run by an ordinary user if user is set.
func newWorld(t testing.TB, user bool) *world {
	t.Helper()
	hulltest.Require(t, hulltest.Root, hulltest.Command("ip"), hulltest.Command("go"), tun)
	w := &world{host: newNetns(t, nil), outside: newNetns(t, nil), user: user}
	h, o := w.host, w.outside
	h.run(t, "ip", "link", "set", "lo", "up")
	o.run(t, "ip", "link", "set", "lo", "up")
	h.run(t, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "uplink", "netns", fmt.Sprint(o.tid))
	for _, e := range []struct {
		ns     *netns
		v4, v6 string
	}{{h, host4, "fd99::1"}, {o, outside4, outside6}} {
		e.ns.run(t, "ip", "link", "set", "uplink", "addrgenmode", "none") // what changes by itself hides what hull changes
		e.ns.run(t, "ip", "addr", "add", e.v4+"/24", "dev", "uplink")
		e.ns.run(t, "ip", "addr", "add", e.v6+"/64", "dev", "uplink", "nodad")
		e.ns.run(t, "ip", "link", "set", "uplink", "up")
	}
	o.run(t, "ip", "addr", "add", "10.99.0.3/24", "dev", "uplink")
	h.run(t, "ip", "route", "add", "default", "via", outside4)
	h.run(t, "ip", "-6", "route", "add", "default", "via", outside6)
	for end := time.Now().Add(10 * time.Second); strings.Contains(h.run(t, "ip", "link", "show", "uplink"), "NO-CARRIER"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the uplink has no carrier")
		}
	}
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 127.0.0.53\nsearch example.test\noptions edns0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	h.do(func() {
		err = errors.Join(
			unix.Mount(resolv, "/etc/resolv.conf", "", unix.MS_BIND, ""),
			unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "mode=0755"),
			unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))),
			os.Chmod("/dev/net/tun", 0o666),
			os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0),
			os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0))
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
	serveTCP(w.outside.listen(t, outside4+":80"))
	serveTCP(w.outside.listen(t, "10.99.0.3:80"))
	serveTCP(w.outside.listen(t, "["+outside6+"]:80"))
	w.outside.serveUDP(t, outside4+":7")
	w.outside.serveUDP(t, "["+outside6+"]:7")
	return w
}

var tun = hulltest.Need{Name: "tun", Check: func() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err
}}

// serveTCP answers with what it was sent, when the sender has ended.
func serveTCP(l net.Listener) {
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

func (n *netns) packets(t testing.TB, at string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	var err error
	n.do(func() { c, err = net.ListenPacket("udp", at) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (n *netns) serveUDP(t testing.TB, at string) {
	t.Helper()
	c := n.packets(t, at)
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

// serveDNS is the host's resolver, on its loopback as systemd-resolved is.
func (w *world) serveDNS(t *testing.T, names map[string]string) {
	t.Helper()
	c := w.host.packets(t, "127.0.0.53:53")
	go func() {
		p := make([]byte, 65535)
		for {
			n, from, err := c.ReadFrom(p)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(dnsAnswer(p[:n], names), from)
		}
	}()
	l := w.host.listen(t, "127.0.0.53:53")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			_, _ = io.ReadFull(c, size[:])
			p := make([]byte, int(size[0])<<8|int(size[1]))
			_, _ = io.ReadFull(c, p)
			a := dnsAnswer(p, names)
			_, _ = c.Write(append([]byte{byte(len(a) >> 8), byte(len(a))}, a...))
			c.Close()
		}
	}()
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

// hullNet returns the program, where an ordinary user can execute it.
func hullNet(t testing.TB) string {
	t.Helper()
	path := hulltest.HullNetBinary(t)
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// container is a namespace without anything, as that of a container is before its network is set up.
type container struct {
	*netns
	network *nat.Network
}

func (w *world) emptyNetns(t testing.TB) *netns {
	t.Helper()
	if !w.user {
		return newNetns(t, nil)
	}
	var cmd *exec.Cmd
	var err error
	w.host.do(func() {
		cmd = exec.Command("sleep", "300")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 1000, Size: 1}},
		}
		err = cmd.Start()
	})
	if err != nil {
		t.Fatal(err)
	}
	ns := newNetns(t, func() (*os.File, error) { return os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)) })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return ns
}

func (w *world) start(t testing.TB, cfg nat.Config) (n *nat.Network, err error) {
	t.Helper()
	cfg.Program = hullNet(t)
	w.host.do(func() { n, err = nat.Start(cfg) })
	return n, err
}

func (w *world) container(t testing.TB, cfg nat.Config) *container {
	t.Helper()
	n, err := w.start(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := &container{w.emptyNetns(t), n}
	if err := n.Attach(c.file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.network != nil {
			_, _ = c.network.Close()
		}
	})
	return c
}

func (c *container) close(t *testing.T) nat.Report {
	t.Helper()
	r, err := c.network.Close()
	c.network = nil
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// echo sends bytes and wants them back.
func (n *netns) echo(to string, size int) error {
	c, err := n.dial("tcp", to)
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

func (n *netns) echoUDP(to string, size int) error {
	c, err := n.dial("udp", to)
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

// lookup resolves a name by the name server that the container's resolv.conf has.
func (c *container) lookup(network, name string, typ dnsmessage.Type) (dnsmessage.Message, error) {
	var m dnsmessage.Message
	server, _, _ := strings.Cut(strings.TrimPrefix(string(c.network.ResolvConf()), "nameserver "), "\n")
	conn, err := c.dial(network, net.JoinHostPort(server, "53"))
	if err != nil {
		return m, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	m.ID, m.RecursionDesired = 4711, true
	m.Questions = []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: typ, Class: dnsmessage.ClassINET}}
	p, err := m.Pack()
	if err != nil {
		return m, err
	}
	if network == "tcp" {
		p = append([]byte{byte(len(p) >> 8), byte(len(p))}, p...)
	}
	if _, err := conn.Write(p); err != nil {
		return m, err
	}
	answer := make([]byte, 65535)
	n, err := conn.Read(answer)
	if err != nil {
		return m, err
	}
	answer = answer[:n]
	if network == "tcp" {
		answer = answer[2:]
	}
	err = m.Unpack(answer)
	if err == nil && m.ID != 4711 {
		err = fmt.Errorf("id %d", m.ID)
	}
	return m, err
}

func (c *container) resolves(t *testing.T, network, name, want string) {
	t.Helper()
	typ := dnsmessage.TypeA
	if strings.Contains(want, ":") {
		typ = dnsmessage.TypeAAAA
	}
	m, err := c.lookup(network, name, typ)
	if err != nil {
		t.Fatalf("lookup %s by %s: %v", name, network, err)
	}
	got := ""
	for _, a := range m.Answers {
		switch b := a.Body.(type) {
		case *dnsmessage.AResource:
			got += netip.AddrFrom4(b.A).String()
		case *dnsmessage.AAAAResource:
			got += netip.AddrFrom16(b.AAAA).String()
		}
	}
	if got != want {
		t.Errorf("lookup %s by %s: %q (%v), want %q", name, network, got, m.RCode, want)
	}
}

// asBoth runs a test with hull-net as root and as an ordinary user.
func asBoth(t *testing.T, f func(t *testing.T, w *world)) {
	t.Run("root", func(t *testing.T) { f(t, newWorld(t, false)) })
	t.Run("user", func(t *testing.T) {
		hulltest.Require(t, hulltest.UserNS)
		f(t, newWorld(t, true))
	})
}

func TestOutside(t *testing.T) {
	asBoth(t, func(t *testing.T, w *world) {
		w.serveDNS(t, map[string]string{"four.test": outside4, "six.test": outside6})
		before := w.host.run(t, "ip", "addr") + w.host.run(t, "ip", "route") + w.host.run(t, "ip", "rule")
		c := w.container(t, nat.Config{Hostname: "box"})
		for _, to := range []string{outside4 + ":80", "[" + outside6 + "]:80"} {
			for _, size := range []int{0, 1, 100_000, 20 << 20} {
				if err := c.echo(to, size); err != nil {
					t.Errorf("%d bytes to %s: %v", size, to, err)
				}
			}
		}
		for _, to := range []string{outside4 + ":7", "[" + outside6 + "]:7"} {
			for _, size := range []int{1, 1400, 9000, 60000} {
				if err := c.echoUDP(to, size); err != nil {
					t.Errorf("datagram of %d bytes to %s: %v", size, to, err)
				}
			}
		}
		for _, network := range []string{"udp", "tcp"} {
			c.resolves(t, network, "four.test", outside4)
			c.resolves(t, network, "six.test", outside6)
			c.resolves(t, network, "none.test", "")
		}
		if _, err := c.dial("tcp", outside4+":81"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a port where nobody listens: %v, want ECONNREFUSED", err)
		}
		if got, want := string(c.network.ResolvConf()), "search example.test\noptions edns0\n"; !strings.HasSuffix(got, want) {
			t.Errorf("resolv.conf is %q, want the end %q", got, want)
		}
		if got := string(c.network.Hosts()); !strings.Contains(got, "\tbox\n") {
			t.Errorf("hosts lacks the container's name: %q", got)
		}
		if got := c.network.Path(); got != "tap" {
			t.Errorf("path %q", got)
		}
		if after := w.host.run(t, "ip", "addr") + w.host.run(t, "ip", "route") + w.host.run(t, "ip", "rule"); after != before {
			t.Errorf("the host's network was changed:\n%s\nit was\n%s", after, before)
		}
		c.close(t)
	})
}

func TestPing(t *testing.T) {
	hulltest.Require(t, hulltest.Command("ping"))
	w := newWorld(t, false)
	c := w.container(t, nat.Config{})
	for _, to := range []string{outside4, outside6} {
		c.run(t, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", to)
	}
	if out := c.ping("10.99.0.99"); !strings.Contains(out, "100% packet loss") {
		t.Errorf("an address that nobody has answers:\n%s", out)
	}
}

func (n *netns) ping(to string) (out string) {
	n.do(func() {
		p, _ := exec.Command("ping", "-n", "-c", "1", "-W", "1", to).CombinedOutput()
		out = string(p)
	})
	return out
}

// What listens on the host is not part of the outside.
func TestHostIsOutOfReach(t *testing.T) {
	asBoth(t, func(t *testing.T, w *world) {
		for _, at := range []string{host4 + ":8000", "127.0.0.1:8000", "[::1]:8000", "[fd99::1]:8000"} {
			serveTCP(w.host.listen(t, at))
		}
		w.host.serveUDP(t, host4+":8000")
		c := w.container(t, nat.Config{})
		gateway := strings.Fields(c.run(t, "ip", "route", "show", "default"))[2]
		for _, to := range []string{host4, "fd99::1", gateway, "169.254.169.254", "0.0.0.0", "127.0.0.1", "::ffff:127.0.0.1"} {
			if conn, err := c.dial("tcp", net.JoinHostPort(to, "8000")); err == nil {
				t.Errorf("the container reaches %s", conn.RemoteAddr())
				conn.Close()
			}
		}
		if err := c.echoUDP(host4+":8000", 1); err == nil {
			t.Error("the container reaches the host by UDP")
		}
		var refused []string
		for _, r := range c.close(t).Refused {
			refused = append(refused, r.String())
		}
		if want := "tcp " + host4 + " port 8000"; !slices.Contains(refused, want) {
			t.Errorf("refused %q lacks %q", refused, want)
		}
	})
}

func TestPublish(t *testing.T) {
	asBoth(t, func(t *testing.T, w *world) {
		cfg := nat.Config{Publish: []nat.Port{{HostPort: 8080, Container: 80}, {Host: host4, HostPort: 8081, Container: 80}}}
		c := w.container(t, cfg)
		if err := w.host.echo("127.0.0.1:8080", 1); err == nil {
			t.Error("a port where nobody listens in the container answers")
		}
		serveTCP(c.listen(t, ":80"))
		if err := w.host.echo("127.0.0.1:8080", 1<<20); err != nil {
			t.Error(err)
		}
		if err := w.outside.echo(host4+":8081", 1<<20); err != nil {
			t.Error(err)
		}
		_, err := w.start(t, cfg)
		if err == nil || !strings.Contains(err.Error(), "publish 127.0.0.1:8080: ") || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("a port that is taken: %v", err)
		}
	})
}

func TestAllow(t *testing.T) {
	asBoth(t, func(t *testing.T, w *world) {
		names := map[string]string{"good.test": outside4, "bad.test": "10.99.0.3", "host.test": "127.0.0.1", "six.test": outside6, "a.wild.test": outside4}
		w.serveDNS(t, names)
		c := w.container(t, nat.Config{Allow: []nat.Rule{{Host: "good.test", Port: 80}, {Host: "six.test"}, {Host: "host.test"}, {Host: "*.wild.test", Port: 81}}})
		if err := c.echo(outside4+":80", 1); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("an address before its name was resolved: %v", err)
		}
		c.resolves(t, "udp", "good.test", outside4)
		c.resolves(t, "udp", "six.test", outside6)
		c.resolves(t, "udp", "host.test", "127.0.0.1")
		c.resolves(t, "udp", "bad.test", "")
		c.resolves(t, "udp", "wild.test", "")
		if err := c.echo(outside4+":80", 1000); err != nil {
			t.Error(err)
		}
		if err := c.echo("["+outside6+"]:80", 1000); err != nil {
			t.Error(err)
		}
		if err := c.echo("10.99.0.3:80", 1); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("an address that was not allowed: %v", err)
		}
		if err := c.echoUDP(outside4+":7", 1); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a port that was not allowed: %v", err)
		}
		var got []string
		for _, r := range c.close(t).Refused {
			got = append(got, r.String())
		}
		want := []string{"dns bad.test", "dns wild.test", "tcp " + outside4 + " port 80", "tcp 10.99.0.3 port 80", "udp good.test port 7"}
		if !slices.Equal(got, want) {
			t.Errorf("refused\n%q, want\n%q", got, want)
		}
	})
}

func TestRefusalsAreBounded(t *testing.T) {
	w := newWorld(t, false)
	c := w.container(t, nat.Config{Allow: []nat.Rule{{Host: "10.99.0.3"}}})
	for port := range 150 {
		if _, err := c.dial("tcp", fmt.Sprintf("%s:%d", outside4, 1000+port)); err == nil {
			t.Fatal("reached")
		}
	}
	if r := c.close(t); len(r.Refused) != 100 || r.More != 50 {
		t.Errorf("%d refusals and %d more", len(r.Refused), r.More)
	}
}

func TestIP(t *testing.T) {
	w := newWorld(t, false)
	for ip, want := range map[string]string{
		"10.99.0.77":  "already used",
		host4:         "already used",
		"fd00::2":     "not an IPv4 address",
		"10.1.2":      "not an IPv4 address",
		"10.1.2.0":    "the last number",
		"10.1.2.255":  "the last number",
		"127.0.0.9":   "not an address that a container can have",
		"10.1.2.0x10": "not an IPv4 address",
	} {
		_, err := w.start(t, nat.Config{IP: ip})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ip %s: %v, want %q", ip, err, want)
		}
	}
	for _, ip := range []string{"10.1.2.1", "10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.254"} {
		c := w.container(t, nat.Config{IP: ip})
		if err := c.echo(outside4+":80", 10); err != nil {
			t.Errorf("from %s: %v", ip, err)
		}
		if out := c.run(t, "ip", "-4", "addr", "show", "eth0"); !strings.Contains(out, " "+ip+"/") {
			t.Errorf("the address is not %s:\n%s", ip, out)
		}
		c.close(t)
	}
}

func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, false)
	errs := make(chan error)
	const many = 20
	for range many {
		c := w.container(t, nat.Config{})
		go func() { errs <- c.echo(outside4+":80", 1<<20) }()
	}
	for range many {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// The network ends with hull, whenever that is killed: no process is left, and nothing on the host.
func TestKill(t *testing.T) {
	w := newWorld(t, false)
	path := hullNet(t)
	state := func() string {
		return w.host.run(t, "ip", "-o", "link") + w.host.run(t, "ip", "-o", "addr") + w.host.run(t, "ip", "route")
	}
	before := state()
	for round := range 60 {
		ns := newNetns(t, nil)
		var cmd *exec.Cmd
		var err error
		var said bytes.Buffer
		w.host.do(func() {
			cmd = exec.Command("/proc/self/exe")
			cmd.Env = []string{envStandIn + "=" + path}
			cmd.ExtraFiles = []*os.File{ns.file}
			cmd.Stderr = &said
			err = cmd.Start()
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatalf("round %d: %v: %s", round, err, said.String())
		}
		_ = cmd.Wait()
		for end := time.Now().Add(5 * time.Second); len(running(path)) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("round %d: hull-net is still there: %v", round, running(path))
			}
		}
	}
	if after := state(); after != before {
		t.Errorf("the host's network is\n%s\nit was\n%s", after, before)
	}
}

// running returns the processes of a program.
func running(path string) (pids []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, l := range links {
		if exe, err := os.Readlink(l); err == nil && exe == path {
			pids = append(pids, l)
		}
	}
	return pids
}

func TestTunIsForbidden(t *testing.T) {
	w := newWorld(t, true)
	n, err := w.start(t, nat.Config{})
	if err != nil {
		t.Fatal(err)
	}
	// What the user of the world sees is a mount of its own.
	if err := os.Chmod(fmt.Sprintf("/proc/%d/root/dev/net/tun", w.host.tid), 0o600); err != nil {
		t.Fatal(err)
	}
	err = n.Attach(w.emptyNetns(t).file)
	var e *fault.Error
	if !errors.As(err, &e) || !strings.Contains(e.Error(), "permission denied") || !strings.Contains(e.Hint, "mode 0600") {
		t.Errorf("%v; hint %q", err, e.Hint)
	}
	if _, err := n.Close(); err == nil {
		t.Error("hull-net goes on after an error")
	}
}
