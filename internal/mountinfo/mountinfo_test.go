package mountinfo

import (
	"os"
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	type mount struct{ id, root, point, kind, super string }
	var got []mount
	for m := range Parse([]byte(`22 1 254:0 / / rw shared:1 master:2 - ext4 /dev/vda rw,errors=continue
23 22 0:5 /a\134b /a\040b\011c\012d\134 rw,noatime - cgroup cgroup rw,memory
24 22 0:6 / /no-separator rw
rubbish
25 22 0:7 /
26 22 0:8 / /short rw - proc`)) {
		got = append(got, mount{m.ID(), m.Root(), m.Point(), m.Type(), m.Super()})
	}
	want := []mount{
		{"22", "/", "/", "ext4", "rw,errors=continue"},
		{"23", `/a\b`, "/a b\tc\nd\\", "cgroup", "rw,memory"},
		{"24", "/", "/no-separator", "", ""},
		{"26", "/", "/short", "proc", ""},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// The file of this process has a root, and whoever has seen enough need not read on.
func TestParseOwn(t *testing.T) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for m := range Parse(text) {
		if m.Point() == "/" && m.Type() != "" {
			return
		}
	}
	t.Errorf("no root in %s", text)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("22 1 254:0 / /a\\040b rw - ext4 /dev/vda rw\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for m := range Parse(text) {
			_, _, _, _, _ = m.ID(), m.Root(), m.Point(), m.Type(), m.Super()
		}
	})
}
