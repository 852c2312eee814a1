package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hull/hulltest"
)

var when = time.Unix(1_700_000_000, 0)

func sample() tree {
	t := tree{"bin/hull-s": file{mode: 0o777, link: "hull"}}
	t.add("bin/hull", 0o755, []byte("#!/bin/sh\n"))
	t.add("share/doc/hull/copyright", 0o644, []byte("mine\n"))
	return t
}

func TestTarball(t *testing.T) {
	b, err := tarball(sample().under("hull-1"), when)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "root" || !h.ModTime.Equal(when) {
			t.Errorf("%+v", h)
		}
		got = append(got, h.FileInfo().Mode().String()+" "+h.Name+" "+h.Linkname+string(content))
	}
	want := []string{
		"drwxr-xr-x hull-1/ ", "drwxr-xr-x hull-1/bin/ ", "-rwxr-xr-x hull-1/bin/hull #!/bin/sh\n", "Lrwxrwxrwx hull-1/bin/hull-s hull",
		"drwxr-xr-x hull-1/share/ ", "drwxr-xr-x hull-1/share/doc/ ", "drwxr-xr-x hull-1/share/doc/hull/ ", "-rw-r--r-- hull-1/share/doc/hull/copyright mine\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The image has the programs, and of what is said of them what has to be handed on.
func TestImage(t *testing.T) {
	s := sample()
	s.add(nodeProgram, 0o755, []byte("node"))
	s.add("share/doc/hull/licenses/a.example/b/LICENSE", 0o644, []byte("theirs\n"))
	s.add("share/doc/hull/docs/cli.md", 0o644, []byte("long\n"))
	s.add("share/man/man1/hull.1.gz", 0o644, []byte("long\n"))
	b, err := (&dist{version: "1.2+git", arch: "arm64"}).image(s, when)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	var layer []string
	read := func(archive []byte, each func(h *tar.Header, content []byte)) {
		t.Helper()
		for r := tar.NewReader(bytes.NewReader(archive)); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			each(h, content)
		}
	}
	read(b, func(h *tar.Header, content []byte) { files[h.Name] = content })
	parse := func(name string, v any) {
		t.Helper()
		if err := json.Unmarshal(files[name], v); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	type blob struct {
		Digest      string
		Annotations map[string]string
		Platform    struct{ Architecture string }
	}
	var index struct{ Manifests []blob }
	parse("index.json", &index)
	if len(index.Manifests) != 1 || index.Manifests[0].Annotations["io.containerd.image.name"] != "localhost/hull-node:1.2-git" || index.Manifests[0].Platform.Architecture != "arm64" {
		t.Fatalf("%+v", index)
	}
	of := func(d string) string { return "blobs/sha256/" + strings.TrimPrefix(d, "sha256:") }
	var manifest struct {
		Config blob
		Layers []blob
	}
	parse(of(index.Manifests[0].Digest), &manifest)
	var config struct {
		Architecture string
		Config       struct{ Entrypoint []string }
	}
	parse(of(manifest.Config.Digest), &config)
	if config.Architecture != "arm64" || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/libexec/hull/hull-node" {
		t.Errorf("%+v", config)
	}
	read(files[of(manifest.Layers[0].Digest)], func(h *tar.Header, content []byte) {
		if h.Typeflag != tar.TypeDir {
			layer = append(layer, h.FileInfo().Mode().String()+" "+h.Name+" "+h.Linkname+string(content))
		}
	})
	want := []string{"-rwxr-xr-x bin/hull #!/bin/sh\n", "Lrwxrwxrwx bin/hull-s hull", "-rwxr-xr-x libexec/hull/hull-node node",
		"-rw-r--r-- share/doc/hull/copyright mine\n", "-rw-r--r-- share/doc/hull/licenses/a.example/b/LICENSE theirs\n"}
	if diff := cmp.Diff(want, layer); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Manifests name the image that is handed out with them.
func TestManifests(t *testing.T) {
	names, err := filepath.Glob("../../deploy/kubernetes/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		before, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		after, err := nodeManifest(before, "1.2+git")
		if err != nil || bytes.Contains(after, []byte(":dev")) || bytes.Contains(before, []byte(nodeImage)) != bytes.Contains(after, []byte(nodeImage+":1.2-git")) {
			t.Errorf("%s: %v\n%s", name, err, after)
		}
	}
	if _, err := nodeManifest([]byte("image: localhost/hull-node:1.0\n"), "2"); err == nil {
		t.Error("another name of the image is taken")
	}
}

// The order that a map is walked in, or the time, is in nothing that is made.
func TestTheSameTwice(t *testing.T) {
	make := func() []byte {
		b, err := debian(sample(), "1.2-dev", "amd64", when)
		if err != nil {
			t.Fatal(err)
		}
		image, err := (&dist{version: "1.2", arch: "amd64"}).image(sample(), when)
		if err != nil {
			t.Fatal(err)
		}
		return append(b, image...)
	}
	first := make()
	for range 10 {
		if !bytes.Equal(make(), first) {
			t.Fatal("other bytes")
		}
	}
}

// Debian's own programs take the package.
func TestDebian(t *testing.T) {
	hulltest.Require(t, hulltest.Command("dpkg-deb"))
	b, err := debian(sample(), "1.2-dev", "amd64", when)
	if err != nil {
		t.Fatal(err)
	}
	deb, dir := filepath.Join(t.TempDir(), "hull.deb"), t.TempDir()
	if err := os.WriteFile(deb, b, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		return string(out)
	}
	if out := run("dpkg-deb", "-f", deb, "Package", "Version", "Architecture"); out != "Package: hull\nVersion: 1.2~dev\nArchitecture: amd64\n" {
		t.Errorf("got %q", out)
	}
	run("dpkg-deb", "-x", deb, ".")
	if target, err := os.Readlink(filepath.Join(dir, "usr/bin/hull-s")); target != "hull" || err != nil {
		t.Errorf("hull-s leads to %q, %v", target, err)
	}
	run("dpkg-deb", "-e", deb, "control")
	run("md5sum", "--quiet", "--strict", "-c", "control/md5sums")
	if out := run("dpkg-deb", "-c", deb); !strings.Contains(out, "root/root") || !strings.Contains(out, " ./usr/bin/\n") {
		t.Errorf("got %s", out)
	}
}

func TestDebianVersion(t *testing.T) {
	for version, want := range map[string]string{
		"1.2.3": "1.2.3", "0.1.0-dev": "0.1.0~dev", "1.0-rc1": "1.0~rc1", "1.0-3-gabc-dirty": "1.0+3.gabc.dirty",
	} {
		if got := debianVersion(version); got != want {
			t.Errorf("%s: got %s, want %s", version, got, want)
		}
	}
}
