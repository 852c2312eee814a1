package kubernetes

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

var unpacked struct {
	once sync.Once
	err  error
}

// installer is a directory with the files of the image that make dist makes.
func installer(t *testing.T) string {
	t.Helper()
	const dir = "/run/image"
	unpacked.once.Do(func() { unpacked.err = unpackImage(imageArchive(t), dir) })
	if unpacked.err != nil {
		t.Fatal(unpacked.err)
	}
	return dir
}

// imageArchive is the newest archive of the image there.
func imageArchive(t *testing.T) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(distDir, "hull-node-*-linux-"+arch+".oci.tar"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no image in %s, %v", distDir, err)
	}
	return slices.MaxFunc(all, func(a, b string) int {
		x, err1 := os.Stat(a)
		y, err2 := os.Stat(b)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return x.ModTime().Compare(y.ModTime())
	})
}

// unpackImage writes the files of the one layer of an OCI image layout.
func unpackImage(archive, dir string) error {
	files := map[string][]byte{}
	text, err := os.ReadFile(archive)
	if err != nil {
		return err
	}
	err = eachFile(text, func(h *tar.Header, content []byte) error {
		files[h.Name] = content
		return nil
	})
	if err != nil {
		return err
	}
	var layout struct{ Manifests, Layers []struct{ Digest string } }
	blob := func(digest string) []byte { return files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")] }
	if err := json.Unmarshal(files["index.json"], &layout); err != nil {
		return err
	}
	if err := json.Unmarshal(blob(layout.Manifests[0].Digest), &layout); err != nil {
		return err
	}
	return eachFile(blob(layout.Layers[0].Digest), func(h *tar.Header, content []byte) error {
		path := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			return os.MkdirAll(path, 0o755)
		case tar.TypeSymlink:
			return os.Symlink(h.Linkname, path)
		}
		return os.WriteFile(path, content, h.FileInfo().Mode())
	})
}

func eachFile(archive []byte, do func(*tar.Header, []byte) error) error {
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		content, err := io.ReadAll(r)
		if err == nil {
			err = do(h, content)
		}
		if err != nil {
			return err
		}
	}
}
