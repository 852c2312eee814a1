// Package ociimage writes images for engines to import, without a registry and without a builder.
package ociimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"
)

// Image is one image. The same image becomes the same bytes.
type Image struct {
	Name   string // with a tag, and a host where an engine would add its own
	Arch   string // as Go names it
	Config Config
	Layer  []byte // an archive of the root file system
	Time   time.Time
}

// Config is what containers of an image begin with (image-spec, config.md).
type Config struct {
	Env        []string          `json:",omitempty"`
	Entrypoint []string          `json:",omitempty"`
	Cmd        []string          `json:",omitempty"`
	Labels     map[string]string `json:",omitempty"`
}

// Layout returns an archive of an OCI image layout with images (image-spec, image-layout.md).
func Layout(images ...Image) ([]byte, error) {
	var a Archive
	a.File("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	a.Dir("blobs", 0o755)
	a.Dir("blobs/sha256", 0o755)
	stored := make(map[string]bool)
	store := func(mediaType string, blob []byte) map[string]any {
		sum := digest(blob)
		if !stored[sum] {
			a.File("blobs/sha256/"+strings.TrimPrefix(sum, "sha256:"), 0o644, blob)
			stored[sum] = true
		}
		return map[string]any{"mediaType": mediaType, "digest": sum, "size": len(blob)}
	}
	var manifests []any
	for _, i := range images {
		config := map[string]any{
			"architecture": i.Arch, "os": "linux", "config": i.Config,
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(i.Layer)}},
		}
		if !i.Time.IsZero() {
			config["created"] = i.Time.UTC().Format(time.RFC3339)
		}
		const manifestType = "application/vnd.oci.image.manifest.v1+json"
		manifest := store(manifestType, mustJSON(map[string]any{
			"schemaVersion": 2, "mediaType": manifestType,
			"config": store("application/vnd.oci.image.config.v1+json", mustJSON(config)),
			"layers": []any{store("application/vnd.oci.image.layer.v1.tar", i.Layer)},
		}))
		manifest["platform"] = map[string]any{"os": "linux", "architecture": i.Arch}
		manifest["annotations"] = map[string]string{"io.containerd.image.name": i.Name, "org.opencontainers.image.ref.name": i.Name}
		manifests = append(manifests, manifest)
	}
	a.File("index.json", 0o644, mustJSON(map[string]any{"schemaVersion": 2, "manifests": manifests}))
	return a.Close()
}

// Busybox returns a root file system of the static busybox in PATH with a link for each of its programs, and with more.
func Busybox(more func(*Archive)) ([]byte, error) {
	file, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	busybox, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command(file, "--list").Output()
	if err != nil {
		return nil, err
	}
	var a Archive
	for _, d := range []string{"bin", "dev", "etc", "proc", "root", "sys", "home"} {
		a.Dir(d, 0o755)
	}
	a.Dir("tmp", 0o1777)
	a.File("bin/busybox", 0o755, busybox)
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			a.Link(path.Join("bin", applet), "busybox")
		}
	}
	a.File("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"))
	a.File("etc/group", 0o644, []byte("root:x:0:\nuser:x:1000:\nnobody:x:65534:\n"))
	if more != nil {
		more(&a)
	}
	return a.Close()
}

func digest(blob []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(blob)) }

func mustJSON(v any) []byte {
	p, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return p
}

// Archive is a tar in memory, of root's files; its first error stays.
type Archive struct {
	Time time.Time // of all that is added

	buf bytes.Buffer
	w   *tar.Writer
	err error
}

func (a *Archive) add(h tar.Header, content []byte) {
	if a.w == nil {
		a.w = tar.NewWriter(&a.buf)
	}
	h.Size, h.ModTime = int64(len(content)), a.Time
	if a.err == nil {
		a.err = a.w.WriteHeader(&h)
	}
	if a.err == nil {
		_, a.err = a.w.Write(content)
	}
}

// Dir adds a directory.
func (a *Archive) Dir(name string, mode int64) {
	a.add(tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode}, nil)
}

// File adds a regular file.
func (a *Archive) File(name string, mode int64, content []byte) {
	a.add(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, content)
}

// Link adds a symbolic link.
func (a *Archive) Link(name, target string) {
	a.add(tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, nil)
}

// Close returns the whole of it.
func (a *Archive) Close() ([]byte, error) {
	if a.err == nil {
		a.err = a.w.Close()
	}
	return a.buf.Bytes(), a.err
}
