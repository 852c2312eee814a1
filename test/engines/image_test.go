package engines

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// imageName is that of the image in all engines, in the form that each of them takes; pauseName that of the same with a program
// that stays, for the first container of a pod.
const (
	imageName = "localhost/box:latest"
	pauseName = "localhost/pause:latest"
)

// The files of the image, made once.
var image struct {
	once   sync.Once
	rootfs string // an archive of the root file system
	layout string // an archive of an OCI image layout with it
	err    error
}

// rootfs is an archive of the image's root file system: busybox with a link for each of its programs, and what exit statuses
// are tested with.
func rootfs(t testing.TB) string {
	t.Helper()
	image.once.Do(func() { image.err = makeImage() })
	if image.err != nil {
		t.Fatal(image.err)
	}
	return image.rootfs
}

// layout is an archive of an OCI image layout.
func layout(t testing.TB) string {
	t.Helper()
	rootfs(t)
	return image.layout
}

func makeImage() error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return err
	}
	var root archive
	for _, d := range []string{"bin", "dev", "etc", "proc", "root", "sys", "home"} {
		root.dir(d, 0o755)
	}
	root.dir("tmp", 0o1777)
	root.file("bin/busybox", 0o755, busybox)
	for a := range strings.FieldsSeq(string(applets)) {
		if a != "busybox" {
			root.add(tar.Header{Name: "bin/" + a, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	root.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"))
	root.file("etc/group", 0o644, []byte("root:x:0:\nuser:x:1000:\nnobody:x:65534:\n"))
	root.file("bin/not-executable", 0o644, []byte("#!/bin/sh\n"))
	root.file("bin/no-interpreter", 0o755, []byte("#!/nowhere\n"))
	root.file("bin/no-format", 0o755, []byte("neither ELF nor script\n"))
	layer, err := root.close()
	if err != nil {
		return err
	}

	var oci archive
	oci.file("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	oci.dir("blobs", 0o755)
	oci.dir("blobs/sha256", 0o755)
	store := func(blob []byte) []byte {
		oci.file("blobs/sha256/"+strings.TrimPrefix(digest(blob), "sha256:"), 0o644, blob)
		return blob
	}
	store(layer)
	var manifests []any
	for name, args := range map[string][]string{imageName: {"sh"}, pauseName: {"sh", "-c", sleeps}} {
		config := store(mustJSON(map[string]any{
			"architecture": runtime.GOARCH, "os": "linux",
			"config": map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": args},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
		}))
		manifest := store(mustJSON(map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
			"config": descriptor("application/vnd.oci.image.config.v1+json", config, nil),
			"layers": []any{descriptor("application/vnd.oci.image.layer.v1.tar", layer, nil)},
		}))
		manifests = append(manifests, descriptor("application/vnd.oci.image.manifest.v1+json", manifest, map[string]string{
			"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name,
		}))
	}
	oci.file("index.json", 0o644, mustJSON(map[string]any{"schemaVersion": 2, "manifests": manifests}))
	whole, err := oci.close()
	if err != nil {
		return err
	}

	dir := "/run/image"
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	image.rootfs, image.layout = filepath.Join(dir, "rootfs.tar"), filepath.Join(dir, "oci.tar")
	if err := os.WriteFile(image.rootfs, layer, 0o644); err != nil {
		return err
	}
	return os.WriteFile(image.layout, whole, 0o644)
}

func descriptor(mediaType string, blob []byte, annotations map[string]string) map[string]any {
	return map[string]any{"mediaType": mediaType, "digest": digest(blob), "size": len(blob), "annotations": annotations}
}

func digest(blob []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(blob)) }

func mustJSON(v any) []byte {
	p, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return p
}

// archive is a tar in memory; its first error stays.
type archive struct {
	buf bytes.Buffer
	w   *tar.Writer
	err error
}

func (a *archive) add(h tar.Header, content []byte) {
	if a.w == nil {
		a.w = tar.NewWriter(&a.buf)
	}
	h.Size = int64(len(content))
	if a.err == nil {
		a.err = a.w.WriteHeader(&h)
	}
	if a.err == nil {
		_, a.err = a.w.Write(content)
	}
}

func (a *archive) dir(name string, mode int64) {
	a.add(tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode}, nil)
}

func (a *archive) file(name string, mode int64, content []byte) {
	a.add(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, content)
}

func (a *archive) close() ([]byte, error) {
	if a.err == nil {
		a.err = a.w.Close()
	}
	return a.buf.Bytes(), a.err
}
