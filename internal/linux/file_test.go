package linux

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestReadFile(t *testing.T) {
	var buf [2048]byte
	for _, size := range []int{0, 1, 2047, 2048, 2049, 100000} {
		path := filepath.Join(t.TempDir(), "f")
		want := bytes.Repeat([]byte("x"), size)
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFile(path, buf[:]); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
	}
	if _, err := ReadFile("/does/not/exist", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error = %v", err)
	}
}
