package hull_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
)

// What is not an image of this container is refused, and leaves nothing.
func TestSandboxImagesThatCannotBe(t *testing.T) {
	r := newRuntime(t)
	bundle, image := savedBundle(t), filepath.Join(t.TempDir(), "image")
	c, d := runSaved(t, r, bundle)
	d.step(1)
	checkpoint(t, c, image, true)
	o := hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: image}}
	if err := c.Checkpoint(t.Context(), o); !errors.Is(err, hull.ErrExist) {
		t.Errorf("a second image in the same place: %v", err)
	}
	d.step(2)
	checkpoint(t, c, filepath.Join(t.TempDir(), "other"), false)
	change := func(name string, f func([]byte) []byte) func(string) error {
		return func(dir string) error {
			path := filepath.Join(dir, name)
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, f(b), 0o600)
		}
	}
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	cut := func(b []byte) []byte { return b[:len(b)-1] }
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"no header":          {func(dir string) error { return os.Remove(filepath.Join(dir, "sandbox.header")) }, "no such file"},
		"changed header":     {change("sandbox.header", flip), "sandbox.header: it is damaged"},
		"cut header":         {change("sandbox.header", cut), "sandbox.header: it is damaged"},
		"changed kernel":     {change("sandbox.kernel", flip), "sandbox.kernel: the checksum differs"},
		"cut kernel":         {change("sandbox.kernel", cut), "sandbox.kernel is damaged: it has"},
		"changed memory":     {change("sandbox.memory", flip), "sandbox.memory: the checksum differs"},
		"changed pages":      {change("sandbox.pages", flip), "sandbox.pages: the checksum differs"},
		"cut pages":          {change("sandbox.pages", cut), "sandbox.pages is damaged: it has"},
		"a link":             {func(dir string) error { return linkInstead(dir, "sandbox.pages") }, "sandbox.pages: too many levels of symbolic links"},
		"a fifo":             {func(dir string) error { return fifoInstead(dir, "sandbox.kernel") }, "sandbox.kernel is no regular file"},
		"of another release": {edited(func(h string) string { return strings.Replace(h, `"Release":"`, `"Release":"9`, 1) }), "saved by hull"},
		"of another kernel":  {edited(func(h string) string { return strings.Replace(h, `"Module":"`, `"Module":"9`, 1) }), "saved by the kernel"},
		"of another machine": {edited(func(h string) string { return strings.Replace(h, `"CPU":"`, `"CPU":"quantum `, 1) }), "processor with quantum"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "image")
			if err := os.CopyFS(dir, os.DirFS(image)); err != nil {
				t.Fatal(err)
			}
			if err := c.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := r.Restore(t.Context(), "box", restoreOptions(bundle, dir, newDialogue(t)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
				t.Errorf("something is left: %v", err)
			}
		})
	}
	other := savedBundle(t, func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "X=1") })
	if _, err := r.Restore(t.Context(), "box", restoreOptions(other, image, newDialogue(t))); err == nil || !strings.Contains(err.Error(), "process differs") || !strings.Contains(hull.Hint(err), "--bundle") {
		t.Errorf("another configuration: %v; %q", err, hull.Hint(err))
	}
}

// edited changes a header and makes its checksum right again, as who does so on purpose.
func edited(f func(string) string) func(string) error {
	return func(dir string) error {
		path := filepath.Join(dir, "sandbox.header")
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, body, _ := strings.Cut(string(b), "\n")
		return os.WriteFile(path, headerOf(f(body)), 0o600)
	}
}

func linkInstead(dir, name string) error {
	path := filepath.Join(dir, name)
	if err := os.Rename(path, path+".real"); err != nil {
		return err
	}
	return os.Symlink(name+".real", path)
}

func fifoInstead(dir, name string) error {
	path := filepath.Join(dir, name)
	if err := os.Remove(path); err != nil {
		return err
	}
	return unix.Mkfifo(path, 0o600)
}

func headerOf(body string) []byte {
	return fmt.Appendf(nil, "hull sandbox image 1 %x\n%s", sha256.Sum256([]byte(body)), body)
}

// Whatever somebody has made of an image, checksums and all: it is an error, or a container that can be deleted.
func TestSandboxMadeUpImages(t *testing.T) {
	r := newRuntime(t)
	bundle, image := savedBundle(t), filepath.Join(t.TempDir(), "image")
	c, d := runSaved(t, r, bundle)
	d.step(1)
	checkpoint(t, c, image, false)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 12 {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := os.CopyFS(dir, os.DirFS(image)); err != nil {
			t.Fatal(err)
		}
		name := []string{"sandbox.kernel", "sandbox.kernel", "sandbox.memory"}[i%3]
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		was := crc(b)
		for range 1 + i {
			b[random.IntN(len(b))] ^= 1 << random.IntN(8)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		again := edited(func(h string) string {
			return strings.Replace(h, fmt.Sprintf(`"Checksum":%d`, was), fmt.Sprintf(`"Checksum":%d`, crc(b)), 1)
		})
		if err := again(dir); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		c, err := r.Restore(t.Context(), "box", restoreOptions(bundle, dir, d.goesOn()))
		if err == nil {
			remove(t, r, c)
		}
		t.Logf("%s with %d bits changed: %v", name, 1+i, err)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%d: it takes %v", i, took)
		}
		if err != nil && strings.Contains(err.Error(), "checksum") {
			t.Error("the checksum was to be right")
		}
		if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
			t.Error(errorText(err))
		}
	}
}

func crc(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
