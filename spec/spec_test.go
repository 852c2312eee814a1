package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"hull/hulltest/golden"
	"hull/internal/oci"
)

var variants = []struct {
	name string
	o    Options
}{
	{"default", Options{}},
	{"rootless", Options{Rootless: true, UID: 1000, GID: 1001}},
	{"args", Options{Args: []string{"/bin/echo", "a b", "<&>"}, Cwd: "/tmp", NetNS: "/run/netns/a"}},
	{"cgroup-v1", Options{CgroupV1: true}},
	{"rootless-netns", Options{Rootless: true, UID: 1000, GID: 1000, NetNS: "/proc/5/ns/net"}},
}

// TestExample shows each variant as the file that users get.
func TestExample(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			got := printed(t, Example(v.o))
			golden.Compare(t, filepath.Join("testdata", v.name+".json"), string(got))
		})
	}
}

func TestExampleIsWithoutMistakes(t *testing.T) {
	for _, v := range variants {
		s := Example(v.o)
		c, err := oci.Parse(v.name, printed(t, s))
		if err != nil {
			t.Fatalf("%s: %v", v.name, err)
		}
		if len(c.Warnings) > 0 {
			t.Errorf("%s: warnings %q", v.name, c.Warnings)
		}
		if diff := cmp.Diff(s, c.Spec); diff != "" {
			t.Errorf("%s: written and read back (-want +got):\n%s", v.name, diff)
		}
		if err := v.o.Check(); err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
	}
}

// TestExampleMatchesSchema validates against the JSON schema that comes with the specification's module.
func TestExampleMatchesSchema(t *testing.T) {
	schema := compileSchema(t)
	for _, v := range variants {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(printed(t, Example(v.o))))
		must(t, err)
		if err := schema.Validate(doc); err != nil {
			t.Errorf("%s: %v", v.name, err)
		}
	}
	bad := Example(Options{})
	bad.Linux.Namespaces[0].Type = "nonsense"
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(printed(t, bad)))
	must(t, err)
	if schema.Validate(doc) == nil {
		t.Error("the schema takes anything: it was not loaded as a whole")
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-spec").Output()
	must(t, err)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft4) // of the files only the first says that it is
	c.UseLoader(schemaLoader{})
	schema, err := c.Compile(filepath.Join(strings.TrimSpace(string(out)), "schema/config-schema.json"))
	must(t, err)
	return schema
}

// schemaLoader mends references such as "defs.json#definitions/uint32", which lack the slash that makes them a pointer.
type schemaLoader struct{}

func (schemaLoader) Load(url string) (any, error) {
	data, err := os.ReadFile(strings.TrimPrefix(url, "file://"))
	if err != nil {
		return nil, err
	}
	data = bytes.ReplaceAll(data, []byte("#definitions/"), []byte("#/definitions/"))
	return jsonschema.UnmarshalJSON(bytes.NewReader(data))
}

// TestExamplesShareNothing guards against two configurations that change each other.
func TestExamplesShareNothing(t *testing.T) {
	args := []string{"a"}
	s := Example(Options{Args: args})
	s.Process.Args[0] = "b"
	s.Process.Capabilities.Bounding[0] = "b"
	s.Linux.MaskedPaths[0] = "b"
	if args[0] != "a" || s.Process.Capabilities.Effective[0] == "b" || Example(Options{}).Linux.MaskedPaths[0] == "b" {
		t.Error("shared")
	}
}

func TestOptionsCheck(t *testing.T) {
	for want, o := range map[string]Options{
		`process.cwd: got "tmp", want an absolute path`:                 {Cwd: "tmp"},
		`linux.namespaces: network: got "netns", want an absolute path`: {NetNS: "netns"},
	} {
		if err := o.Check(); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestWrite(t *testing.T) {
	old := syscall.Umask(0o027)
	defer syscall.Umask(old)
	bundle := t.TempDir()
	s := Example(Options{})
	must(t, Write(bundle, s))
	file := filepath.Join(bundle, "config.json")
	got, err := os.ReadFile(file)
	must(t, err)
	if diff := cmp.Diff(string(printed(t, s)), string(got)); diff != "" {
		t.Error(diff)
	}
	info, err := os.Stat(file)
	must(t, err)
	if m := info.Mode(); m != 0o640 {
		t.Errorf("mode %v, want 0666 without the umask", m)
	}

	other := Example(Options{Args: []string{"other"}})
	err = Write(bundle, other)
	if err == nil || err.Error() != file+" exists; remove it first" || !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if again, _ := os.ReadFile(file); !bytes.Equal(again, got) {
		t.Error("the file was changed")
	}
}

func TestWriteFollowsNoLink(t *testing.T) {
	bundle := t.TempDir()
	target := filepath.Join(t.TempDir(), "target")
	must(t, os.Symlink(target, filepath.Join(bundle, "config.json")))
	if err := Write(bundle, Example(Options{})); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(target); err == nil {
		t.Error("the target of a dangling link was made")
	}
}

func TestWriteNoBundle(t *testing.T) {
	bundle := filepath.Join(t.TempDir(), "none")
	err := Write(bundle, Example(Options{}))
	if want := "open " + bundle + "/config.json: no such file or directory"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestPartialFileIsRemoved lets writing fail half-way, as on a full disk.
func TestPartialFileIsRemoved(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	err := writeNew(file, func(w io.Writer) error {
		if _, err := w.Write([]byte("{")); err != nil {
			return err
		}
		return syscall.ENOSPC
	})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

// TestFullDisk writes to the device that is always full.
func TestFullDisk(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	if err := Print(f, Example(Options{})); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

func TestPrintIsIndentedByTabs(t *testing.T) {
	out := printed(t, &specs.Spec{Version: "1.0.0", Annotations: map[string]string{"k": "a<b"}})
	want := "{\n\t\"ociVersion\": \"1.0.0\",\n\t\"annotations\": {\n\t\t\"k\": \"a<b\"\n\t}\n}\n"
	if string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if !json.Valid(out) {
		t.Error("not JSON")
	}
}

func printed(t *testing.T, s *specs.Spec) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, Print(&b, s))
	return b.Bytes()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
