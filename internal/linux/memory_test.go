package linux

import (
	"bytes"
	"os"
	"strconv"
	"testing"
)

func resident(t *testing.T) int {
	t.Helper()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(bytes.Fields(statm)[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n * os.Getpagesize()
}

func TestReleaseMemory(t *testing.T) {
	garbage := make([]byte, 32<<20)
	for i := range garbage {
		garbage[i] = 1
	}
	before := resident(t)
	garbage = nil
	if err := ReleaseMemory(); err != nil {
		t.Fatal(err)
	}
	if after := resident(t); after > before-30<<20 {
		t.Errorf("%d bytes resident, %d before", after, before)
	}
}

func TestUnwritten(t *testing.T) {
	for _, tt := range []struct {
		line     string
		from, to uintptr
		ok       bool
	}{
		{"00400000-0058a000 r-xp 00000000 fe:00 1234                       /bin/x\n", 0x400000, 0x58a000, true},
		{"0058a000-0078a000 r--p 0018a000 fe:00 1234                       /bin/x\n", 0x58a000, 0x78a000, true},
		{"55550058a000-55550078a000 r--p 0018a000 fe:00 1234               /bin/x\n", 0, 0, false},
		{"555500400000-55550058a000 r-xp 00000000 fe:00 1234               /bin/x\n", 0x555500400000, 0x55550058a000, true},
		{"0078a000-0079a000 rw-p 0038a000 fe:00 1234                       /bin/x\n", 0, 0, false},
		{"0078a000-0079a000 r--p 0038a000 fe:00 1234                       /bin/y\n", 0, 0, false},
		{"7fff1000-7fff2000 r-xp 00000000 00:00 0                          [vdso]\n", 0, 0, false},
		{"zz-7fff2000 r-xp 00000000 00:00 0 /bin/x\n", 0, 0, false},
		{"", 0, 0, false},
	} {
		from, to, ok := unwritten([]byte(tt.line), "/bin/x")
		if ok != tt.ok || ok && (from != tt.from || to != tt.to) {
			t.Errorf("%q: %#x-%#x %v", tt.line, from, to, ok)
		}
	}
}
