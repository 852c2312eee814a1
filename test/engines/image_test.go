package engines

import (
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"hull/hulltest/ociimage"
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
	layer, err := ociimage.Busybox(func(a *ociimage.Archive) {
		a.File("bin/not-executable", 0o644, []byte("#!/bin/sh\n"))
		a.File("bin/no-interpreter", 0o755, []byte("#!/nowhere\n"))
		a.File("bin/no-format", 0o755, []byte("neither ELF nor script\n"))
	})
	if err != nil {
		return err
	}
	var images []ociimage.Image
	for name, args := range map[string][]string{imageName: {"sh"}, pauseName: {"sh", "-c", sleeps}} {
		images = append(images, ociimage.Image{
			Name: name, Arch: runtime.GOARCH, Layer: layer,
			Config: ociimage.Config{Env: []string{"PATH=/bin"}, Cmd: args},
		})
	}
	whole, err := ociimage.Layout(images...)
	if err != nil {
		return err
	}
	dir := "/run/image"
	if err := os.MkdirAll(dir, 0o755); err != nil { // a machine of the tests' own may have it, of a run before
		return err
	}
	image.rootfs, image.layout = filepath.Join(dir, "rootfs.tar"), filepath.Join(dir, "oci.tar")
	if err := os.WriteFile(image.rootfs, layer, 0o644); err != nil {
		return err
	}
	return os.WriteFile(image.layout, whole, 0o644)
}
