package program

import (
	"bytes"
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	for _, test := range []struct {
		name   string
		writes []string
		want   string
	}{
		{"nothing", nil, ""},
		{"short", []string{"ab", "cd"}, "abcd"},
		{"just full", []string{"abcd", "efgh"}, "abcdefgh"},
		{"over by one", []string{"abcd", "efghi"}, "…bcdefghi"},
		{"one long write", []string{"abcdefghijkl"}, "…efghijkl"},
		{"cut within a character", []string{"aé", "1234567"}, "…1234567"},
		{"lines", []string{"\n a\n\n", "b\r\n"}, "a; b"},
		{"only blanks kept", []string{"abcdefgh", "\n\n\n\n\n\n\n\n"}, ""},
		{"terminal escapes", []string{"\x1b[H\tz\u202e"}, "[H z"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := &tail{max: 8}
			for _, w := range test.writes {
				if n, err := out.Write([]byte(w)); n != len(w) || err != nil {
					t.Errorf("Write = %d, %v", n, err)
				}
			}
			if got := out.line(); got != test.want {
				t.Errorf("line() = %q, want %q", got, test.want)
			}
		})
	}
}

func FuzzTail(f *testing.F) {
	f.Add([]byte("a\nb"), []byte("\xff\x1b[0m"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		out := &tail{max: 16}
		out.Write(a)
		out.Write(b)
		all := append(append([]byte{}, a...), b...)
		if want := all[max(0, len(all)-16):]; !bytes.Equal(out.buf, want) {
			t.Errorf("kept %q, want %q", out.buf, want)
		}
		if strings.ContainsFunc(out.line(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Errorf("%q isn't one clean line", out.line())
		}
	})
}
