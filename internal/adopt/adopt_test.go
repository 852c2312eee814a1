package adopt

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

var both = []Runtime{{Name: Hull, Path: "/usr/bin/hull"}, {Name: Sandbox, Path: "/usr/bin/hull-s"}}

// edited is what becomes of a configuration, by install, install again and uninstall.
type edited struct{ name, before, after, left string }

func check(t *testing.T, engine string, cases []edited) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "etc", "config")
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if c.before != "" {
				if err := os.WriteFile(file, []byte(c.before), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			step := func(want string, plan func() (*Change, error)) *Change {
				t.Helper()
				ch, err := plan()
				if err != nil {
					t.Fatal(err)
				}
				if _, err := ch.Do(); err != nil {
					t.Fatal(err)
				}
				got, _ := os.ReadFile(file)
				if diff := cmp.Diff(want, string(got)); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				return ch
			}
			install := func() (*Change, error) { return Install(engine, file, both) }
			if ch := step(c.after, install); ch.Nothing() != (c.before == c.after) || len(ch.Says) == 0 && !ch.Nothing() {
				t.Errorf("it says %q", ch.Says)
			}
			if fi, err := os.Stat(file); err != nil || c.before != "" && fi.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v", fi.Mode(), err)
			}
			if ch := step(c.after, install); !ch.Nothing() {
				t.Errorf("again it says %q", ch.Says)
			}
			if backup, err := os.ReadFile(file + backupSuffix); c.before != "" && c.before != c.after && string(backup) != c.before || c.before == "" && err == nil {
				t.Errorf("the copy is %q, %v", backup, err)
			}
			step(c.left, func() (*Change, error) { return Uninstall(engine, file) })
			if ch := step(c.left, func() (*Change, error) { return Uninstall(engine, file) }); !ch.Nothing() {
				t.Errorf("after the end it says %q", ch.Says)
			}
		})
	}
}

func TestDocker(t *testing.T) {
	const fresh = "{\n    \"runtimes\": {\n        \"hull\": {\"path\": \"/usr/bin/hull\"},\n        \"hull-s\": {\"path\": \"/usr/bin/hull-s\"}\n    }\n}\n"
	check(t, "docker", []edited{
		{"none", "", fresh, ""},
		{"empty object", "{}\n", fresh, ""},
		{"others", "{\n  \"log-driver\": \"local\",\n  \"dns\": [\"192.0.2.1\", \"}\"]\n}\n",
			"{\n  \"log-driver\": \"local\",\n  \"dns\": [\"192.0.2.1\", \"}\"],\n  \"runtimes\": {\n    \"hull\": {\"path\": \"/usr/bin/hull\"},\n    \"hull-s\": {\"path\": \"/usr/bin/hull-s\"}\n  }\n}\n",
			"{\n  \"log-driver\": \"local\",\n  \"dns\": [\"192.0.2.1\", \"}\"]\n}\n"},
		{"runtimes", "{\n\t\"runtimes\": {\n\t\t\"nvidia\": {\n\t\t\t\"path\": \"x\\\"y\"\n\t\t}\n\t},\n\t\"debug\": true\n}",
			"{\n\t\"runtimes\": {\n\t\t\"nvidia\": {\n\t\t\t\"path\": \"x\\\"y\"\n\t\t},\n\t\t\"hull\": {\"path\": \"/usr/bin/hull\"},\n\t\t\"hull-s\": {\"path\": \"/usr/bin/hull-s\"}\n\t},\n\t\"debug\": true\n}",
			"{\n\t\"runtimes\": {\n\t\t\"nvidia\": {\n\t\t\t\"path\": \"x\\\"y\"\n\t\t}\n\t},\n\t\"debug\": true\n}"},
		{"one line", `{"a":1,"runtimes":{"hull":{"path":"/old"},"z":{}}}`,
			`{"a":1,"runtimes":{"hull":{"path": "/usr/bin/hull"},"z":{}, "hull-s": {"path": "/usr/bin/hull-s"}}}`,
			`{"a":1,"runtimes":{"z":{}}}`},
		{"known already", `{"runtimes":{"hull":{"path":"/usr/bin/hull"},"hull-s":{"path":"/usr/bin/hull-s"}}, "b": {}}`,
			`{"runtimes":{"hull":{"path":"/usr/bin/hull"},"hull-s":{"path":"/usr/bin/hull-s"}}, "b": {}}`, `{"b": {}}`},
	})
}

func TestPodman(t *testing.T) {
	check(t, "podman", []edited{{"none", "", "# Made by hull install podman; hull uninstall podman removes it.\n[engine.runtimes]\nhull = [\"/usr/bin/hull\"]\nhull-s = [\"/usr/bin/hull-s\"]\n", ""}})
}

func TestCrio(t *testing.T) {
	text := "# Made by hull install crio; hull uninstall crio removes it.\n" + crioText(both)
	check(t, "crio", []edited{{"none", "", text, ""}})
	for keeps, runtimes := range map[bool][]Runtime{true: both, false: both[:1]} {
		root, err := parseTOML(crioText(runtimes))
		if err != nil {
			t.Fatal(err)
		}
		if drop := root.walk("crio", "runtime", "drop_infra_ctr"); (drop == false) != keeps {
			t.Errorf("of %v drop_infra_ctr becomes %v", runtimes, drop)
		}
		if path := root.walk("crio", "runtime", "runtimes", Hull, "runtime_path"); path != "/usr/bin/hull" {
			t.Errorf("the path becomes %v", path)
		}
	}
}

func TestContainerd(t *testing.T) {
	v2, v3 := containerdText("io.containerd.grpc.v1.cri", true, false, both), containerdText("io.containerd.cri.v1.runtime", false, true, both)
	// containerd 1 has a runtime runc, its default, where the file names none.
	runc := "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n"
	named := containerdText("io.containerd.grpc.v1.cri", false, false, both)
	if strings.Count(v2, runc) != 1 || strings.Contains(named+v3, "runtimes.runc") {
		t.Errorf("runc is named in\n%s\nand not in\n%s\nor\n%s", v2, named, v3)
	}
	const old2runc = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.crun]\nruntime_type = \"io.containerd.runc.v2\"\n"
	const old2 = "# of ours\nversion = 2 # yes\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = \"pause\"\n"
	const old3 = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = true"
	old4 := strings.Replace(old3, "version = 3", "version = 4", 1) + "\n"
	check(t, "containerd", []edited{
		{"none", "", newContainerd + v2, ""},
		{"2", old2, old2 + v2, old2},
		{"2, with runtimes", old2runc, old2runc + named, old2runc},
		{"2, by an older hull", old2 + named, old2 + v2, old2},
		{"3", old3, old3 + "\n" + v3, old3 + "\n"},
		{"4", old4, old4 + v3, old4},
		{"hull's is old", old2 + strings.ReplaceAll(v2, "/usr/bin/hull\"", "/old\"") + "[debug]\nlevel = \"info\"\n", old2 + "[debug]\nlevel = \"info\"\n" + v2, old2 + "[debug]\nlevel = \"info\"\n"},
	})
}

// Where hull's shim is, containerd calls that, by its path: it need not be in containerd's PATH.
func TestContainerdShim(t *testing.T) {
	shims := []Runtime{{Hull, "/opt/hull/bin/hull", "/opt/hull/bin/containerd-shim-hull-v1", false}, {Sandbox, "/opt/hull/bin/hull-s", "/opt/hull/bin/containerd-shim-hull-v1", false}}
	const before = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = true\n"
	after, says, err := editContainerd([]byte(before), shims)
	if err != nil {
		t.Fatal(err)
	}
	const want = before + blockBegin + `[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.hull]
  runtime_type = "/opt/hull/bin/containerd-shim-hull-v1"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.hull.options]
  isolation = "native"
  SystemdCgroup = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.hull-s]
  runtime_type = "/opt/hull/bin/containerd-shim-hull-v1"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.hull-s.options]
  isolation = "sandbox"
  SystemdCgroup = true
` + blockEnd
	if diff := cmp.Diff(want, string(after)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(says) != 2 || !strings.HasSuffix(says[1], "runtime hull-s is added: /opt/hull/bin/containerd-shim-hull-v1") {
		t.Errorf("it says %q", says)
	}
	if again, says, err := editContainerd(after, shims); err != nil || len(says) > 0 || !bytes.Equal(again, after) {
		t.Errorf("again it says %q, %v, and makes %s", says, err, again)
	}
	// Of what an older hull has made it makes the new.
	if again, _, err := editContainerd([]byte(before+containerdText("io.containerd.cri.v1.runtime", false, true, both)), shims); err != nil || string(again) != want {
		t.Errorf("of the old it makes %s, %v", again, err)
	}
}

// A file of version 2 may be that of containerd 1.6, which hands options to no other shim than runc's: hull's would not know of the
// sandbox, nor of systemd's cgroups.
func TestContainerdOld(t *testing.T) {
	shims := []Runtime{{Hull, "/usr/bin/hull", "/usr/bin/containerd-shim-hull-v1", false}, {Sandbox, "/usr/bin/hull-s", "/usr/bin/containerd-shim-hull-v1", false}}
	for _, before := range []string{"", "version = 2\n"} {
		after, says, err := editContainerd([]byte(before), shims)
		if want := newContainerd + containerdText("io.containerd.grpc.v1.cri", true, false, both); err != nil || string(after) != want {
			t.Errorf("of %q it makes %s, %v; want %s", before, after, err, want)
		}
		if len(says) != 4 || !strings.HasSuffix(says[1], "runtime hull-s is added: /usr/bin/hull-s") || !strings.Contains(says[2], "runtime runc is added") || !strings.Contains(says[3], "version 3") {
			t.Errorf("it says %q", says)
		}
	}
}

// From 1.7 on it hands them to any.
func TestContainerdTold(t *testing.T) {
	told := []Runtime{{Hull, "/usr/bin/hull", "/usr/bin/containerd-shim-hull-v1", true}, {Sandbox, "/usr/bin/hull-s", "/usr/bin/containerd-shim-hull-v1", true}}
	after, says, err := editContainerd([]byte("version = 2\n"), told)
	if want := newContainerd + containerdText("io.containerd.grpc.v1.cri", true, false, told); err != nil || string(after) != want || !strings.Contains(want, `isolation = "sandbox"`) {
		t.Errorf("it makes %s, %v; want %s", after, err, want)
	}
	if len(says) != 3 || !strings.HasSuffix(says[1], "runtime hull-s is added: /usr/bin/containerd-shim-hull-v1") {
		t.Errorf("it says %q", says)
	}
}

// What can't be understood is an error, and stays as it is.
func TestMistakes(t *testing.T) {
	for _, c := range []struct{ engine, before, want string }{
		{"docker", "{\n\"a\": 1,\n}", "config: no JSON object: line 3: invalid character '}'"},
		{"docker", "[]", "config: no JSON object, but an array"},
		{"docker", "1", "config: no JSON object, but a number"},
		{"docker", "null", "config: no JSON object, but null"},
		{"docker", `{"runtimes": []}`, `"runtimes" is no object`},
		{"docker", `{"a": 1, "a": 2}`, `"a" is there twice`},
		{"podman", "[engine]\n", "it is not hull's"},
		{"crio", "", "it is not hull's"},
		{"containerd", "version = 2\n[plugins\n", "no TOML: line "},
		{"containerd", "[]\n", "config: no TOML: line 1: a table without a name"},
		{"containerd", "root = \"x\"\n", "config: it has no version of its form: that has to be 2, 3 or 4"},
		{"containerd", "version = []\n", "config: it has no version of its form: that has to be 2, 3 or 4"},
		{"containerd", "version = 5\n", "version 5 of the configuration"},
		{"containerd", "version = 2\nplugins = {}\n", "config: plugins is in braces, where nothing can be added: write it as [plugins]"},
		{"containerd", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\ncontainerd = {a = 1}\n", `config: plugins."io.containerd.grpc.v1.cri".containerd is in braces`},
		{"containerd", "version = 2\nplugins = []\n", "config: plugins is no table"},
		{"containerd", "version = 2\n[[plugins]]\n", "config: plugins is no table"},
		{"containerd", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.hull]\n", "it has a runtime hull that hull install has not made"},
		{"containerd", "version = 2\n" + blockBegin, "have no end"},
		{"nerd", "", `unknown engine "nerd", want docker, podman, containerd, crio`},
	} {
		file := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(file, []byte(c.before), 0o644); err != nil {
			t.Fatal(err)
		}
		if ch, err := Install(c.engine, file, both); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: got %v, %v, want %q", c.engine, c.before, ch, err, c.want)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != c.before {
			t.Errorf("%s: %q is %q, %v", c.engine, c.before, got, err)
		}
	}
}

func TestDisabledPlugins(t *testing.T) {
	_, says, err := editContainerd([]byte("version = 2\ndisabled_plugins = [\"cri\", \"x\"]\n"), both)
	if last := says[len(says)-1]; err != nil || !strings.Contains(last, "note: disabled_plugins has cri, x;") {
		t.Errorf("%q, %v", last, err)
	}
}

// What an engine runs all its containers with is not taken away: it would not start.
func TestUninstallDefault(t *testing.T) {
	for _, c := range []struct{ engine, before, want string }{
		{"docker", `{"default-runtime":"hull"}`, `"default-runtime" is "hull"`},
		{"docker", `{"default-runtime":"hull-s"}`, `"default-runtime" is "hull-s"`},
		{"containerd", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"hull\"\n", `"default_runtime_name" is "hull"`},
		{"containerd", "version = 3\n[plugins.\"io.containerd.cri.v1.runtime\".containerd]\ndefault_runtime_name = 'hull-s'\n", `"default_runtime_name" is "hull-s"`},
	} {
		file := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(file, []byte(c.before), 0o644); err != nil {
			t.Fatal(err)
		}
		ch, err := Install(c.engine, file, both)
		if err == nil {
			_, err = ch.Do()
		}
		if err != nil {
			t.Fatal(err)
		}
		if ch, err := Uninstall(c.engine, file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: got %v, %v, want %q", c.engine, c.before, ch, err, c.want)
		}
	}
}

func FuzzDocker(f *testing.F) {
	for _, s := range []string{"{}", `{"runtimes":{"x":{}},"b":[1,"\"}"]}`, "{\n \"a\" : \"\\u0022\"\n}", `{"runtimes":{"hull":1}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		after, _, err := editDocker(b, both)
		if err != nil {
			return
		}
		var v struct {
			Runtimes map[string]struct{ Path string }
		}
		if err := json.Unmarshal(after, &v); err == nil && v.Runtimes["hull-s"].Path != "/usr/bin/hull-s" {
			t.Errorf("%q becomes %q", b, after)
		}
		if again, _, err := editDocker(after, both); err != nil || !bytes.Equal(again, after) {
			t.Errorf("%q becomes %q, and then %q, %v", b, after, again, err)
		}
	})
}

func FuzzContainerd(f *testing.F) {
	for _, s := range []string{"version = 2\n", "version = 3\n[plugins]\n", "version=2\nx=\"\"\"\n" + blockBegin + "\"\"\"\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		after, _, err := editContainerd(b, both)
		if err != nil {
			return
		}
		if again, _, err := editContainerd(after, both); err != nil || !bytes.Equal(again, after) {
			t.Errorf("%q becomes %q, and then %q, %v", b, after, again, err)
		}
	})
}

// A module made for it reads what is read here, and refuses what is refused.
func TestTOML(t *testing.T) {
	for _, text := range []string{
		"", "a = 1\n[b]\nc = 'x'\n", "a.b.\"c d\" = \"\\u00e9\\n\"\n", "[a]\n[a.b]\n[[c]]\nx=1\n[[c]]\nx=2\n[c.d]\n", "x = [1, [2,\n # no\n 3,], {a = 1, b.c = 'y'}]\n",
		"s = \"\"\"\nline\\\n   on\"\"\"\nt = '''raw \\ '''\n", "d = 1979-05-27T07:32:00Z\nf = -1.5e3\nh = 0xff\nb = false # end", "\"\" = 1\n", "a = 1\r\nb = 2\r\n",
		// mistakes
		"a", "a = ", "a = 1 b = 2", "a = 1\na = 2", "[a]\n[a]\n", "[a\n", "a = [1", "a = {b = 1", "a = \"x", "a = x", "a = {}\n[a.b]\n", "a = 1\n[a.b]\n", "= 1", "a..b = 1", "a = \"\\q\"", "[[a]]\n[a]\n", "a = 1\n[[a]]\n",
	} {
		_, err := parseTOML(text)
		var values map[string]any
		if _, terr := toml.Decode(text, &values); (terr == nil) != (err == nil) && !strings.Contains(text, "a = {}") {
			t.Errorf("%q: got %v, the module %v", text, err, terr)
		}
	}
	for _, text := range []string{"[a.b]\n[a]\nb.c = 1\n", "a.b = 1\n[a]\n"} { // which the module takes
		if _, err := parseTOML(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func FuzzTOML(f *testing.F) {
	f.Add("a = [1, {b = 'c'}]\n[[x]]\n[x.y]\nz = \"\"\"q\"\"\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		root, err := parseTOML(text)
		var values map[string]any
		if _, terr := toml.Decode(text, &values); terr == nil && err == nil && len(values) != len(root.values) {
			t.Errorf("%q: %v, the module %v", text, root.values, values)
		}
	})
}

// TestFailedChange leaves no directory that was made on the way to a file.
func TestFailedChange(t *testing.T) {
	top := t.TempDir()
	c := &Change{File: filepath.Join(top, "a", "b", strings.Repeat("x", 300)), After: []byte("x")}
	if _, err := c.Do(); err == nil {
		t.Fatal("a file with a name of 300 bytes")
	}
	if left, err := os.ReadDir(top); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
