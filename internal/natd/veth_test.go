package natd_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/nat"
)

// forwarding has a world's host forward.
func forwarding() error {
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
}

func newForwardingWorld(t testing.TB) *world {
	hulltest.Require(t, hulltest.Command("nft"), hulltest.OwnerTables)
	return &world{hulltest.NewWorld(t, false, forwarding)}
}

// state is all of the host's network that hull could change.
func (w *world) state(t testing.TB) string {
	var s string
	for _, c := range []string{"ip -o link", "ip -o addr", "ip route show table all", "ip -6 route show table all", "ip rule", "ip neigh show nud permanent", "nft --stateless list ruleset",
		"cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/uplink/forwarding /proc/sys/net/ipv6/conf/all/forwarding /proc/sys/net/ipv4/conf/all/rp_filter"} {
		s += "# " + c + "\n" + w.Host.Run(t, strings.Fields(c)...)
	}
	return s
}

// becomes waits for the state that was before: the kernel takes a namespace apart after its last process.
func (w *world) becomes(t *testing.T, before string) {
	t.Helper()
	var after string
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if after = w.state(t); after == before {
			return
		}
	}
	t.Errorf("the host's network is\n%s\nit was\n%s", after, before)
}

func TestVeth(t *testing.T) {
	w := newForwardingWorld(t)
	w.ServeDNS(t, map[string]string{"four.test": hulltest.Outside4, "six.test": hulltest.Outside6})
	from := make(chan string, 100)
	for _, at := range []string{hulltest.Outside4 + ":90", "[" + hulltest.Outside6 + "]:90"} {
		l := w.Outside.Listen(t, at)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				from <- c.RemoteAddr().(*net.TCPAddr).IP.String()
				c.Close()
			}
		}()
	}
	before := w.state(t)
	c := w.container(t, nat.Config{Hostname: "box", Publish: []nat.Port{{HostPort: 8080, Container: 80}}})
	if c.network.Path() != nat.PathVeth || c.network.Why() != "" {
		t.Fatalf("by %s: %s", c.network.Path(), c.network.Why())
	}
	for _, to := range []string{hulltest.Outside4 + ":80", "[" + hulltest.Outside6 + "]:80"} {
		for _, size := range []int{0, 100_000, 20 << 20} {
			if err := c.Echo(to, size); err != nil {
				t.Errorf("%d bytes to %s: %v", size, to, err)
			}
		}
	}
	for _, to := range []string{hulltest.Outside4 + ":7", "[" + hulltest.Outside6 + "]:7"} {
		for _, size := range []int{1, 1400, 60000} {
			if err := c.EchoUDP(to, size); err != nil {
				t.Errorf("datagram of %d bytes to %s: %v", size, to, err)
			}
		}
	}
	for to, want := range map[string]string{hulltest.Outside4 + ":90": hulltest.Host4, "[" + hulltest.Outside6 + "]:90": "fd99::1"} {
		conn, err := c.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if got := <-from; got != want {
			t.Errorf("the outside sees %s, want %s", got, want)
		}
	}
	for _, network := range []string{"udp", "tcp"} {
		c.resolves(t, network, "four.test", hulltest.Outside4)
		c.resolves(t, network, "six.test", hulltest.Outside6)
	}
	if _, err := c.Dial("tcp", hulltest.Outside4+":81"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port where nobody listens: %v, want ECONNREFUSED", err)
	}
	l := c.Listen(t, ":80")
	hulltest.ServeTCP(l)
	if err := w.Host.Echo("127.0.0.1:8080", 1<<20); err != nil {
		t.Errorf("published port: %v", err)
	}
	// Nobody reaches the container but by the published port.
	address := strings.Fields(c.Run(t, "ip", "-o", "-4", "addr", "show", "eth0"))[3]
	address, _, _ = strings.Cut(address, "/")
	w.Outside.Run(t, "ip", "route", "add", address+"/32", "via", hulltest.Host4)
	for who, ns := range map[string]*hulltest.Netns{"the host": w.Host, "the outside": w.Outside} {
		ns.Do(func() {
			if conn, err := net.DialTimeout("tcp", address+":80", 300*time.Millisecond); err == nil {
				t.Errorf("%s reaches the container", who)
				conn.Close()
			}
		})
	}
	w.Outside.Run(t, "ip", "route", "del", address+"/32")
	c.close(t)
	l.Close()
	c.gone(t)
	w.becomes(t, before)
}

// gone takes the container's link away, as the end of its namespace would, which the test holds.
func (c *container) gone(t *testing.T) {
	t.Helper()
	c.Do(func() { _ = unix.Unshare(unix.CLONE_NEWNET) })
	c.File.Close()
}

// What would have to be forwarded by a host that doesn't, or would not get through, goes by the tap.
func TestVethIsNotTaken(t *testing.T) {
	nft := func(rules ...string) func(w *world) {
		return func(w *world) {
			for _, r := range rules {
				w.Host.Run(t, "nft", r)
			}
		}
	}
	sysctl := func(name, value string) func(w *world) {
		return func(w *world) { w.Host.Run(t, "sh", "-c", "echo "+value+" >/proc/sys/net/"+name) }
	}
	const chain = " { type filter hook forward priority 0; }"
	for _, test := range []struct {
		name      string
		setUp     func(w *world)
		cfg       nat.Config
		path, why string
	}{
		{"nothing is forwarded", func(w *world) { sysctl("ipv4/ip_forward", "0")(w); sysctl("ipv6/conf/all/forwarding", "0")(w) }, nat.Config{}, nat.PathTap, "IPv4: the host doesn't forward"},
		{"not by new devices", sysctl("ipv4/conf/default/forwarding", "0"), nat.Config{}, nat.PathVeth6, "net.ipv4.ip_forward"},
		{"not by the uplink", sysctl("ipv4/conf/uplink/forwarding", "0"), nat.Config{}, nat.PathVeth6, "that of a device"},
		{"IPv6 is not forwarded", sysctl("ipv6/conf/all/forwarding", "0"), nat.Config{}, nat.PathVeth4, "IPv6: net.ipv6.conf.all.forwarding is 0"},
		{"policy", nft("add table inet f", "add chain inet f fw { type filter hook forward priority 0; policy drop; }"), nat.Config{}, nat.PathTap, "the policy of nftables' chain inet f fw is drop"},
		{"policy of IPv6", nft("add table ip6 f", "add chain ip6 f fw { type filter hook forward priority 0; policy drop; }"), nat.Config{}, nat.PathVeth4, "the policy of nftables' chain ip6 f fw is drop"},
		{"drop", nft("add table ip f", "add chain ip f fw"+chain, "add rule ip f fw tcp dport 99 drop"), nat.Config{}, nat.PathVeth6, "has a rule with drop"},
		{"reject in a chain", nft("add table ip f", "add chain ip f fw"+chain, "add chain ip f other", "add rule ip f other reject", "add rule ip f fw iifname uplink jump other"), nat.Config{}, nat.PathVeth6, "has a rule with reject"},
		{"verdict map", nft("add table ip f", "add chain ip f fw"+chain, "add rule ip f fw ct state vmap { invalid : drop }"), nat.Config{}, nat.PathVeth6, "a verdict map"},
		{"redirection", nft("add table ip f", "add chain ip f pre { type nat hook prerouting priority -100; }", "add rule ip f pre tcp dport 80 redirect to :3128"), nat.Config{}, nat.PathVeth6, "has a rule with redir"},
		{"the host's own output", nft("add table ip f", "add chain ip f out { type filter hook output priority 0; }", "add rule ip f out ip daddr 10.99.0.3 drop"), nat.Config{}, nat.PathVeth6, "has a rule with drop"},
		{"mark", nft("add table ip f", "add chain ip f pre { type filter hook prerouting priority 0; }", "add rule ip f pre meta mark set 1"), nat.Config{}, nat.PathVeth6, "has a rule with meta set"},
		{"harmless", nft("add table inet f", "add chain inet f fw"+chain, "add chain inet f in { type filter hook input priority 0; policy drop; }", "add chain inet f other", "add rule inet f other ct state established counter accept", "add rule inet f fw jump other",
			"add chain inet f post { type nat hook postrouting priority 100; }", "add rule inet f post oifname uplink masquerade", "add rule inet f in ct state established accept", "add rule inet f in meta l4proto ipv6-icmp accept"), nat.Config{}, nat.PathVeth, ""},
		{"route", func(w *world) { w.Host.Run(t, "ip", "rule", "add", "from", "10.213.0.0/16", "blackhole") }, nat.Config{}, nat.PathTap, "the host has no route for packets from 10.213."},
		{"route of IPv6", func(w *world) {
			w.Host.Run(t, "ip", "-6", "rule", "add", "from", "fd68:756c:6c6e:6574::/64", "prohibit")
		}, nat.Config{}, nat.PathTap, "the host has no route for packets from fd68:756c:"},
		{"allow", func(*world) {}, nat.Config{Allow: []nat.Rule{{Host: hulltest.Outside4}, {Host: hulltest.Outside6}}}, nat.PathTap, "an allow-list is kept by hull-net"},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "_"), func(t *testing.T) {
			w := newForwardingWorld(t)
			test.setUp(w)
			before := w.state(t)
			c := w.container(t, test.cfg)
			if got, why := c.network.Path(), c.network.Why(); got != test.path || !strings.Contains(why, test.why) {
				t.Errorf("by %s: %s, want %s: %s", got, why, test.path, test.why)
			}
			for _, to := range []string{hulltest.Outside4 + ":80", "[" + hulltest.Outside6 + "]:80"} {
				if err := c.Echo(to, 100_000); err != nil {
					t.Errorf("%s: %v", to, err)
				}
			}
			c.close(t)
			c.gone(t)
			w.becomes(t, before)
		})
	}
}

func TestVethNotBesideLegacyTables(t *testing.T) {
	hulltest.Require(t, hulltest.Command("iptables-legacy"))
	w := newForwardingWorld(t)
	var out []byte
	var err error
	w.Host.Do(func() { out, err = exec.Command("iptables-legacy", "-P", "FORWARD", "DROP").CombinedOutput() })
	if err != nil {
		t.Skipf("the kernel has no such tables: %v, %s", err, out)
	}
	c := w.container(t, nat.Config{})
	if got, why := c.network.Path(), c.network.Why(); got != nat.PathVeth6 || !strings.Contains(why, "iptables-legacy has tables: filter") {
		t.Errorf("by %s: %s", got, why)
	}
	if err := c.Echo(hulltest.Outside4+":80", 1000); err != nil {
		t.Error(err)
	}
}

// What listens on the host, and link-local addresses, are not reached, and what was refused is told as with the tap: here
// too for an address that the host has only later, and by a container that goes round the routes it was given.
func TestVethHostIsOutOfReach(t *testing.T) {
	w := newForwardingWorld(t)
	all := []string{hulltest.Host4, "fd99::1", "10.99.1.1", "fd98::1", "169.254.169.254"}
	// Something that answers at a link-local address would be one hop further.
	w.Outside.Run(t, "ip", "addr", "add", "169.254.169.254/32", "dev", "uplink")
	w.Host.Run(t, "ip", "route", "add", "169.254.169.254/32", "dev", "uplink")
	w.Host.Run(t, "ip", "addr", "add", "10.99.1.1/32", "dev", "lo")
	w.Host.Run(t, "ip", "addr", "add", "fd98::1/128", "dev", "lo", "nodad")
	for _, ns := range []*hulltest.Netns{w.Host, w.Outside} {
		hulltest.ServeTCP(ns.Listen(t, ":8000"))
	}
	hulltest.ServeTCP(w.Host.Listen(t, "127.0.0.1:8001"))
	w.Host.ServeUDP(t, ":8000")
	if err := w.Host.Echo("169.254.169.254:8000", 1); err != nil {
		t.Fatal(err)
	}
	c := w.container(t, nat.Config{})
	if c.network.Path() != nat.PathVeth {
		t.Fatal(c.network.Why())
	}
	for _, to := range all {
		if conn, err := c.Dial("tcp", net.JoinHostPort(to, "8000")); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, want ECONNREFUSED", to, err)
			if err == nil {
				conn.Close()
			}
		}
	}
	// From here on as root of the namespace could.
	for _, r := range []string{"-4", "-6"} {
		for _, line := range strings.Split(strings.TrimSpace(c.Run(t, "ip", r, "route", "show", "dev", "hull0")), "\n") {
			c.Run(t, "ip", r, "route", "del", strings.Fields(line)[0], "dev", "hull0")
		}
	}
	w.Host.Run(t, "ip", "addr", "add", "10.99.2.1/32", "dev", "lo")
	c.Run(t, "ip", "route", "add", "127.0.0.1/32", "dev", "eth0", "table", "77") // nothing comes of it
	for _, to := range append(all, "10.99.2.1") {
		c.Do(func() {
			if conn, err := net.DialTimeout("tcp", net.JoinHostPort(to, "8000"), 300*time.Millisecond); err == nil {
				t.Errorf("around the routes it reaches %s", to)
				conn.Close()
			}
		})
	}
	if err := c.Echo(hulltest.Outside4+":80", 1000); err != nil {
		t.Errorf("the outside: %v", err)
	}
	c.Run(t, "ip", "addr", "add", "10.99.3.3/32", "dev", "eth0")
	c.Do(func() {
		d := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 99, 3, 3)}}
		if conn, err := d.Dial("tcp", hulltest.Outside4+":80"); err == nil {
			t.Error("it reaches the outside from another address than its own")
			conn.Close()
		}
	})
	var refused []string
	for _, r := range c.close(t).Refused {
		refused = append(refused, r.String())
	}
	for _, want := range []string{"tcp " + hulltest.Host4 + " port 8000", "tcp 169.254.169.254 port 8000", "tcp fd99::1 port 8000", "tcp 10.99.1.1 port 8000"} {
		if !slices.Contains(refused, want) {
			t.Errorf("refused %q lacks %q", refused, want)
		}
	}
}

func TestVethMany(t *testing.T) {
	w := newForwardingWorld(t)
	before := w.state(t)
	const many = 20
	type made struct {
		c   *container
		err error
	}
	all := make(chan made)
	for i := range many {
		ns := w.emptyNetns(t)
		cfg := nat.Config{Program: hullNet(t)}
		if i < 2 {
			cfg.IP = "10.1.2.3" // each has it, as with the tap
		}
		go func() {
			var n *nat.Network
			var err error
			w.Host.Do(func() { n, err = nat.Start(cfg) })
			if err == nil {
				err = n.Ready()
			}
			if err == nil {
				err = n.Attach(ns.File)
			}
			all <- made{&container{ns, n}, err}
		}()
	}
	addresses := make(map[string]bool)
	paths := make(map[string]int)
	var cs []*container
	for range many {
		m := <-all
		if m.err != nil {
			t.Fatal(m.err)
		}
		cs = append(cs, m.c)
		paths[m.c.network.Path()+": "+m.c.network.Why()]++
		if m.c.network.Path() == nat.PathVeth {
			addresses[m.c.Run(t, "ip", "-o", "-4", "addr", "show", "eth0")] = true
			addresses[m.c.Run(t, "ip", "-o", "-6", "addr", "show", "eth0", "scope", "global")] = true
		}
	}
	if paths[nat.PathVeth+": "] != many-1 || len(addresses) != 2*(many-1) {
		t.Errorf("%v; %d addresses", paths, len(addresses))
	}
	errs := make(chan error)
	for _, c := range cs {
		go func() {
			errs <- errors.Join(c.Echo(hulltest.Outside4+":80", 1<<20), c.Echo("["+hulltest.Outside6+"]:80", 1000))
		}()
	}
	for range cs {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	// One container is nothing to another.
	l := cs[1].Listen(t, ":80")
	hulltest.ServeTCP(l)
	to, _, _ := strings.Cut(strings.Fields(cs[1].Run(t, "ip", "-o", "-4", "addr", "show", "eth0"))[3], "/")
	cs[2].Do(func() {
		if conn, err := net.DialTimeout("tcp", to+":80", 300*time.Millisecond); err == nil {
			t.Error("one container reaches another")
			conn.Close()
		}
	})
	l.Close()
	for _, c := range cs {
		if _, err := c.network.Close(); err != nil {
			t.Error(err)
		}
		c.gone(t)
	}
	w.becomes(t, before)
}

// Whoever of hull and hull-net is killed, and whenever: the rules stay for as long as the veth does, and then nothing is left.
func TestVethKill(t *testing.T) {
	w := newForwardingWorld(t)
	hulltest.ServeTCP(w.Host.Listen(t, hulltest.Host4+":8000"))
	path := hullNet(t)
	before := w.state(t)
	for round := range 30 {
		ns := hulltest.NewNetns(t, nil)
		cmd, input, _ := w.standIn(t, ns)
		time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
		victim := "hull"
		if pids := running(path); round%2 == 1 && len(pids) > 0 {
			victim = "hull-net"
			p, err := os.FindProcess(atoi(filepath.Base(filepath.Dir(pids[0]))))
			if err == nil {
				_ = p.Kill()
			}
		} else {
			_ = cmd.Process.Kill()
		}
		// Routes or not, frames or not: the host is not reached meanwhile.
		ns.Do(func() {
			if conn, err := net.DialTimeout("tcp", hulltest.Host4+":8000", 20*time.Millisecond); err == nil {
				t.Errorf("round %d: with %s killed the host is reached", round, victim)
				conn.Close()
			}
		})
		(&container{Netns: ns}).gone(t)
		input.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for end := time.Now().Add(5 * time.Second); len(running(path)) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("round %d: hull-net is still there: %v", round, running(path))
			}
		}
	}
	w.becomes(t, before)
}

func atoi(s string) (n int) {
	_, _ = fmt.Sscan(s, &n)
	return n
}

// What the command has sent before its end arrives.
func TestVethDrains(t *testing.T) {
	w := newForwardingWorld(t)
	l := w.Outside.Listen(t, hulltest.Outside4+":8002")
	const size = 8 << 20
	got := make(chan int)
	go func() {
		c, err := l.Accept()
		sum := 0
		for p := make([]byte, 256<<10); err == nil; {
			var n int
			n, err = c.Read(p)
			sum += n
			time.Sleep(2 * time.Millisecond)
		}
		got <- sum
	}()
	c := w.container(t, nat.Config{})
	conn, err := c.Dial("tcp", hulltest.Outside4+":8002")
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.(*net.TCPConn).SetWriteBuffer(size)
	if _, err := conn.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	c.close(t)
	c.gone(t)
	if n := <-got; n != size {
		t.Errorf("%d of %d bytes have arrived", n, size)
	}
}
