package natd_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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
	if os.Getenv(envConfined) != "" {
		confined()
	}
	os.Exit(hulltest.NoLeaks(m))
}

// standIn has a network set up in the namespace that is descriptor 3, says so, and ends it when its input ends.
func standIn(program string) {
	n, err := nat.Start(nat.Config{Program: program})
	if err == nil {
		err = n.Ready()
	}
	if err == nil {
		err = n.Attach(os.NewFile(3, "netns"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	_, _ = n.Close()
	select {}
}

// world has hull-net on its host.
type world struct{ *hulltest.World }

func newWorld(t testing.TB, user bool) *world { return &world{hulltest.NewWorld(t, user)} }

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
	*hulltest.Netns
	network *nat.Network
}

func (w *world) emptyNetns(t testing.TB) *hulltest.Netns {
	t.Helper()
	if !w.User {
		return hulltest.NewNetns(t, nil)
	}
	var cmd *exec.Cmd
	var err error
	w.Host.Do(func() {
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
	ns := hulltest.NewNetns(t, func() (*os.File, error) { return os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)) })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return ns
}

func (w *world) start(t testing.TB, cfg nat.Config) (n *nat.Network, err error) {
	t.Helper()
	cfg.Program = hullNet(t)
	w.Host.Do(func() { n, err = nat.Start(cfg) })
	if err != nil {
		return nil, err
	}
	if err := n.Ready(); err != nil {
		n.Abandon()
		return nil, err
	}
	return n, nil
}

func (w *world) container(t testing.TB, cfg nat.Config) *container {
	t.Helper()
	n, err := w.start(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := &container{w.emptyNetns(t), n}
	if err := n.Attach(c.File); err != nil {
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

// lookup resolves a name by the name server that the container's resolv.conf has.
func (c *container) lookup(network, name string, typ dnsmessage.Type) (dnsmessage.Message, error) {
	var m dnsmessage.Message
	server, _, _ := strings.Cut(strings.TrimPrefix(string(c.network.ResolvConf()), "nameserver "), "\n")
	conn, err := c.Dial(network, net.JoinHostPort(server, "53"))
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
		w.ServeDNS(t, map[string]string{"four.test": hulltest.Outside4, "six.test": hulltest.Outside6})
		before := w.Host.Run(t, "ip", "addr") + w.Host.Run(t, "ip", "route") + w.Host.Run(t, "ip", "rule")
		c := w.container(t, nat.Config{Hostname: "box"})
		for _, to := range []string{hulltest.Outside4 + ":80", "[" + hulltest.Outside6 + "]:80"} {
			for _, size := range []int{0, 1, 100_000, 20 << 20} {
				if err := c.Echo(to, size); err != nil {
					t.Errorf("%d bytes to %s: %v", size, to, err)
				}
			}
		}
		for _, to := range []string{hulltest.Outside4 + ":7", "[" + hulltest.Outside6 + "]:7"} {
			for _, size := range []int{1, 1400, 9000, 60000} {
				if err := c.EchoUDP(to, size); err != nil {
					t.Errorf("datagram of %d bytes to %s: %v", size, to, err)
				}
			}
		}
		for _, network := range []string{"udp", "tcp"} {
			c.resolves(t, network, "four.test", hulltest.Outside4)
			c.resolves(t, network, "six.test", hulltest.Outside6)
			c.resolves(t, network, "none.test", "")
		}
		if _, err := c.Dial("tcp", hulltest.Outside4+":81"); !errors.Is(err, unix.ECONNREFUSED) {
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
		if after := w.Host.Run(t, "ip", "addr") + w.Host.Run(t, "ip", "route") + w.Host.Run(t, "ip", "rule"); after != before {
			t.Errorf("the host's network was changed:\n%s\nit was\n%s", after, before)
		}
		c.close(t)
	})
}

// A connection that is reset outside is reset inside, also if that meets a write: it doesn't seem to have ended well.
func TestReset(t *testing.T) {
	w := newWorld(t, false)
	l := w.Outside.Listen(t, hulltest.Outside4+":8003")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	c := w.container(t, nat.Config{})
	ended := 0
	const times = 60
	for range times {
		conn, err := c.Dial("tcp", hulltest.Outside4+":8003")
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		// The kernel tells it once, whoever asks first.
		_, werr := conn.Write(make([]byte, 200_000))
		if _, err := conn.Read(make([]byte, 1)); werr == nil && !errors.Is(err, unix.ECONNRESET) {
			ended++
		}
		conn.Close()
	}
	if ended > 0 {
		t.Errorf("of %d connections that were reset %d have ended for the container, or have not", times, ended)
	}
}

func TestPing(t *testing.T) {
	hulltest.Require(t, hulltest.Command("ping"))
	w := newWorld(t, false)
	c := w.container(t, nat.Config{})
	for _, to := range []string{hulltest.Outside4, hulltest.Outside6} {
		c.Run(t, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", to)
	}
	if out := c.ping("10.99.0.99"); !strings.Contains(out, "100% packet loss") {
		t.Errorf("an address that nobody has answers:\n%s", out)
	}
}

func (n *container) ping(to string) (out string) {
	n.Do(func() {
		p, _ := exec.Command("ping", "-n", "-c", "1", "-W", "1", to).CombinedOutput()
		out = string(p)
	})
	return out
}

// What listens on the host is not part of the outside.
func TestHostIsOutOfReach(t *testing.T) {
	asBoth(t, func(t *testing.T, w *world) {
		for _, at := range []string{hulltest.Host4 + ":8000", "127.0.0.1:8000", "[::1]:8000", "[fd99::1]:8000"} {
			hulltest.ServeTCP(w.Host.Listen(t, at))
		}
		w.Host.ServeUDP(t, hulltest.Host4+":8000")
		c := w.container(t, nat.Config{})
		gateway := strings.Fields(c.Run(t, "ip", "route", "show", "default"))[2]
		for _, to := range []string{hulltest.Host4, "fd99::1", gateway, "169.254.169.254", "0.0.0.0", "127.0.0.1", "::ffff:127.0.0.1"} {
			if conn, err := c.Dial("tcp", net.JoinHostPort(to, "8000")); err == nil {
				t.Errorf("the container reaches %s", conn.RemoteAddr())
				conn.Close()
			}
		}
		if err := c.EchoUDP(hulltest.Host4+":8000", 1); err == nil {
			t.Error("the container reaches the host by UDP")
		}
		var refused []string
		for _, r := range c.close(t).Refused {
			refused = append(refused, r.String())
		}
		if want := "tcp " + hulltest.Host4 + " port 8000"; !slices.Contains(refused, want) {
			t.Errorf("refused %q lacks %q", refused, want)
		}
	})
}

func TestPublish(t *testing.T) {
	asBoth(t, func(t *testing.T, w *world) {
		cfg := nat.Config{Publish: []nat.Port{{HostPort: 8080, Container: 80}, {Host: hulltest.Host4, HostPort: 8081, Container: 80}, {HostPort: 8082, Container: 81}}}
		c := w.container(t, cfg)
		if err := w.Host.Echo("127.0.0.1:8080", 1); err == nil {
			t.Error("a port where nobody listens in the container answers")
		}
		hulltest.ServeTCP(c.Listen(t, ":80"))
		if err := w.Host.Echo("127.0.0.1:8080", 1<<20); err != nil {
			t.Error(err)
		}
		if err := w.Outside.Echo(hulltest.Host4+":8081", 1<<20); err != nil {
			t.Error(err)
		}
		l := c.Listen(t, ":81")
		got := make(chan error)
		go func() {
			conn, err := l.Accept()
			if err == nil {
				_, err = io.Copy(io.Discard, conn)
				conn.Close()
			}
			got <- err
		}()
		conn, err := w.Host.Dial("tcp", "127.0.0.1:8082")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(make([]byte, 1000))
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
		if err := <-got; !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a connection that was reset outside: %v", err)
		}
		_, err = w.start(t, cfg)
		if err == nil || !strings.Contains(err.Error(), "publish 127.0.0.1:8080: ") || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("a port that is taken: %v", err)
		}
	})
}

func TestAllow(t *testing.T) {
	asBoth(t, func(t *testing.T, w *world) {
		names := map[string]string{"good.test": hulltest.Outside4, "bad.test": "10.99.0.3", "host.test": "127.0.0.1", "six.test": hulltest.Outside6, "a.wild.test": hulltest.Outside4}
		w.ServeDNS(t, names)
		c := w.container(t, nat.Config{Allow: []nat.Rule{{Host: "good.test", Port: 80}, {Host: "six.test"}, {Host: "host.test"}, {Host: "*.wild.test", Port: 81}}})
		if err := c.Echo(hulltest.Outside4+":80", 1); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("an address before its name was resolved: %v", err)
		}
		c.resolves(t, "udp", "good.test", hulltest.Outside4)
		c.resolves(t, "udp", "six.test", hulltest.Outside6)
		c.resolves(t, "udp", "host.test", "127.0.0.1")
		c.resolves(t, "udp", "bad.test", "")
		c.resolves(t, "udp", "wild.test", "")
		if err := c.Echo(hulltest.Outside4+":80", 1000); err != nil {
			t.Error(err)
		}
		if err := c.Echo("["+hulltest.Outside6+"]:80", 1000); err != nil {
			t.Error(err)
		}
		if err := c.Echo("10.99.0.3:80", 1); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("an address that was not allowed: %v", err)
		}
		if err := c.EchoUDP(hulltest.Outside4+":7", 1); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a port that was not allowed: %v", err)
		}
		var got []string
		for _, r := range c.close(t).Refused {
			got = append(got, r.String())
		}
		want := []string{"dns bad.test", "dns wild.test", "tcp " + hulltest.Outside4 + " port 80", "tcp 10.99.0.3 port 80", "udp good.test port 7"}
		if !slices.Equal(got, want) {
			t.Errorf("refused\n%q, want\n%q", got, want)
		}
	})
}

func TestRefusalsAreBounded(t *testing.T) {
	w := newWorld(t, false)
	c := w.container(t, nat.Config{Allow: []nat.Rule{{Host: "10.99.0.3"}}})
	for port := range 150 {
		if _, err := c.Dial("tcp", fmt.Sprintf("%s:%d", hulltest.Outside4, 1000+port)); err == nil {
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
		"10.99.0.77":   "already used",
		hulltest.Host4: "already used",
		"fd00::2":      "want an IPv4 address",
		"10.1.2":       "want an IPv4 address",
		"10.1.2.0":     "the last number",
		"10.1.2.255":   "the last number",
		"127.0.0.9":    "not an address that a container can have",
		"10.1.2.0x10":  "want an IPv4 address",
	} {
		_, err := w.start(t, nat.Config{IP: ip})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ip %s: %v, want %q", ip, err, want)
		}
	}
	for _, ip := range []string{"10.1.2.1", "10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.254"} {
		c := w.container(t, nat.Config{IP: ip})
		if err := c.Echo(hulltest.Outside4+":80", 10); err != nil {
			t.Errorf("from %s: %v", ip, err)
		}
		if out := c.Run(t, "ip", "-4", "addr", "show", "eth0"); !strings.Contains(out, " "+ip+"/") {
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
		go func() { errs <- c.Echo(hulltest.Outside4+":80", 1<<20) }()
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
		return w.Host.Run(t, "ip", "-o", "link") + w.Host.Run(t, "ip", "-o", "addr") + w.Host.Run(t, "ip", "route")
	}
	before := state()
	for round := range 60 {
		ns := hulltest.NewNetns(t, nil)
		cmd, input, _ := w.standIn(t, ns)
		time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		_ = cmd.Wait()
		input.Close()
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

// Also while it carries on what the container has sent, and somebody takes that slowly.
func TestKillWhileDraining(t *testing.T) {
	w := newWorld(t, false)
	l := w.Outside.Listen(t, hulltest.Outside4+":8002")
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for p := make([]byte, 64<<10); err == nil; {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				_, err = c.Read(p)
			}
		}
	}()
	ns := hulltest.NewNetns(t, nil)
	cmd, input, output := w.standIn(t, ns)
	if _, err := output.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	conn, err := ns.Dial("tcp", hulltest.Outside4+":8002")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	for p := make([]byte, 1<<20); err == nil; {
		_, err = conn.Write(p)
	}
	conn.Close()
	input.Close()
	time.Sleep(100 * time.Millisecond)
	if len(running(hullNet(t))) == 0 {
		t.Error("hull-net has ended, with all that it had to carry on")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for end := time.Now().Add(2 * time.Second); len(running(hullNet(t))) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("hull-net is still there: %v", running(hullNet(t)))
		}
	}
}

// standIn starts this program in the place of hull.
func (w *world) standIn(t *testing.T, ns *hulltest.Netns) (*exec.Cmd, io.Closer, io.Reader) {
	t.Helper()
	path := hullNet(t)
	var cmd *exec.Cmd
	var input io.WriteCloser
	var output io.ReadCloser
	var err error
	w.Host.Do(func() {
		cmd = exec.Command("/proc/self/exe")
		cmd.Env = []string{envStandIn + "=" + path}
		cmd.ExtraFiles = []*os.File{ns.File}
		cmd.Stderr = os.Stderr
		var errs [3]error
		input, errs[0] = cmd.StdinPipe()
		output, errs[1] = cmd.StdoutPipe()
		errs[2] = cmd.Start()
		err = errors.Join(errs[:]...)
	})
	if err != nil {
		t.Fatal(err)
	}
	return cmd, input, output
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
	if err := os.Chmod(fmt.Sprintf("/proc/%d/root/dev/net/tun", w.Host.TID), 0o600); err != nil {
		t.Fatal(err)
	}
	err = n.Attach(w.emptyNetns(t).File)
	var e *fault.Error
	if !errors.As(err, &e) || !strings.Contains(e.Error(), "permission denied") || !strings.Contains(e.Hint, "mode 0600") {
		t.Errorf("%v; hint %q", err, e.Hint)
	}
	if _, err := n.Close(); err == nil {
		t.Error("hull-net goes on after an error")
	}
}
