package natd

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"hull/internal/nat"
)

func TestResolvConf(t *testing.T) {
	host := "# by hand\nnameserver 127.0.0.53\nnameserver 192.0.2.1\n  search  a.example b.example # no comment\noptions edns0 trust-ad\nnameserver\n"
	want := "nameserver 10.0.0.1\nsearch a.example b.example # no comment\noptions edns0 trust-ad\n"
	if got := string(ResolvConf([]byte(host), netip.MustParseAddr("10.0.0.1"))); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestHosts(t *testing.T) {
	host := "127.0.0.1 localhost\n127.0.1.1 laptop\n::1 ip6-localhost\n192.0.2.7\tdb db.example # the one\nff02::1 ip6-allnodes\nbad line\n"
	want := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.2\tbox\nfd00::2\tbox\n192.0.2.7\tdb db.example\n"
	got := string(Hosts([]byte(host), "box", netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")))
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNameServers(t *testing.T) {
	for conf, want := range map[string][]string{
		"":                         {"127.0.0.1:53"},
		"nameserver 192.0.2.1\n":   {"192.0.2.1:53"},
		"nameserver fe80::1%eth0":  {"[fe80::1%eth0]:53"},
		"nameserver x\nnameserver": {"127.0.0.1:53"},
	} {
		var got []string
		for _, a := range nameServers([]byte(conf)) {
			got = append(got, a.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", conf, got, want)
		}
	}
}

func TestPlan(t *testing.T) {
	h := &host{networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, default4: true}
	p, err := makePlan(h, "", nil)
	if err != nil || p.ip4.String() != "172.29.213.2" || p.gateway4.String() != "172.29.213.1" || p.ip6.IsValid() {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = makePlan(h, "", []netip.AddrPort{netip.MustParseAddrPort("172.29.213.1:53")})
	if err != nil || p.ip4.String() != "192.168.213.2" {
		t.Errorf("a name server is hidden: %+v, %v", p, err)
	}
	for ip, gateway := range map[string]string{
		"192.0.2.1": "192.0.2.2", "192.0.2.2": "192.0.2.1", "192.0.2.3": "192.0.2.2", "192.0.2.4": "192.0.2.5", "192.0.2.254": "192.0.2.253",
	} {
		p, err := makePlan(h, ip, nil)
		if err != nil || p.gateway4.String() != gateway {
			t.Errorf("%s: gateway %v, %v, want %s", ip, p.gateway4, err, gateway)
		}
	}
	if _, err := makePlan(h, "10.1.2.3", nil); err == nil {
		t.Error("an address of the host's network is taken")
	}
}

func TestPolicy(t *testing.T) {
	local := func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.1") }
	may := func(p *policy, to string) bool { return p.permit("tcp", netip.MustParseAddrPort(to)) }
	p, _ := newPolicy(nil, local)
	for to, want := range map[string]bool{
		"198.51.100.1:80": true, "[2001:db8::1]:80": true, "10.0.0.1:80": true, "[fd00::1]:80": true,
		"192.0.2.1:80": false, "127.0.0.1:80": false, "127.9.9.9:80": false, "0.0.0.0:80": false, "0.1.2.3:80": false,
		"169.254.169.254:80": false, "224.0.0.1:80": false, "255.255.255.255:80": false, "[::1]:80": false, "[::]:80": false,
		"[fe80::1]:80": false, "[ff02::1]:80": false, "[::ffff:127.0.0.1]:80": false, "[::ffff:198.51.100.1]:80": false,
	} {
		if got := may(p, to); got != want {
			t.Errorf("%s: %v, want %v", to, got, want)
		}
	}
	p, err := newPolicy([]nat.Rule{{Host: "192.0.2.1", Port: 443}, {Host: "198.51.100.0/24"}, {Host: "a.test", Port: 80}, {Host: "b.test", Port: 81}}, local)
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]bool{
		"192.0.2.1:443": true, "192.0.2.1:80": false, "198.51.100.7:1": true, "203.0.113.1:80": false,
	} {
		if got := may(p, to); got != want {
			t.Errorf("with rules, %s: %v, want %v", to, got, want)
		}
	}
	shared := netip.MustParseAddr("203.0.113.9")
	for _, name := range []string{"a.test", "b.test"} {
		ports, _ := p.ports(name)
		p.hand(name, ports, shared, time.Second)
	}
	for to, want := range map[string]bool{"203.0.113.9:80": true, "203.0.113.9:81": true, "203.0.113.9:82": false} {
		if got := may(p, to); got != want {
			t.Errorf("an address of two names, %s: %v, want %v", to, got, want)
		}
	}
	p.pins[shared] = pin{ports: []uint16{80}, until: time.Now().Add(-time.Second)}
	if may(p, "203.0.113.9:80") {
		t.Error("an address is reached after its time")
	}
	// A name that was allowed must not lead to the host.
	p.hand("a.test", []uint16{0}, netip.MustParseAddr("127.0.0.1"), time.Hour)
	if may(p, "127.0.0.1:80") {
		t.Error("an allowed name leads to the loopback")
	}
	for _, bad := range []string{"::ffff:1.2.3.4", "1.2.3", "1.2.3.4/33"} {
		if _, err := newPolicy([]nat.Rule{{Host: bad}}, local); err == nil {
			t.Errorf("allow %s is taken", bad)
		}
	}
}

// The container's questions and the servers' answers are hostile input.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03foo\x04test\x00\x00\x01\x00\x01"))
	p, _ := newPolicy([]nat.Rule{{Host: "a.test"}}, func(netip.Addr) bool { return false })
	r := newResolver("/nonexistent", p)
	f.Fuzz(func(t *testing.T, msg []byte) {
		r.pin("a.test", nil, msg)
		if len(msg) > 12 {
			r.answer("none", msg)
		}
	})
}
