package user

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"hull/internal/fault"
)

const passwd = `# a comment
root:x:0:0:root:/root:/bin/sh

short:x:5
noshell:x:6:6::/home/noshell
empty:x:7:7:::/bin/sh
negative:x:-8:0::/bad:/bin/sh
wrapped:x:4294967304:0::/bad:/bin/sh
huge:x:99999999999999999999:0::/bad:/bin/sh
none:x::0::/bad:/bin/sh
spaced:x: 9:0::/bad:/bin/sh
named:x:root:0::/bad:/bin/sh
minus1:x:4294967295:0::/bad:/bin/sh
web:x:9:9:Web, server:/srv/web:/bin/sh:more
again:x:9:9::/elsewhere:/bin/sh
last:x:4294967294:0::/last:/bin/sh`

func TestHome(t *testing.T) {
	for _, test := range []struct {
		uid  uint32
		home string
		ok   bool
	}{
		{0, "/root", true},
		{5, "", false},
		{6, "/home/noshell", true},
		{7, "", false},
		{8, "", false}, // neither -8 nor 4294967304, which is 8 modulo 1<<32
		{9, "/srv/web", true},
		{10, "", false},
		{4294967294, "/last", true},
		{4294967295, "", false},
	} {
		home, ok, err := Home(strings.NewReader(passwd), test.uid)
		if home != test.home || ok != test.ok || err != nil {
			t.Errorf("Home(%d) = %q, %v, %v, want %q, %v", test.uid, home, ok, err, test.home, test.ok)
		}
	}
}

// A line that can't be read must not stand for root.
func TestHomeOfRootWithoutRoot(t *testing.T) {
	for _, line := range []string{
		"", ":", ":::::", "x:x::x::/bad", "x:x:-0:0::/bad", "x:x:+0:0::/bad", "x:x:0x0:0::/bad", "x:x:4294967296:0::/bad",
		"x:x:0", "x:x:0:0:c", "\x00", "x:x:\x000:0::/bad",
	} {
		if home, ok, err := Home(strings.NewReader(line+"\n"), 0); home != "" || ok || err != nil {
			t.Errorf("%q: Home(0) = %q, %v, %v, want nothing", line, home, ok, err)
		}
	}
}

func TestHomeWithNulByte(t *testing.T) {
	if _, ok, err := Home(strings.NewReader("a:x:1:1::/home\x00/a:"), 1); ok || err != nil {
		t.Errorf("it was taken: %v, %v", ok, err)
	}
}

func TestHomeBounds(t *testing.T) {
	entry := "web:x:9:9::/srv/web:/bin/sh\n"
	line := strings.Repeat("#", 1023) + "\n"
	for _, test := range []struct {
		name string
		in   io.Reader
		home string
		err  error
	}{
		{"before the limit", strings.NewReader(strings.Repeat(line, maxFile/len(line)-1) + entry), "/srv/web", nil},
		{"as large as may be", strings.NewReader(strings.Repeat(line, maxFile/len(line))), "", nil},
		{"one byte more", strings.NewReader(strings.Repeat(line, maxFile/len(line)) + "\n"), "", ErrFileTooLong},
		{"found in a cut line", strings.NewReader(strings.Repeat(line, maxFile/len(line)-1) +
			strings.Repeat("#", len(line)-len(entry)) + "\n" + entry), "", ErrFileTooLong},
		{"endless", io.MultiReader(strings.NewReader(strings.Repeat(line, 100)), endless{'\n'}), "", ErrFileTooLong},
		{"endless line", endless{'x'}, "", ErrLineTooLong},
		{"found before a long line", io.MultiReader(strings.NewReader(entry), endless{'x'}), "/srv/web", nil},
		{"long line", strings.NewReader(strings.Repeat("x", maxLine) + "\n" + entry), "", ErrLineTooLong},
		{"reader fails", iotest.ErrReader(io.ErrNoProgress), "", io.ErrNoProgress},
	} {
		t.Run(test.name, func(t *testing.T) {
			home, _, err := Home(test.in, 9)
			if home != test.home || !errors.Is(err, test.err) || (err != nil) != (test.err != nil) {
				t.Errorf("%q, %v, want %q, %v", home, err, test.home, test.err)
			}
		})
	}
}

// endless is a reader of one byte over and over, as a device or a FIFO in an image may be.
type endless struct{ b byte }

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.b
	}
	return len(p), nil
}

func TestParse(t *testing.T) {
	for in, want := range map[string]ID{
		"0":                     {},
		"1000":                  {UID: 1000},
		"1000:0":                {UID: 1000, HasGID: true},
		"0:4294967294":          {GID: 4294967294, HasGID: true},
		"4294967294:4294967294": {4294967294, 4294967294, true},
	} {
		got, err := Parse(in)
		if got != want || err != nil {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":             `user "": uid "" is not a number`,
		"root":         `user "root": uid "root" is not a number`,
		"-1":           `user "-1": uid "-1" is not a number`,
		"+1":           `user "+1": uid "+1" is not a number`,
		" 1":           `user " 1": uid " 1" is not a number`,
		"1_0":          `user "1_0": uid "1_0" is not a number`,
		"4294967295":   `user "4294967295": uid 4294967295 is not in 0 to 4294967294`,
		"4294967296":   `user "4294967296": uid 4294967296 is not in 0 to 4294967294`,
		"1:":           `user "1:": gid "" is not a number`,
		":1":           `user ":1": uid "" is not a number`,
		"1:2:3":        `user "1:2:3": gid "2:3" is not a number`,
		"1:4294967296": `user "1:4294967296": gid 4294967296 is not in 0 to 4294967294`,
	} {
		got, err := Parse(in)
		if err == nil || err.Error() != want || got != (ID{}) {
			t.Errorf("Parse(%q) = %+v, %v, want %s", in, got, err, want)
		}
		if !errors.Is(err, fault.BadUsage) {
			t.Errorf("Parse(%q): %v is not of kind BadUsage", in, err)
		}
	}
}

// Who gives a name is told where its number is.
func TestParseName(t *testing.T) {
	for in, want := range map[string]string{"root": "/etc/passwd", "_apt": "/etc/passwd", "0:wheel": "/etc/group", "-1": "", "": "", "1:": "", "4294967295": ""} {
		_, err := Parse(in)
		if hint := fault.Hint(err); want == "" && hint != "" || !strings.HasSuffix(hint, want) {
			t.Errorf("%q: hint %q, want %q", in, hint, want)
		}
	}
}

func FuzzHome(f *testing.F) {
	f.Add(passwd, uint32(0))
	f.Add("a:x:4294967296:0::/bad\n", uint32(0))
	f.Fuzz(func(t *testing.T, content string, uid uint32) {
		home, ok, err := Home(strings.NewReader(content), uid)
		if !ok || err != nil {
			return
		}
		if strings.ContainsAny(home, ":\n\x00") || home == "" {
			t.Errorf("home %q", home)
		}
		// Some line names the id in digits and the home.
		for line := range strings.Lines(content) {
			parts := strings.Split(strings.TrimRight(line, "\r\n"), ":")
			if len(parts) < 6 || parts[5] != home {
				continue
			}
			digits := strings.TrimLeft(parts[2], "0")
			if digits == strconv.FormatUint(uint64(uid), 10) || digits == "" && parts[2] != "" && uid == 0 {
				return
			}
		}
		t.Errorf("no line gives user %d the home %q", uid, home)
	})
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0", "1:2", "4294967296", ":", "-1:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err != nil {
			return
		}
		want := strconv.FormatUint(uint64(id.UID), 10)
		if id.HasGID {
			want += ":" + strconv.FormatUint(uint64(id.GID), 10)
		}
		got := s
		if u, g, ok := strings.Cut(s, ":"); ok {
			got = plain(u) + ":" + plain(g)
		} else {
			got = plain(u)
		}
		if got != want {
			t.Errorf("Parse(%q) = %+v", s, id)
		}
	})
}

// plain takes leading zeros off.
func plain(digits string) string {
	if s := strings.TrimLeft(digits, "0"); s != "" {
		return s
	}
	return "0"
}
