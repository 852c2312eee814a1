package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"hull"
)

func TestFail(t *testing.T) {
	mistakes := errors.Join(
		&hull.Error{Field: "process.cwd", Kind: hull.ErrBadSpec, Err: errors.New("missing")},
		&hull.Error{Field: "hooks", Kind: hull.ErrBadSpec, Err: errors.New("not absolute"), Hint: "write /bin/true"},
	)
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"plain", errors.New("a"), "hull: a\n"},
		{"hint", &hull.Error{Op: "run", ID: "x", Step: "clone", Err: unix.EPERM, Hint: "be root"},
			"hull: run x: clone: operation not permitted\n      be root\n"},
		{"kind only", &hull.Error{Op: "state", ID: "x", Kind: hull.ErrNotExist}, "hull: state x: container does not exist\n"},
		{"several", mistakes, "hull: process.cwd: missing\nhull: hooks: not absolute\n      write /bin/true\n"},
		{"several of an operation", &hull.Error{Op: "run", ID: "x", Err: mistakes},
			"hull: run x: process.cwd: missing\nhull: run x: hooks: not absolute\n      write /bin/true\n"},
		{"wrapped", fmt.Errorf("b: %w", &hull.Error{Err: unix.ENOENT, Hint: "make it"}),
			"hull: b: no such file or directory\n      make it\n"},
		{"lines in a message", errors.New("a\nhull: b"), "hull: a; hull: b\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var b bytes.Buffer
			(&logger{name: "hull", stderr: &b}).fail(test.err)
			if diff := cmp.Diff(test.want, b.String()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestLevels(t *testing.T) {
	say := func(l *logger) {
		l.debug(`mounts[2] "/proc"`)
		l.warn("w")
		l.fail(errors.New("e"))
	}
	const stamp = `[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(Z|[+-][0-9:]{5})`
	tests := []struct {
		name         string
		json, file   bool
		person       bool
		stderr, want string
	}{
		{"text on standard error", false, false, false, `hull: debug: mounts\[2\] "/proc"\nhull: warning: w\nhull: e\n`, ``},
		{"text in a file", false, true, false, `hull: e\n`,
			`time="T" level=debug msg="mounts\[2\] \\"/proc\\""\ntime="T" level=warning msg="w"\ntime="T" level=error msg="e"\n`},
		{"JSON in a file", true, true, false, `hull: e\n`,
			`{"level":"debug","msg":"mounts\[2\] \\"/proc\\"","time":"T"}\n{"level":"warning","msg":"w","time":"T"}\n{"level":"error","msg":"e","time":"T"}\n`},
		{"text in a file and on a terminal", false, true, true, `hull: warning: w\nhull: e\n`,
			`time="T" level=debug msg="mounts\[2\] \\"/proc\\""\ntime="T" level=warning msg="w"\ntime="T" level=error msg="e"\n`},
		{"JSON on standard error", true, false, false,
			`{"level":"debug","msg":"mounts\[2\] \\"/proc\\"","time":"T"}\n{"level":"warning","msg":"w","time":"T"}\n{"level":"error","msg":"e","time":"T"}\n`, ``},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var stderr, file bytes.Buffer
			l := &logger{name: "hull", stderr: &stderr, json: test.json, person: test.person}
			if test.file {
				l.file = &file
			}
			say(l)
			matches(t, "standard error", test.stderr, stamp, stderr.String())
			matches(t, "file", test.want, stamp, file.String())
		})
	}
}

func matches(t *testing.T, what, pattern, stamp, got string) {
	t.Helper()
	pattern = "^" + regexp.MustCompile("T\"").ReplaceAllLiteralString(pattern, stamp+"\"") + "$"
	if !regexp.MustCompile(pattern).MatchString(got) {
		t.Errorf("%s: got\n%swant\n%s", what, got, pattern)
	}
}

// TestWhoReads opens a log with a terminal as standard error, where a person reads, and with a file.
func TestWhoReads(t *testing.T) {
	dir := t.TempDir()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	file, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, tt := range []struct {
		stderr *os.File
		want   bool
	}{{terminal, true}, {file, false}} {
		l := &logger{stderr: tt.stderr}
		if err := l.open(globals{log: filepath.Join(dir, "log")}); err != nil {
			t.Fatal(err)
		}
		if l.person != tt.want {
			t.Errorf("%s: a person %t, want %t", tt.stderr.Name(), l.person, tt.want)
		}
		_ = l.file.(*os.File).Close()
	}
}
