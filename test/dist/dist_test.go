package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
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

// The order that a map is walked in, or the time, is in nothing that is made.
func TestTheSameTwice(t *testing.T) {
	make := func() []byte {
		b, err := debian(sample(), "1.2-dev", "amd64", when)
		if err != nil {
			t.Fatal(err)
		}
		return b
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
