package natd_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hull/hulltest"
	"hull/internal/nat"
)

// peer is another user-space network.
type peer struct {
	name string
	args func(tid int) []string
	own  bool // it makes the namespace, for a command
}

var peers = []peer{
	{"pasta", func(int) []string {
		return []string{"pasta", "--config-net", "--no-map-gw", "--quiet", "--foreground", "--runas", "0:0", "--", "sleep", "60"}
	}, true},
	{"slirp4netns", func(tid int) []string {
		return []string{"slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", strconv.Itoa(tid), "tap0"}
	}, false},
}

// rounds is how often each network is measured, by turns.
const rounds = 5

// BenchmarkThroughput measures TCP of one connection, and the time and memory that the network costs: in rounds, whose
// medians come last. One of it is enough: -benchtime 1x.
func BenchmarkThroughput(b *testing.B) {
	all := make(map[string]map[string][]float64)
	record := func(b *testing.B, name, unit string, value float64) {
		b.ReportMetric(value, unit)
		if all[name] == nil {
			all[name] = make(map[string][]float64)
		}
		all[name][unit] = append(all[name][unit], value)
	}
	names := []string{"tap", "veth", "veth by hand"}
	own := len(names)
	for _, p := range peers {
		names = append(names, p.name)
	}
	for round := range rounds {
		for i, name := range names {
			b.Run(fmt.Sprintf("%d/%s", round, name), func(b *testing.B) {
				var w *world
				var n network
				switch name {
				case "tap":
					w = newWorld(b, false)
					n = startHull(b, w)
				case "veth":
					w = newForwardingWorld(b)
					n = startHull(b, w)
				case "veth by hand":
					w = newForwardingWorld(b)
					n = startVeth(b, w)
				default:
					w = newWorld(b, false)
					n = peers[i-own].start(b, w)
				}
				measure(b, w, n, func(unit string, value float64) { record(b, name, unit, value) })
			})
		}
	}
	for _, name := range names {
		b.Run("median/"+name, func(b *testing.B) {
			for unit, values := range all[name] {
				slices.Sort(values)
				b.ReportMetric(values[len(values)/2], unit)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// network is a namespace that has one, the time that took, and the program that does the work, if one does.
type network struct {
	inside *hulltest.Netns
	ready  time.Duration
	exe    string
}

func startHull(b *testing.B, w *world) network {
	hullNet(b)
	ns := hulltest.NewNetns(b, nil)
	begin := time.Now()
	n, err := w.start(b, nat.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = n.Close() })
	if err := n.Attach(ns.File); err != nil {
		b.Fatal(err)
	}
	return network{ns, time.Since(begin), running(hulltest.HullNetBinary(b))[0]}
}

// startVeth has the kernel do what hull-net has it do, by the commands that people would type.
func startVeth(b *testing.B, w *world) network {
	ns := hulltest.NewNetns(b, nil)
	begin := time.Now()
	w.Host.Run(b, "ip", "link", "add", "byhand", "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(ns.TID))
	w.Host.Run(b, "sh", "-ec", "ip addr add 10.213.0.1/30 dev byhand; ip link set byhand up; nft add table ip byhand; nft 'add chain ip byhand post { type nat hook postrouting priority 100; }'; nft add rule ip byhand post ip saddr 10.213.0.2 masquerade")
	ns.Run(b, "sh", "-ec", "ip link set lo up; ip addr add 10.213.0.2/30 dev eth0; ip link set eth0 up; ip route add default via 10.213.0.1")
	return network{ns, time.Since(begin), ""}
}

func (p *peer) start(b *testing.B, w *world) network {
	hulltest.Require(b, hulltest.Command(p.name))
	var ns *hulltest.Netns
	tid := 0
	if !p.own {
		ns = hulltest.NewNetns(b, nil)
		tid = ns.TID
	}
	begin := time.Now()
	var cmd *exec.Cmd
	w.Host.Do(func() {
		a := p.args(tid)
		cmd = exec.Command(a[0], a[1:]...)
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
	})
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for ready := false; !ready; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 5*time.Second {
			b.Fatal("no default route")
		}
		if ns == nil {
			pid := child(cmd.Process.Pid)
			if pid == "" {
				continue
			}
			ns = hulltest.NewNetns(b, func() (*os.File, error) { return os.Open("/proc/" + pid + "/ns/net") })
		}
		ready = strings.Contains(ns.Run(b, "ip", "route"), "default")
	}
	return network{ns, time.Since(begin), fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid)}
}

// child returns the process that a process has started, or "".
func child(pid int) string {
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil || len(strings.Fields(string(p))) == 0 {
		return ""
	}
	c := strings.Fields(string(p))[0]
	if comm, _ := os.ReadFile("/proc/" + c + "/comm"); string(comm) != "sleep\n" {
		return ""
	}
	return c
}

func measure(b *testing.B, w *world, n network, report func(unit string, value float64)) {
	sink := w.Outside.Listen(b, hulltest.Outside4+":5001")
	source := w.Outside.Listen(b, hulltest.Outside4+":5002")
	go transfer(sink, func(c net.Conn, p []byte) (int, error) { return c.Read(p) })
	go transfer(source, func(c net.Conn, p []byte) (int, error) { return c.Write(p) })
	go echoBytes(w.Outside.Listen(b, hulltest.Outside4+":5003"))
	inside := n.inside
	report("ms-ready", float64(n.ready.Microseconds())/1000)
	if n.exe != "" {
		report("MiB-idle", memory(b, n.exe))
	}
	report("Gbit/s-out", gbits(b, inside, hulltest.Outside4+":5001", net.Conn.Write))
	report("Gbit/s-in", gbits(b, inside, hulltest.Outside4+":5002", net.Conn.Read))
	if n.exe != "" {
		report("MiB-after", memory(b, n.exe))
	}
	report("µs-connect", roundTrip(b, inside))
	b.ReportMetric(0, "ns/op")
}

func transfer(l net.Listener, f func(net.Conn, []byte) (int, error)) {
	c, err := l.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	for p := make([]byte, 1<<20); ; {
		if _, err := f(c, p); err != nil {
			return
		}
	}
}

// BenchmarkVeth measures TCP of one connection over hull's veth and over one that was made by hand, by turns, a third of a
// second each: their medians, and the ratio of these.
func BenchmarkVeth(b *testing.B) {
	var ns [2]*hulltest.Netns
	for i, start := range []func(*testing.B, *world) network{startHull, startVeth} {
		w := newForwardingWorld(b)
		ns[i] = start(b, w).inside
		for port, f := range map[string]func(net.Conn, []byte) (int, error){":5001": net.Conn.Read, ":5002": net.Conn.Write} {
			l := w.Outside.Listen(b, hulltest.Outside4+port)
			go func() {
				for {
					transfer(l, f)
				}
			}()
		}
	}
	var out, in [2][]float64
	for b.Loop() {
		for _, i := range rand.Perm(len(ns)) {
			out[i] = append(out[i], carry(b, ns[i], hulltest.Outside4+":5001", time.Second/3, net.Conn.Write))
			in[i] = append(in[i], carry(b, ns[i], hulltest.Outside4+":5002", time.Second/3, net.Conn.Read))
		}
	}
	for what, values := range map[string]*[2][]float64{"out": &out, "in": &in} {
		var medians [2]float64
		for i, v := range values {
			slices.Sort(v)
			medians[i] = v[len(v)/2]
			b.ReportMetric(medians[i], []string{"Gbit/s-", "Gbit/s-by-hand-"}[i]+what)
		}
		b.ReportMetric(medians[0]/medians[1], "ratio-"+what)
	}
	b.ReportMetric(0, "ns/op")
}

// gbits carries bytes for two seconds.
func gbits(b *testing.B, inside *hulltest.Netns, to string, f func(net.Conn, []byte) (int, error)) float64 {
	return carry(b, inside, to, 2*time.Second, f)
}

func carry(b *testing.B, inside *hulltest.Netns, to string, d time.Duration, f func(net.Conn, []byte) (int, error)) float64 {
	c, err := inside.Dial("tcp", to)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	p := make([]byte, 1<<20)
	var sum int
	begin := time.Now()
	_ = c.SetDeadline(begin.Add(10 * time.Second))
	for time.Since(begin) < d {
		n, err := f(c, p)
		sum += n
		if err != nil {
			b.Fatal(err)
		}
	}
	return float64(sum) * 8 / time.Since(begin).Seconds() / 1e9
}

// echoBytes answers with what it is sent at once. (Half-closed connections, as Echo makes, hang in pasta of 2023.)
func echoBytes(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

// roundTrip is the median time of a connection with one byte there and back.
func roundTrip(b *testing.B, inside *hulltest.Netns) float64 {
	var times []float64
	for range 50 {
		begin := time.Now()
		c, err := inside.Dial("tcp", hulltest.Outside4+":5003")
		if err != nil {
			b.Fatal(err)
		}
		p := []byte("x")
		_ = c.SetDeadline(begin.Add(5 * time.Second))
		if _, err = c.Write(p); err == nil {
			_, err = io.ReadFull(c, p)
		}
		c.Close()
		if err != nil {
			b.Fatal(err)
		}
		times = append(times, float64(time.Since(begin).Microseconds()))
	}
	slices.Sort(times)
	return times[len(times)/2]
}

func memory(b *testing.B, exe string) float64 {
	p, err := os.ReadFile(strings.TrimSuffix(exe, "exe") + "status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(p), "VmRSS:")
	kib, _ := strconv.Atoi(strings.Fields(rest)[0])
	return float64(kib) / 1024
}
