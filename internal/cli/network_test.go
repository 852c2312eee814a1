package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// host is a host of its own that hull is run on.
type host struct {
	*hulltest.World
	hull      string
	isolation string // of its commands; or ""
}

// newHost has a web server outside, by the names of four.test and six.test at port 8000, that says hello.
func newHost(t testing.TB, user bool, setUp ...func() error) *host {
	t.Helper()
	hulltest.Require(t, hulltest.Command("bash"), hulltest.Command("busybox"))
	if user {
		hulltest.Require(t, hulltest.UserNS)
	}
	h := &host{World: hulltest.NewWorld(t, user, setUp...), hull: hulltest.HullBinary(t)}
	if dir := filepath.Dir(hulltest.HullNetBinary(t)); dir != filepath.Dir(h.hull) {
		t.Fatalf("hull-net is in %s, and hull in %s", dir, filepath.Dir(h.hull))
	}
	if err := os.Chmod(filepath.Dir(h.hull), 0o755); err != nil {
		t.Fatal(err)
	}
	h.ServeDNS(t, map[string]string{"four.test": hulltest.Outside4, "six.test": hulltest.Outside6, "bad.test": "10.99.0.3"})
	for _, at := range []string{hulltest.Outside4, "[" + hulltest.Outside6 + "]"} {
		l := h.Outside.Listen(t, at+":8000")
		go func() {
			_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello", r.Host) }))
		}()
	}
	return h
}

// asBoth runs a test with hull as root and as an ordinary user.
func asBoth(t *testing.T, f func(t *testing.T, h *host), setUp ...func() error) {
	t.Run("root", func(t *testing.T) { f(t, newHost(t, false, setUp...)) })
	t.Run("user", func(t *testing.T) { f(t, newHost(t, true, setUp...)) })
}

// asAny is asBoth with commands in sandboxes, too.
func asAny(t *testing.T, f func(t *testing.T, h *host)) {
	asBoth(t, f)
	for name, user := range map[string]bool{"sandbox root": false, "sandbox user": true} {
		t.Run(name, func(t *testing.T) {
			hulltest.Require(t, hulltest.MountSetattr)
			h := newHost(t, user)
			h.isolation = "sandbox"
			if dir := filepath.Dir(hulltest.SandboxBinary(t)); dir != filepath.Dir(h.hull) {
				t.Fatalf("hull-sandbox is in %s, and hull in %s", dir, filepath.Dir(h.hull))
			}
			f(t, h)
		})
	}
}

// command returns `hull do` with arguments.
func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command(h.hull, append([]string{"do"}, args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/", "HULL_ISOLATION=" + h.isolation}
	return cmd
}

func (h *host) start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	var err error
	h.Host.Do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
}

// do runs `hull do` and returns what it says and its status.
func (h *host) do(t testing.TB, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := h.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	h.start(t, cmd)
	_ = cmd.Wait()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// get is a script that asks a web server.
func get(host string) string {
	return fmt.Sprintf(`exec 3<>/dev/tcp/%s/8000 && printf 'GET / HTTP/1.0\r\nHost: x\r\n\r\n' >&3 && cat <&3; `, host)
}

func TestNetworkNAT(t *testing.T) {
	asAny(t, func(t *testing.T, h *host) {
		before := h.state(t)
		out, errs, status := h.do(t, "--network", "nat", "--hostname", "box", "bash", "-c",
			get("four.test")+get("six.test")+"cat /etc/hosts; grep -c . /etc/resolv.conf; echo >>/etc/hosts; sed -n 's/^ *\\([a-z0-9]*\\):.*/\\1/p' /proc/net/dev | sort")
		if status != 0 || strings.Count(out, "hello x") != 2 {
			t.Errorf("status %d\n%s\n%s", status, out, errs)
		}
		for _, want := range []string{"\tbox\n", "127.0.0.1\tlocalhost\n", "\n3\n", "eth0\nlo\n"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		if !strings.Contains(errs, "/etc/hosts: Read-only file system") || strings.Contains(errs, "hull: ") {
			t.Errorf("it says %s", errs)
		}
		if after := h.state(t); after != before {
			t.Errorf("the host's network is\n%s\nit was\n%s", after, before)
		}
	})
}

// state is what a network of hull's must not change.
func (h *host) state(t *testing.T) string {
	return h.Host.Run(t, "ip", "-o", "link") + h.Host.Run(t, "ip", "-o", "addr") + h.Host.Run(t, "ip", "route") + h.Host.Run(t, "ip", "rule") +
		h.Host.Run(t, "ip", "route", "show", "table", "all") + h.Host.Run(t, "ip", "neigh", "show", "nud", "permanent")
}

// forwarding has a host forward.
func forwarding() error {
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
}

// On a host that forwards, root has a veth; an ordinary user has a tap as anywhere. Whenever hull is killed, nothing is left.
func TestNetworkForwarded(t *testing.T) {
	hulltest.Require(t, hulltest.Command("nft"), hulltest.OwnerTables)
	asBoth(t, func(t *testing.T, h *host) {
		state := func() string {
			if h.User {
				return h.state(t)
			}
			return h.state(t) + h.Host.Run(t, "nft", "list", "ruleset")
		}
		await := func(before string) {
			t.Helper()
			after := state()
			for end := time.Now().Add(5 * time.Second); after != before && time.Now().Before(end); after = state() {
				time.Sleep(5 * time.Millisecond)
			}
			if after != before {
				t.Errorf("the host's network is\n%s\nit was\n%s", after, before)
			}
		}
		path := "veth"
		if h.User {
			path = "tap"
		}
		before := state()
		out, errs, status := h.do(t, "--network", "nat", "--json", "/dev/stdout", "bash", "-c", get("four.test")+get("six.test")+get(hulltest.Host4)+"true")
		if status != 0 || strings.Count(out, "hello x") != 2 || !strings.Contains(out, `"networkPath":"`+path+`"`) {
			t.Errorf("status %d\n%s\n%s", status, out, errs)
		}
		if want := "network nat: refused tcp " + hulltest.Host4 + " port 8000\n"; !strings.Contains(errs, want) {
			t.Errorf("no %q in\n%s", want, errs)
		}
		await(before)
		if h.User {
			return
		}
		for range 10 {
			cmd := h.command("--network", "nat", "sleep", "1000")
			h.start(t, cmd)
			time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		await(before)
	}, forwarding)
}

// The host's network is the host's, and stays as it is.
func TestNetworkHost(t *testing.T) {
	asAny(t, func(t *testing.T, h *host) {
		before := h.state(t)
		out, errs, status := h.do(t, "--network", "host", "bash", "-c", get("four.test")+"sed -n 's/^ *\\([a-z0-9]*\\):.*/\\1/p' /proc/net/dev | sort")
		if status != 0 || !strings.HasSuffix(out, "hello x\nlo\nuplink\n") {
			t.Errorf("status %d\n%s\n%s", status, out, errs)
		}
		if after := h.state(t); after != before {
			t.Errorf("the host's network is\n%s\nit was\n%s", after, before)
		}
	})
}

func TestNetworkAllow(t *testing.T) {
	asAny(t, func(t *testing.T, h *host) {
		out, errs, status := h.do(t, "--network", "nat", "--allow", "four.test:8000", "--json", "/dev/stdout", "bash", "-c",
			get("four.test")+get("bad.test")+get("10.99.0.3")+"echo; echo end")
		if status != 0 || strings.Count(out, "hello x") != 1 || !strings.Contains(out, "end\n") {
			t.Errorf("status %d\n%s\n%s", status, out, errs)
		}
		if want := `{"protocol":"tcp","host":"10.99.0.3","port":8000,"times":1}`; !strings.Contains(out, want) {
			t.Errorf("no %s in %s", want, out)
		}
		for _, want := range []string{"network nat: refused dns bad.test", "network nat: refused tcp 10.99.0.3 port 8000\n"} {
			if !strings.Contains(errs, want) {
				t.Errorf("no %q in\n%s", want, errs)
			}
		}
	})
}

// Where resolv.conf is a link into a place that is empty for commands, as with systemd-resolved, and hosts is missing.
func TestNetworkFiles(t *testing.T) {
	asBoth(t, func(t *testing.T, h *host) {
		const look = "readlink /etc/resolv.conf; cat /etc/resolv.conf; ls -A /run /etc/hosts; "
		out, errs, status := h.do(t, "--network", "nat", "--hostname", "box", "--diff", "bash", "-c", look+get("four.test")+"grep -c box /etc/hosts")
		if want := "../run/systemd/resolve/stub.conf\nnameserver 10.213.7.1\n/etc/hosts\n\n/run:\nsystemd\n"; status != 0 || !strings.HasPrefix(out, want) {
			t.Errorf("status %d, %q, %s, want %q", status, out, errs, want)
		}
		// Nothing is added to what the command has changed.
		if want := "hello x\n2\n"; !strings.HasSuffix(out, want) {
			t.Errorf("%q, want the end %q", out, want)
		}
		out, errs, status = h.do(t, "--network", "host", "--diff", "bash", "-c", "cat /etc/resolv.conf;"+get("four.test"))
		if status != 0 || !strings.HasPrefix(out, "nameserver 127.0.0.53\n") || !strings.HasSuffix(out, "hello x\n") {
			t.Errorf("status %d, %q, %s", status, out, errs)
		}
		// A bind of the caller's comes first, and nothing is made in its place.
		out, errs, status = h.do(t, "--network", "nat", "--bind", "/etc/passwd:/etc/hosts", "--rw", "/run", "bash", "-c", "head -c 4 /etc/hosts; cat /etc/resolv.conf; ls /run/systemd/resolve")
		if want := "rootnameserver 10.213.7.1\nstub.conf\n"; status != 0 || out != want {
			t.Errorf("status %d, %q, %s, want %q", status, out, errs, want)
		}
	}, func() error {
		return errors.Join(
			unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"),
			os.MkdirAll("/run/etc/upper", 0o755), os.Mkdir("/run/etc/work", 0o755),
			unix.Mount("overlay", "/etc", "overlay", 0, "lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work"),
			unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"),
			os.MkdirAll("/run/systemd/resolve", 0o755),
			os.WriteFile("/run/systemd/resolve/stub.conf", []byte("nameserver 127.0.0.53\n"), 0o644),
			os.Remove("/etc/hosts"), os.Remove("/etc/resolv.conf"),
			os.Symlink("../run/systemd/resolve/stub.conf", "/etc/resolv.conf"))
	})
}

// Another root has the host's name servers, too.
func TestNetworkRoot(t *testing.T) {
	hulltest.Require(t, hulltest.Command("busybox"))
	asBoth(t, func(t *testing.T, h *host) {
		root := t.TempDir()
		program, err := exec.LookPath("busybox")
		var p []byte
		if err == nil {
			p, err = os.ReadFile(program)
		}
		err = errors.Join(err, os.Chmod(root, 0o755), os.Chmod(filepath.Dir(root), 0o755), os.Chmod(filepath.Dir(filepath.Dir(root)), 0o755),
			os.Mkdir(root+"/bin", 0o755), os.Mkdir(root+"/etc", 0o755), os.WriteFile(root+"/bin/sh", p, 0o755), os.Symlink("sh", root+"/bin/cat"))
		if err != nil {
			t.Fatal(err)
		}
		for network, want := range map[string]string{"nat": "10.213.7.1", "host": "127.0.0.53"} {
			out, errs, status := h.do(t, "--root", root, "--cwd", "/", "--network", network, "/bin/sh", "-c", "/bin/cat /etc/resolv.conf /etc/hosts")
			if status != 0 || !strings.HasPrefix(out, "nameserver "+want+"\n") || !strings.Contains(out, "localhost") {
				t.Errorf("%s: status %d, %q, %s", network, status, out, errs)
			}
		}
	})
}

// What a command has sent before it ended arrives.
func TestNetworkLastWords(t *testing.T) {
	asAny(t, func(t *testing.T, h *host) {
		l := h.Outside.Listen(t, hulltest.Outside4+":8001")
		got := make(chan int64)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond) // a window is full meanwhile
				n, err := io.Copy(io.Discard, c)
				if err != nil {
					n = -1
				}
				c.Close()
				got <- n
			}
		}()
		for _, size := range []int64{10, 3_000_000} {
			if _, errs, status := h.do(t, "--network", "nat", "bash", "-c", fmt.Sprintf("head -c %d /dev/zero >/dev/tcp/four.test/8001", size)); status != 0 {
				t.Fatalf("status %d, %s", status, errs)
			}
			select {
			case n := <-got:
				if n != size {
					t.Errorf("%d bytes were sent, and %d arrived", size, n)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("of %d bytes that were sent no end has arrived", size)
			}
		}
	})
}

func TestNetworkPublish(t *testing.T) {
	asAny(t, func(t *testing.T, h *host) {
		// Two at once, with the same ports inside.
		for i := range 2 {
			cmd := h.command("--network", "nat", "-p", fmt.Sprintf("%d:80", 8080+i), "sh", "-c",
				fmt.Sprintf("cd /tmp && echo %d >index.html && exec busybox httpd -f -p 80", i))
			var errs bytes.Buffer
			cmd.Stderr = &errs
			h.start(t, cmd)
			t.Cleanup(func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			})
		}
		for i := range 2 {
			if got := h.fetch(t, fmt.Sprintf("127.0.0.1:%d", 8080+i)); !strings.HasSuffix(got, fmt.Sprintf("\r\n%d\n", i)) {
				t.Errorf("port %d: %q", 8080+i, got)
			}
		}
		out, errs, status := h.do(t, "--network", "nat", "-p", "8080:80", "echo", "started")
		if want := "publish 127.0.0.1:8080: bind: address already in use"; out != "" || status != 1 || !strings.Contains(errs, want) {
			t.Errorf("status %d, %q, %q, want %q", status, out, errs, want)
		}
	})
}

// fetch asks a web server from the host, until one answers.
func (h *host) fetch(t *testing.T, at string) string {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := h.Host.Dial("tcp", at)
		var p []byte
		if err == nil {
			_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
			p, err = io.ReadAll(c)
			c.Close()
		}
		if err == nil && len(p) > 0 {
			return string(p)
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", at, err)
		}
	}
}

func TestNetworkErrors(t *testing.T) {
	h := newHost(t, false)
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"--network x true", 2, `--network "x": want none, host or nat`},
		{"--publish 80:80 true", 2, `--publish "80:80": that is for --network nat`},
		{"--network host --allow x true", 2, `--allow "x": that is for --network nat`},
		{"--ip 10.1.2.3 true", 2, `--ip "10.1.2.3": that is for --network nat`},
		{"--network nat --publish 80 true", 2, `--publish "80": want [HOST:]PORT:PORT`},
		{"--network nat --allow http://x true", 2, `--allow "http://x": want HOST or HOST:PORT, which a URL is not`},
		{"--network nat --ip fd00::1 true", 2, `--ip "fd00::1": want an IPv4 address`},
		{"--network nat --ip 10.1.2.255 true", 2, `--ip "10.1.2.255": the last number`},
		{"--network nat --ip 10.99.0.9 true", 1, "ip 10.99.0.9: already used: the host has the network 10.99.0.0/24"},
		{"--network nat --publish 10.99.0.9:80:80 true", 1, "publish 10.99.0.9:80: bind: cannot assign requested address"},
		{"--network nat hull-no-such-program", 127, "executable file not found"},
	} {
		if out, errs, status := h.do(t, strings.Fields(c.args)...); status != c.status || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%s: status %d, %q, want %d, %q", c.args, status, errs, c.status, c.want)
		}
	}
	if _, errs, status := h.do(t, "--network", "nat", "--allow", "127.0.0.1:80", "true"); status != 0 ||
		!strings.Contains(errs, `warning: network nat: allow "127.0.0.1:80": that is the command's own loopback; the host's is never reached`) {
		t.Errorf("status %d, %q", status, errs)
	}
	h.Host.Run(t, "ip", "route", "del", "default")
	h.Host.Run(t, "ip", "-6", "route", "del", "default")
	out, errs, status := h.do(t, "--network", "nat", "bash", "-c", get("four.test")+"ls /proc/sys/net/ipv6/conf; ip -6 addr show eth0")
	if status != 0 || !strings.Contains(out, "hello x") || strings.Contains(out, "fd68:") || !strings.Contains(errs, "warning: network nat: the host has no default route (ip route)") {
		t.Errorf("status %d, %q, %q", status, out, errs)
	}

	alone := filepath.Join(t.TempDir(), "hull")
	p, err := os.ReadFile(h.hull)
	if err == nil {
		err = os.WriteFile(alone, p, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	there := h.hull
	h.hull = alone
	if _, errs, status := h.do(t, "--network", "nat", "true"); status != 1 || !strings.Contains(errs, "look for the program hull-net: file does not exist\n") || !strings.Contains(errs, "install it beside "+alone) {
		t.Errorf("status %d, %q", status, errs)
	}
	h.hull = there

	h.Host.Do(func() { _ = os.Remove("/dev/net/tun") })
	if _, errs, status := h.do(t, "--network", "nat", "true"); status != 1 || !strings.Contains(errs, "the host has no /dev/net/tun: modprobe tun") {
		t.Errorf("status %d, %q", status, errs)
	}
}

// Whenever hull is killed, nothing of a network is left.
func TestNetworkKill(t *testing.T) {
	asBoth(t, func(t *testing.T, h *host) {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
		before := h.state(t)
		seen := 0
		for round := range 15 {
			cmd := h.command("--network", "nat", "-p", "8080:80", "sleep", "1000")
			h.start(t, cmd)
			time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			for end := time.Now().Add(5 * time.Second); len(orphans(t)) > 0; time.Sleep(time.Millisecond) {
				seen++
				if time.Now().After(end) {
					t.Fatalf("round %d: still there: %q", round, orphans(t))
				}
			}
		}
		if seen == 0 {
			t.Error("hull has never left a process: what is looked for isn't found")
		}
		if after := h.state(t); after != before {
			t.Errorf("the host's network is\n%s\nit was\n%s", after, before)
		}
	})
}

// orphans returns processes that a killed hull has left to this one, which must be a subreaper, and that go on.
func orphans(t *testing.T) (left []string) {
	t.Helper()
	p, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range strings.Fields(string(p)) {
		pid, _ := strconv.Atoi(child)
		if n, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); n != pid && err == nil {
			cmdline, _ := os.ReadFile("/proc/" + child + "/cmdline")
			left = append(left, child+" "+string(cmdline))
		}
	}
	return left
}

// BenchmarkNetworkStart measures `hull do true` with each network by turns: -benchtime 100x. HULL_BENCH_BASE names another
// hull to be measured with them.
func BenchmarkNetworkStart(b *testing.B) {
	h, forwards := newHost(b, false), newHost(b, false, forwarding)
	cases := []struct {
		name string
		on   *host
		hull string
		args []string
	}{
		{"none", h, h.hull, []string{"true"}},
		{"host", h, h.hull, []string{"--network", "host", "true"}},
		{"nat", h, h.hull, []string{"--network", "nat", "true"}},
		{"nat-veth", forwards, h.hull, []string{"--network", "nat", "true"}},
	}
	if base := os.Getenv("HULL_BENCH_BASE"); base != "" {
		cases = append(cases, cases[0])
		last := &cases[len(cases)-1]
		last.name, last.hull = "base", base
	}
	times := make([][]float64, len(cases))
	for b.Loop() {
		for _, i := range rand.Perm(len(cases)) {
			h := cases[i].on
			h.hull = cases[i].hull
			time.Sleep(5 * time.Millisecond) // the kernel takes the namespaces before apart
			begin := time.Now()
			if _, errs, status := h.do(b, cases[i].args...); status != 0 {
				b.Fatalf("%s: status %d, %s", cases[i].name, status, errs)
			}
			times[i] = append(times[i], float64(time.Since(begin).Microseconds())/1000)
		}
	}
	for i, c := range cases {
		slices.Sort(times[i])
		b.ReportMetric(times[i][0], "ms-"+c.name+"-min")
		b.ReportMetric(times[i][len(times[i])/2], "ms-"+c.name)
	}
	b.ReportMetric(0, "ns/op")
}
