package netdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/fault"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

// show returns the devices of a namespace but lo and the peers of others: name, whether it is up, MTU, hardware address, and its
// addresses but those that the kernel makes of the hardware address.
func show(t *testing.T, ns *os.File) string {
	t.Helper()
	var s strings.Builder
	for _, line := range strings.Split(strings.TrimSpace(hulltest.IP(t, ns, "-o link show")), "\n") {
		f := strings.Fields(line)
		name, _, _ := strings.Cut(strings.TrimSuffix(f[1], ":"), "@")
		if name == "lo" || strings.HasPrefix(name, "peer") {
			continue
		}
		state := "down"
		if strings.Contains(f[2], "UP") {
			state = "up"
		}
		mac := f[slices.Index(f, "link/ether")+1]
		fmt.Fprintf(&s, "%s %s mtu %s %s\n", name, state, f[4], mac)
		for _, a := range strings.Split(strings.TrimSpace(hulltest.IP(t, ns, "-o addr show dev "+name)), "\n") {
			if f := strings.Fields(a); len(f) > 3 && !strings.HasPrefix(f[3], "fe80:") {
				text := strings.Join(f[2:], " ")
				text, _, _ = strings.Cut(text, "\\")
				// Duplicate address detection takes a second.
				fmt.Fprintf(&s, "\t%s\n", strings.TrimSpace(strings.Replace(text, " tentative", "", 1)))
			}
		}
	}
	return s.String()
}

// pair returns two namespaces, the first with the devices that setUp, lines for ip(8), makes.
func pair(t *testing.T, setUp string) (host, container *os.File) {
	t.Helper()
	hulltest.Require(t, hulltest.Root, hulltest.Command("ip"), hulltest.Command("nsenter"))
	host, container = hulltest.EmptyNetwork(t), hulltest.EmptyNetwork(t)
	prepare(t, host, setUp)
	return host, container
}

func prepare(t *testing.T, ns *os.File, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line != "" {
			hulltest.IP(t, ns, line)
		}
	}
}

// twoDevices makes d0, with all that moving it has to keep and to leave behind, and d1.
const twoDevices = `
	link add d0 mtu 1400 address 02:00:00:00:00:01 type veth peer name peer0
	addr add 192.0.2.1/24 broadcast 192.0.2.255 dev d0
	addr add 192.0.2.2/24 dev d0
	addr add 198.51.100.1 peer 198.51.100.9 dev d0
	addr add 127.0.7.1/8 scope host dev d0
	addr add 169.254.7.1/16 scope link dev d0
	addr add 2001:db8::1/64 dev d0 nodad
	addr add 2001:db8::2/64 dev d0 metric 77 noprefixroute
	addr add 2001:db8::3/64 dev d0 valid_lft 1000 preferred_lft 500
	link set d0 up
	link set peer0 up
	link add d1 address 02:00:00:00:00:02 type veth peer name peer1
`

type devices = map[string]specs.LinuxNetDevice

func TestMove(t *testing.T) {
	const d0 = ` up mtu 1400 02:00:00:00:00:01
	inet 192.0.2.1/24 brd 192.0.2.255 scope global NAME
	inet 198.51.100.1 peer 198.51.100.9/32 scope global NAME
	inet 192.0.2.2/24 scope global secondary NAME
	inet6 2001:db8::2/64 metric 77 scope global noprefixroute
	inet6 2001:db8::1/64 scope global nodad
`
	const d1 = " down mtu 1500 02:00:00:00:00:02\n"
	moved := func(text, name string) string { return name + strings.ReplaceAll(text, "NAME", name) }
	up := func(text string) string { return strings.Replace(text, " down ", " up ", 1) }
	tests := map[string]struct {
		move      devices
		inside    string // what the container has before
		host      string // what is left
		container string
	}{
		"name kept":           {devices{"d0": {}}, "", "d1" + d1, moved(d0, "d0")},
		"renamed":             {devices{"d0": {Name: "eth0"}}, "", "d1" + d1, moved(d0, "eth0")},
		"both":                {devices{"d0": {}, "d1": {Name: "eth1"}}, "", "", moved(d0, "d0") + "eth1" + up(d1)},
		"names exchanged":     {devices{"d0": {Name: "d1"}, "d1": {Name: "d0"}}, "", "", moved(d0, "d1") + "d0" + up(d1)},
		"template":            {devices{"d0": {Name: "eth%d"}}, "", "d1" + d1, moved(d0, "eth0")},
		"templates":           {devices{"d0": {Name: "eth%d"}, "d1": {Name: "eth%d"}}, "", "", moved(d0, "eth0") + "eth1" + up(d1)},
		"template, one taken": {devices{"d1": {Name: "d%d"}}, "link add d0 address 02:00:00:00:00:03 type veth peer name peer9", "d0", "d0 down mtu 1500 02:00:00:00:00:03\nd1" + up(d1)},
		"old name taken": {devices{"d1": {Name: "eth0"}}, "link add d1 address 02:00:00:00:00:03 type veth peer name peer9", "d0",
			"d1 down mtu 1500 02:00:00:00:00:03\neth0" + up(d1)},
		"old name taken, template": {devices{"d1": {Name: "eth%d"}}, "link add d1 address 02:00:00:00:00:03 type veth peer name peer9", "d0",
			"d1 down mtu 1500 02:00:00:00:00:03\neth0" + up(d1)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			host, container := pair(t, twoDevices)
			prepare(t, container, test.inside)
			m, err := Move(host, container, test.move, nil)
			if err != nil {
				t.Fatal(err)
			}
			m.Close()
			m.Close() // as creation does after Return
			if diff := cmp.Diff(test.container, show(t, container)); diff != "" {
				t.Errorf("in the container (-want +got):\n%s", diff)
			}
			left := show(t, host)
			if test.host == "d0" { // with all that twoDevices gives it
				left, _, _ = strings.Cut(left, " ")
			}
			if diff := cmp.Diff(test.host, left); diff != "" {
				t.Errorf("left on the host (-want +got):\n%s", diff)
			}
		})
	}
}

// TestVeth moves one end of a pair: what is most often moved.
func TestVeth(t *testing.T) {
	host, container := pair(t, `
		link add v0 type veth peer name v1
		addr add 192.0.2.1/24 dev v0
		addr add 192.0.2.2/24 dev v1
		link set v0 up`)
	m, err := Move(host, container, devices{"v1": {Name: "eth0"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if s := hulltest.IP(t, container, "-o route show"); !strings.Contains(s, "192.0.2.0/24 dev eth0") {
		t.Errorf("routes of the container: %q", s)
	}
	if s := hulltest.IP(t, host, "-o link show dev v0"); !strings.Contains(s, "state UP") {
		t.Errorf("the host's end has no carrier: %s", s)
	}
}

func TestMoveRefuses(t *testing.T) {
	tests := map[string]struct {
		move   devices
		inside string
		want   []string // lines of the error
		is     error
	}{
		"missing":       {devices{"no0": {}, "d0": {}}, "", []string{"linux.netDevices[no0]: no such device"}, unix.ENODEV},
		"missing twice": {devices{"no0": {}, "no1": {}}, "", []string{"linux.netDevices[no0]: no such device", "linux.netDevices[no1]: no such device"}, unix.ENODEV},
		"taken": {devices{"d0": {}}, "link add d0 type veth peer name peer9",
			[]string{`linux.netDevices[d0].name: the container's namespace has a device "d0": file exists`}, unix.EEXIST},
		"taken, renamed": {devices{"d1": {}, "d0": {Name: "eth0"}}, "link add eth0 type veth peer name peer9",
			[]string{`linux.netDevices[d0].name: the container's namespace has a device "eth0": file exists`}, unix.EEXIST},
		// d0 has been moved when lo is refused.
		"immovable": {devices{"d0": {}, "lo": {Name: "lo1"}}, "",
			[]string{"linux.netDevices[lo]: move to the container's namespace: The interface netns is immutable: invalid argument"}, unix.EINVAL},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			host, container := pair(t, twoDevices)
			prepare(t, container, test.inside)
			before, inside := show(t, host), show(t, container)
			m, err := Move(host, container, test.move, nil)
			if m != nil || err == nil {
				t.Fatalf("Move = %v, %v", m, err)
			}
			if !errors.Is(err, test.is) {
				t.Errorf("%v is not %v", err, test.is)
			}
			got := strings.Split(err.Error(), "\n")
			// The kernel's own sentence came with Linux 6.13.
			for i := range got {
				if !strings.Contains(got[i], "immutable") && name == "immovable" {
					got[i] = strings.Replace(got[i], "namespace: ", "namespace: The interface netns is immutable: ", 1)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if fault.Hint(err) == "" && name != "missing twice" {
				t.Errorf("no hint: %v", err)
			}
			// An IPv6 address with a lifetime doesn't outlive that its device was down.
			want := before
			if name == "immovable" {
				want = withoutTemporary(before)
			}
			if diff := cmp.Diff(want, show(t, host)); diff != "" {
				t.Errorf("the host's devices have changed (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(inside, show(t, container)); diff != "" {
				t.Errorf("the container's devices have changed (-want +got):\n%s", diff)
			}
		})
	}
}

func withoutTemporary(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		if !strings.Contains(line, "dynamic") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestSameNamespace(t *testing.T) {
	host, _ := pair(t, twoDevices)
	before := show(t, host)
	_, err := Move(host, host, devices{"d0": {Name: "eth0"}}, nil)
	if !errors.Is(err, fault.BadSpec) || err.Error() != "linux.netDevices: the container's network namespace is the host's" {
		t.Errorf("Move to the same namespace: %v", err)
	}
	if diff := cmp.Diff(before, show(t, host)); diff != "" {
		t.Errorf("the host's devices have changed (-want +got):\n%s", diff)
	}
}

// TestReturn is what a creation does that fails after its devices were moved.
func TestReturn(t *testing.T) {
	host, container := pair(t, twoDevices)
	before := show(t, host)
	m, err := Move(host, container, devices{"d0": {Name: "eth0"}, "d1": {Name: "eth%d"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s := show(t, host); s != "" {
		t.Fatalf("left on the host: %s", s)
	}
	if err := m.Return(); err != nil {
		t.Error(err)
	}
	if err := m.Return(); err != nil {
		t.Errorf("Return once more: %v", err)
	}
	if diff := cmp.Diff(withoutTemporary(before), show(t, host)); diff != "" {
		t.Errorf("the host's devices have changed (-want +got):\n%s", diff)
	}
	if s := show(t, container); s != "" {
		t.Errorf("left in the container: %s", s)
	}
}

// A device that the host got meanwhile keeps its name.
func TestReturnTaken(t *testing.T) {
	host, container := pair(t, twoDevices)
	m, err := Move(host, container, devices{"d0": {Name: "eth0"}, "d1": {Name: "eth1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	hulltest.IP(t, host, "link add d1 address 02:00:00:00:00:04 type veth peer name peer9")
	err = m.Return()
	if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "linux.netDevices[d1]: return it to the host: ") {
		t.Errorf("Return: %v", err)
	}
	s := show(t, host)
	for _, want := range []string{"d0 up mtu 1400 02:00:00:00:00:01", "d1 down mtu 1500 02:00:00:00:00:04", "02:00:00:00:00:02"} {
		if !strings.Contains(s, want) {
			t.Errorf("the host lacks %q:\n%s", want, s)
		}
	}
}

// TestThread makes sure that no thread is left in another namespace: what the program does next would happen there.
func TestThread(t *testing.T) {
	host, container := pair(t, twoDevices)
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Move(host, container, devices{"d0": {}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
	for range 50 {
		done := make(chan string)
		go func() { s, _ := os.Readlink("/proc/thread-self/ns/net"); done <- s }()
		if got := <-done; got != before {
			t.Fatalf("a thread is in %s, not %s", got, before)
		}
	}
	if _, err := net.InterfaceByName("d0"); err == nil {
		t.Error("the device is in the test's own namespace")
	}
}

func TestDecode(t *testing.T) {
	const seq = 7
	msg := func(typ, flags uint16, data ...byte) []byte { return encode(typ, flags, seq, data, nil) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	noDevice := int32(-int32(unix.ENODEV))
	errno := binary.NativeEndian.AppendUint32(nil, uint32(noDevice))
	words := []attribute{{1, []byte("Because\x00")}}
	tests := map[string]struct {
		in   []byte
		n    int // messages
		done bool
		err  string
	}{
		"nothing":          {nil, 0, false, ""},
		"single":           {msg(unix.RTM_NEWLINK, 0, 1, 2, 3, 4), 1, true, ""},
		"part":             {msg(unix.RTM_NEWADDR, unix.NLM_F_MULTI), 1, false, ""},
		"parts":            {join(msg(unix.RTM_NEWADDR, unix.NLM_F_MULTI), msg(unix.RTM_NEWADDR, unix.NLM_F_MULTI), msg(unix.NLMSG_DONE, unix.NLM_F_MULTI, 0, 0, 0, 0)), 2, true, ""},
		"done, empty":      {msg(unix.NLMSG_DONE, unix.NLM_F_MULTI), 0, true, ""},
		"acknowledged":     {msg(unix.NLMSG_ERROR, 0, append([]byte{0, 0, 0, 0}, msg(0, 0)...)...), 0, true, ""},
		"failed":           {msg(unix.NLMSG_ERROR, 0, append(errno, msg(0, 0)...)...), 0, true, "no such device"},
		"failed in words":  {msg(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, join(errno, msg(0, 0, 1, 2, 3, 4), encode(0, 0, 0, nil, words)[unix.SizeofNlMsghdr:])...), 0, true, "Because: no such device"},
		"capped":           {msg(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS|unix.NLM_F_CAPPED, join(errno, encode(0, 0, 0, nil, words))...), 0, true, "Because: no such device"},
		"dump failed":      {msg(unix.NLMSG_DONE, unix.NLM_F_MULTI, errno...), 0, true, "no such device"},
		"an older answer":  {join(encode(unix.NLMSG_ERROR, 0, seq-1, errno, nil), msg(unix.RTM_NEWLINK, 0)), 1, true, ""},
		"noop":             {join(msg(unix.NLMSG_NOOP, 0), msg(unix.RTM_NEWLINK, 0)), 1, true, ""},
		"short header":     {make([]byte, unix.SizeofNlMsghdr-1), 0, false, errReply.Error()},
		"length too small": {make([]byte, unix.SizeofNlMsghdr), 0, false, errReply.Error()},
		"length too big":   {append([]byte{200, 0, 0, 0}, make([]byte, 20)...), 0, false, errReply.Error()},
		"error too short":  {msg(unix.NLMSG_ERROR, 0, 1), 0, true, errReply.Error()},
		"errno too big":    {msg(unix.NLMSG_ERROR, 0, 0, 0, 0, 0x80), 0, true, errReply.Error()},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			msgs, done, err := decode(test.in, seq)
			text := ""
			if err != nil {
				text = err.Error()
			}
			if len(msgs) != test.n || done != test.done || text != test.err {
				t.Errorf("%d messages, done %v, %q; want %d, %v, %q", len(msgs), done, text, test.n, test.done, test.err)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, 7, []byte{0xed, 0xff, 0xff, 0xff, 20, 0, 0, 0}, []attribute{{1, []byte("x\x00")}}))
	f.Add(encode(unix.RTM_NEWADDR, unix.NLM_F_MULTI, 7, make([]byte, 8), []attribute{{1, []byte("x")}}))
	f.Fuzz(func(t *testing.T, p []byte) {
		msgs, _, _ := decode(p, 7)
		for _, m := range msgs {
			_, _, _ = parseAddresses([]message{m}, 1)
		}
	})
}

func TestAddressString(t *testing.T) {
	v6 := []byte{0x20, 1, 0x0d, 0xb8, 15: 1}
	for want, a := range map[string]address{
		"192.0.2.1/24":            {prefix: 24, attributes: []attribute{{unix.IFA_ADDRESS, []byte{192, 0, 2, 9}}, {unix.IFA_LOCAL, []byte{192, 0, 2, 1}}}},
		"192.0.2.2/32":            {prefix: 32, attributes: []attribute{{unix.IFA_LOCAL, []byte{192, 0, 2, 2}}, {unix.IFA_ADDRESS, []byte{192, 0, 2, 9}}}},
		"2001:db8:0:0:0:0:0:1/64": {prefix: 64, attributes: []attribute{{unix.IFA_ADDRESS, v6}}},
		"/0":                      {},
	} {
		if got := a.String(); got != want {
			t.Errorf("String = %q, want %q", got, want)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for name, p := range map[string][]byte{
		"empty":               nil,
		"short header":        make([]byte, unix.SizeofIfAddrmsg-1),
		"attribute too long":  append(make([]byte, unix.SizeofIfAddrmsg), 200, 0, 1, 0),
		"attribute too short": append(make([]byte, unix.SizeofIfAddrmsg), 1, 0, 1, 0),
	} {
		if _, _, err := parseAddress(p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add(append([]byte{unix.AF_INET, 24, 0x80, 0, 1, 0, 0, 0}, 8, 0, unix.IFA_LOCAL, 0, 192, 0, 2, 1))
	f.Add(append([]byte{unix.AF_INET6, 64, 0x80, 0, 1, 0, 0, 0}, 8, 0, unix.IFA_FLAGS, 0, 0x80, 2, 0, 0))
	f.Add([]byte{unix.AF_INET, 24, 0, 0, 1, 0, 0, 0, 5, 0, unix.IFA_FLAGS, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		a, _, err := parseAddress(p)
		if err == nil {
			_ = a.String()
			a.lasting()
		}
	})
}
