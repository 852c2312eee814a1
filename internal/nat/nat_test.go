package nat

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

func TestParsePort(t *testing.T) {
	for s, want := range map[string]Port{
		"8080:80":           {"", 8080, 80},
		"0.0.0.0:8080:80":   {"0.0.0.0", 8080, 80},
		"[::1]:8080:80":     {"::1", 8080, 80},
		"::1:8080:80":       {"::1", 8080, 80},
		"127.0.0.1:1:65535": {"127.0.0.1", 1, 65535},
	} {
		if got, err := ParsePort(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "80", ":80", "80:", "0:80", "80:0", "80:65536", "080:80", "x:80", "host:80:80", "80:80/udp", "-1:80", "1.2.3:80:80", "1.2.3.4/8:80:80", "1:2:3:4x"} {
		if got, err := ParsePort(s); err == nil {
			t.Errorf("%q: %+v, want an error", s, got)
		}
	}
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"127.0.0.1": true, "127.1.2.3:80": true, "127.0.0.0/8": true, "localhost:8080": true, "a.localhost": true, "[::1]:80": true, "::1": true,
		"127.example.org": false, "192.0.2.1": false, "2001:db8::1": false, "localhost.example.org": false, "0.0.0.0/0": false,
	} {
		r, err := ParseRule(host)
		if err != nil || r.Loopback() != want {
			t.Errorf("%s: got %v, %v", host, r.Loopback(), err)
		}
	}
}

func TestParseRule(t *testing.T) {
	for s, want := range map[string]Rule{
		"example.org":      {"example.org", 0},
		"Example.ORG.:443": {"example.org.", 443},
		"*.example.org":    {"*.example.org", 0},
		"192.0.2.1":        {"192.0.2.1", 0},
		"192.0.2.0/24:80":  {"192.0.2.0/24", 80},
		"2001:db8::1":      {"2001:db8::1", 0},
		"[2001:db8::1]:80": {"2001:db8::1", 80},
		"[2001:db8::1]":    {"2001:db8::1", 0},
		"0.0.0.0/0":        {"0.0.0.0/0", 0},
		"::/0":             {"::/0", 0},
		"fd00::1.2.3.4/96": {"fd00::1.2.3.4/96", 0},
		"1:2:3:4:5:6:7:8":  {"1:2:3:4:5:6:7:8", 0},
	} {
		if want.Host == "example.org." {
			want.Host = "example.org" // the root is not written
		}
		if got, err := ParseRule(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"", ":80", "a:", "a:0", "a:x", "a b", "a..b", "*", "*.", "a.*.b", "[::1", "[::1]80", "[::1]:", "-a", "a/b", "http://a", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/08", "10.0.0.0/-1",
		"10.0.0", "300.1.1.1", "1.2.3.4.5", "::/129", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "12345::", "1.2.3.4::", "[::1/8:80"} {
		if got, err := ParseRule(s); err == nil {
			t.Errorf("%q: %+v, want an error", s, got)
		}
	}
}

func TestMessages(t *testing.T) {
	want := Message{{"hull-net", "1"}, {"hosts", "a\tb \"c\"\n\x00\xff"}, {"", "x"}}
	got, err := decode(want.encode())
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	cfg := Config{Sandbox: true, Hostname: "a b", IP: "10.0.0.1", Publish: []Port{{"::1", 1, 2}}, Allow: []Rule{{"x.org", 0}, {"::/0", 443}}}
	again, err := ParseConfig(cfg.message())
	if diff := cmp.Diff(cfg, again); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	r := Report{Refused: []Refusal{{"tcp", "a.org", 80, 3}, {"dns", "b", 0, 1}}, More: 7}
	back, err := parseReport(r.Lines()[1:])
	if diff := cmp.Diff(r, back); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	l := Link{MTU: 65500, Hardware: []byte("\x02hull\x01"), Ends: []LinkEnd{
		{IP: []byte{10, 0, 0, 2}, Bits: 30, Gateway: []byte{10, 0, 0, 1}, Hardware: []byte("\x02hull\x02")}, {IP: make([]byte, 16), Gateway: []byte{}, Hardware: []byte{}}}}
	var link Link
	rest := link.take(append(l.Lines(), []string{"path", "socket", ""}))
	if diff := cmp.Diff(l, link); diff != "" || len(rest) != 1 {
		t.Errorf("left %v\n%s", rest, diff)
	}
	if _, err := ParseConfig(Message{{"hull-net", "0"}}); err == nil {
		t.Error("another version is taken")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("\"ok\"\n\"path\" \"tap\"\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := decode(p)
		if err != nil {
			return
		}
		again, err := decode(m.encode())
		if diff := cmp.Diff(m, again); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}

func TestSendReceive(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := os.NewFile(uintptr(pair[0]), "a"), os.NewFile(uintptr(pair[1]), "b")
	defer b.Close()
	big := Message{{"ok", string(bytes.Repeat([]byte("x"), maxMessage-100))}}
	for _, file := range []*os.File{nil, a} {
		if err := Send(a, big, file); err != nil {
			t.Fatal(err)
		}
		m, got, err := Receive(b)
		if err != nil || (got == nil) != (file == nil) || len(m[0][1]) != maxMessage-100 {
			t.Fatalf("%d words, %v, %v", len(m), got, err)
		}
		if got != nil {
			got.Close()
		}
	}
	a.Close()
	if _, _, err := Receive(b); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want EOF", err)
	}
}

// Another program in the place of hull-net must not make hull wait or go on.
func TestOtherProgram(t *testing.T) {
	n, err := Start(Config{Program: "/bin/true"})
	if err != nil {
		t.Fatal(err)
	}
	err = n.Ready()
	n.Abandon()
	var e *fault.Error
	if !errors.As(err, &e) || e.Err.Error() != "hull-net ended before it answered" {
		t.Errorf("%v", err)
	}
	if _, err := Start(Config{Program: "/nonexistent"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := Start(Config{}); !errors.As(err, &e) || e.Hint == "" {
		t.Errorf("the program is not there, and nobody says where it should be: %v", err)
	}
}
