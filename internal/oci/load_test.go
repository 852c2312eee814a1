package oci

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hull/hulltest/golden"
	"hull/internal/fault"
)

// TestBadFiles compares every message about each bad file with the golden file beside it.
func TestBadFiles(t *testing.T) {
	for _, file := range glob(t, "testdata/bad/*.json") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := Parse("config.json", read(t, file))
			if err == nil {
				t.Fatalf("parsed; warnings %q", c.Warnings)
			}
			if !errors.Is(err, fault.BadSpec) && !errors.Is(err, fault.Unsupported) {
				t.Errorf("%v is neither BadSpec nor Unsupported", err)
			}
			golden.Compare(t, strings.TrimSuffix(file, ".json")+".txt", err.Error()+"\n")
		})
	}
}

// TestGoodFiles does the same with the warnings about good files.
func TestGoodFiles(t *testing.T) {
	for _, file := range glob(t, "testdata/good/*.json") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := Parse("config.json", read(t, file))
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, w := range c.Warnings {
				b.WriteString("warning: " + w + "\n")
			}
			golden.Compare(t, strings.TrimSuffix(file, ".json")+".txt", b.String())
		})
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	return files
}

// TestTruncated cuts a configuration short at every byte: each is a mistake in the syntax, none a panic.
func TestTruncated(t *testing.T) {
	data := []byte(strings.TrimSpace(string(read(t, "testdata/good/default.json"))))
	for n := range data {
		_, err := Parse("config.json", data[:n])
		if err == nil || !strings.Contains(err.Error(), "config.json line ") {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

func TestLoad(t *testing.T) {
	good := read(t, "testdata/good/default.json")
	tests := []struct {
		name string
		make func(t *testing.T, bundle string)
		want string // "": loads; $B is the bundle
		is   error
		hint bool
	}{
		{"good", func(t *testing.T, b string) { put(t, b, good) }, "", nil, false},
		{"no configuration", func(*testing.T, string) {}, "open $B/config.json: no such file or directory", fs.ErrNotExist, true},
		{"no bundle", func(t *testing.T, b string) { must(t, os.Remove(b)) }, "open bundle $B: no such file or directory", fs.ErrNotExist, false},
		{"bundle is a file", func(t *testing.T, b string) {
			must(t, os.Remove(b))
			must(t, os.WriteFile(b, nil, 0o666))
		}, "open $B/config.json: not a directory", syscall.ENOTDIR, false},
		{"directory", func(t *testing.T, b string) { must(t, os.Mkdir(b+"/config.json", 0o777)) },
			"read $B/config.json: a directory, want a regular file", fault.BadSpec, false},
		{"FIFO", func(t *testing.T, b string) { must(t, syscall.Mkfifo(b+"/config.json", 0o666)) },
			"read $B/config.json: a FIFO, want a regular file", fault.BadSpec, false},
		{"device", func(t *testing.T, b string) { must(t, os.Symlink("/dev/zero", b+"/config.json")) },
			"read $B/config.json: a device, want a regular file", fault.BadSpec, false},
		{"loop of links", func(t *testing.T, b string) { must(t, os.Symlink("config.json", b+"/config.json")) },
			"open $B/config.json: too many levels of symbolic links", syscall.ELOOP, false},
		{"huge", func(t *testing.T, b string) {
			put(t, b, nil)
			must(t, os.Truncate(b+"/config.json", maxSize+1))
		}, "read $B/config.json: 16777217 bytes, want at most 16777216", fault.BadSpec, false},
		{"empty", func(t *testing.T, b string) { put(t, b, nil) },
			"$B/config.json line 1, column 1: the file is empty", fault.BadSpec, false},
		{"comma too many", func(t *testing.T, b string) { put(t, b, []byte(`{"ociVersion":"1.0.0",}`)) },
			"$B/config.json line 1, column 23: got '}', want another value behind the comma", fault.BadSpec, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bundle := filepath.Join(t.TempDir(), "bundle")
			must(t, os.Mkdir(bundle, 0o777))
			tt.make(t, bundle)
			c, err := Load(bundle)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if string(c.Raw) != string(good) {
					t.Error("Raw is not what the file holds")
				}
				return
			}
			if err == nil {
				t.Fatal("loaded")
			}
			if got, want := err.Error(), strings.ReplaceAll(tt.want, "$B", bundle); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
			if got := fault.Hint(err) != ""; got != tt.hint {
				t.Errorf("hint %q", fault.Hint(err))
			}
		})
	}
}

// TestGrowingFile reads a file that has more than fstat(2) says, as does one that somebody appends to.
func TestGrowingFile(t *testing.T) {
	if _, err := readFile("/proc/self/status"); err == nil || !strings.Contains(err.Error(), "grew") {
		t.Errorf("got %v", err)
	}
}

func TestHugeBytes(t *testing.T) {
	if _, err := Parse("f", make([]byte, maxSize+1)); err == nil || !strings.Contains(err.Error(), "want at most") {
		t.Errorf("got %v", err)
	}
}

func TestParseProcess(t *testing.T) {
	p, warnings, err := ParseProcess("p.json", []byte(`{"args":["a"],"cwd":"/","user":{"username":"u"},"noNewPrivilges":true}`))
	if err != nil {
		t.Fatal(err)
	}
	// That of the user's name comes from CheckProcess.
	if p.Args[0] != "a" || len(warnings) != 1 || !strings.HasPrefix(warnings[0], "process.noNewPrivilges: unknown property") {
		t.Errorf("%+v, warnings %q", p, warnings)
	}
	_, _, err = ParseProcess("p.json", []byte(`{"args":[1],"cwd":"x"}`))
	want := "process.args[0]: got number 1, want a string\nprocess.cwd: got \"x\", want an absolute path"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %v", err, want)
	}
	if _, _, err = ParseProcess("p.json", []byte(`null`)); err == nil {
		t.Error("null is a process")
	}
}

func TestParseResources(t *testing.T) {
	r, _, err := ParseResources("-", []byte(`{"memory":{"limit":4096},"pids":{"limit":-1}}`))
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, err := ParseResources("-", []byte(`{"devices":[{"access":"rwa"}]}`))
	if want := `linux.resources.devices[0].access: got "rwa": a is no kind of access, not used`; err != nil || len(warnings) != 1 || warnings[0] != want {
		t.Errorf("access rwa: %v, warnings %q", err, warnings)
	}
	if _, _, err := ParseResources("-", []byte(`{"devices":[{"access":"a"}]}`)); err == nil {
		t.Error("access a: no mistake")
	}
	_, warnings, err = ParseResources("-", []byte(`{"memroy":{"limit":1}}`))
	if want := `linux.resources.memroy: unknown property, not read: did you mean memory?`; err != nil || len(warnings) != 1 || warnings[0] != want {
		t.Errorf("unknown property: %v, warnings %q", err, warnings)
	}
	if *r.Memory.Limit != 4096 || *r.Pids.Limit != -1 {
		t.Errorf("%+v", r)
	}
	_, _, err = ParseResources("-", []byte(`{"memory":{"limit":"1G"},"devices":[{"access":"x"}]}`))
	want := "linux.resources.memory.limit: got string \"1G\", want an integer\n" +
		"linux.resources.devices[0].access: got \"x\", want letters of r, w and m"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %v", err, want)
	}
}

// TestUnknownAmongMany has so much told of a profile that a property that hull doesn't know comes late: it is a mistake even so.
func TestUnknownAmongMany(t *testing.T) {
	many := strings.Repeat(`{"Names":["read"],"action":"SCMP_ACT_ALLOW"},`, maxMistakes)
	_, err := ParseSeccomp("profile", []byte(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[`+strings.TrimSuffix(many, ",")+`],"archMap":[]}`))
	if !errors.Is(err, fault.BadSpec) || !strings.Contains(fault.Hint(err), "archMap") {
		t.Errorf("%v, hint %q", err, fault.Hint(err))
	}
}

// TestUnknownProperty tells of each, and what may be meant by it.
func TestUnknownProperty(t *testing.T) {
	for _, tt := range []struct{ config, want string }{
		{`"hooks":{"prestar":[]}`, `hooks.prestar: unknown property, not read: did you mean prestart?`},
		{`"hooks":{"prestart":[{"path":"/x","tiemout":5}]}`, `hooks.prestart[0].tiemout: unknown property, not read: did you mean timeout?`},
		{`"process":{"args":["a"],"cwd":"/","noNewPrivilges":true}`, `process.noNewPrivilges: unknown property, not read: did you mean noNewPrivileges?`},
		{`"linux":{"resource":{}}`, `linux.resource: unknown property, not read: did you mean resources?`},
		{`"linux":{"capabilities":{}}`, `linux.capabilities: unknown property, not read: did you mean process.capabilities?`},
		{`"hook":{}`, `hook: unknown property, not read: did you mean hooks?`},
		{`"maskedPaths":[]`, `maskedPaths: unknown property, not read: did you mean linux.maskedPaths?`},
		{`"linux":{"path":"x"}`, `linux.path: unknown property, not read`}, // others of that name are many
		{`"org.example":{"x":1}`, `"org.example": unknown property, not read`},
	} {
		c, err := Parse("config.json", []byte(`{"ociVersion":"1.0.0","root":{"path":"r"},`+tt.config+`}`))
		if err != nil {
			t.Errorf("%s: %v", tt.config, err)
			continue
		}
		if len(c.Warnings) != 1 || c.Warnings[0] != tt.want {
			t.Errorf("%s: warnings %q\nwant %q", tt.config, c.Warnings, tt.want)
		}
	}
}

func put(t *testing.T, bundle string, data []byte) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(bundle, File), data, 0o666))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
