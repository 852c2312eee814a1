package image

import (
	"bytes"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func sample() *Image {
	i := &Image{Release: "1", Architecture: "amd64", Contents: Contents{Module: "v1", CPU: "fpu sse2"},
		Spec: Digest(&specs.Spec{Process: &specs.Process{Args: []string{"x"}}, Linux: &specs.Linux{CgroupsPath: "/a"}})}
	i.Files[Pages] = File{Length: 4096, Checksum: 7}
	return i
}

func encode(t testing.TB, i *Image) []byte {
	t.Helper()
	b, err := i.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHeader(t *testing.T) {
	b := encode(t, sample())
	i, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if again := encode(t, i); !bytes.Equal(b, again) {
		t.Errorf("%s\nbecomes\n%s", b, again)
	}
	if err := i.Usable("1", "amd64", sample().Spec); err != nil {
		t.Error(err)
	}
}

// A header that is cut anywhere, or has one bit changed, is refused.
func TestDamagedHeader(t *testing.T) {
	b := encode(t, sample())
	for n := range b {
		if _, err := Decode(b[:n]); err == nil {
			t.Errorf("the first %d bytes of %d are taken", n, len(b))
		}
		changed := bytes.Clone(b)
		changed[n] ^= 1
		if _, err := Decode(changed); err == nil {
			t.Errorf("byte %d is changed, and it is taken", n)
		}
	}
	if _, err := Decode(append(b, ' ', '{', '}')); err == nil {
		t.Error("more than a header is taken")
	}
}

func TestForeignHeader(t *testing.T) {
	spec := func(change func(*specs.Spec)) map[string]string {
		s := &specs.Spec{Process: &specs.Process{Args: []string{"x"}}, Linux: &specs.Linux{CgroupsPath: "/a"}}
		change(s)
		return Digest(s)
	}
	same := spec(func(s *specs.Spec) { s.Linux.CgroupsPath = "/b"; s.Hooks = &specs.Hooks{} })
	for _, c := range []struct {
		release, architecture string
		spec                  map[string]string
		want                  string
	}{
		{"1", "amd64", same, ""},
		{"2", "amd64", same, `saved by hull "1"`},
		{"1", "arm64", same, `architecture "amd64"`},
		{"1", "amd64", spec(func(s *specs.Spec) { s.Process.Args = []string{"y"} }), "process differs"},
		{"1", "amd64", spec(func(s *specs.Spec) { s.Mounts = []specs.Mount{{}} }), "mounts differs"},
	} {
		err := sample().Usable(c.release, c.architecture, c.spec)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, %s: got %v, want %q", c.release, c.architecture, err, c.want)
		}
	}
}

// Whatever a header is: it is refused, or it is one that can be written again and means the same.
func FuzzHeader(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add([]byte(magic + checksum([]byte(`{"Files":[{"Length":-1},{},{}]}`)) + "\n" + `{"Files":[{"Length":-1},{},{}]}`))
	f.Add([]byte(magic + checksum([]byte(`{}`)) + "\n{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, b := range [][]byte{data, append([]byte(magic+checksum(data)+"\n"), data...)} {
			i, err := Decode(b)
			if err != nil {
				continue
			}
			for n, file := range i.Files {
				if file.Length < 0 || n != Pages && file.Length > maxKernel {
					t.Errorf("%s of %d bytes", Files[n], file.Length)
				}
			}
			_ = i.Usable("1", "amd64", sample().Spec)
			if again, err := i.Encode(); err == nil {
				if _, err := Decode(again); err != nil {
					t.Errorf("%q: %v", again, err)
				}
			}
		}
	})
}
