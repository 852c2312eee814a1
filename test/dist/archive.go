package main

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"fmt"
	"path"
	"strings"
	"time"
)

// tarball returns a compressed archive of a tree, in the order of the paths, of nobody's but root.
func tarball(t tree, when time.Time) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	made := map[string]bool{}
	for _, name := range sorted(t) {
		for _, dir := range parents(name) {
			if made[dir] {
				continue
			}
			made[dir] = true
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: when, Uname: "root", Gname: "root", Format: tar.FormatGNU}); err != nil {
				return nil, err
			}
		}
		f := t[name]
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: f.mode, Size: int64(len(f.content)), ModTime: when, Uname: "root", Gname: "root", Format: tar.FormatGNU}
		if f.link != "" {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, f.link, 0
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return compress(b.Bytes())
}

// parents returns the directories that a file is in, from the outermost on.
func parents(name string) (dirs []string) {
	for i, c := range name {
		if c == '/' && i > 0 && name[:i] != "." {
			dirs = append(dirs, name[:i])
		}
	}
	return dirs
}

// debianVersion returns a version as Debian orders them: what comes before a release has a tilde, what comes after one a plus, and
// a dash would begin Debian's own part.
func debianVersion(version string) string {
	release, rest, more := strings.Cut(version, "-")
	if !more {
		return version
	}
	sign := "+"
	for _, before := range []string{"dev", "alpha", "beta", "rc"} {
		if strings.HasPrefix(rest, before) {
			sign = "~"
		}
	}
	return release + sign + strings.ReplaceAll(rest, "-", ".")
}

// debian returns a package (deb(5)).
func debian(t tree, version, arch string, when time.Time) ([]byte, error) {
	files := t.under("./usr")
	// under cleans paths, and Debian's begin with a dot.
	dotted := tree{}
	for name, f := range files {
		dotted["./"+name] = f
	}
	data, err := tarball(dotted, when)
	if err != nil {
		return nil, err
	}
	var sums bytes.Buffer
	size := 0
	for _, name := range sorted(files) {
		f := files[name]
		size += (len(f.content) + 1023) / 1024
		if f.link == "" {
			fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(f.content), name)
		}
	}
	control := fmt.Sprintf(`Package: hull
Version: %s
Architecture: %s
Maintainer: The hull developers <hull@invalid.invalid>
Installed-Size: %d
Section: admin
Priority: optional
Recommends: uidmap
Suggests: criu, fuse-overlayfs
Description: OCI container runtime
 hull runs containers as the Open Container Initiative specifies them, in
 place of runc: isolated by the host's kernel, or by one of their own. hull do
 runs a command at once over the host's files, which it can't change.
`, debianVersion(version), arch, size)
	controls, err := tarball(tree{"./control": {mode: 0o644, content: []byte(control)}, "./md5sums": {mode: 0o644, content: sums.Bytes()}}, when)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range []struct {
		name    string
		content []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", controls}, {"data.tar.gz", data}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", path.Base(m.name), when.Unix(), 0, 0, "100644", len(m.content))
		b.Write(m.content)
		if len(m.content)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes(), nil
}
