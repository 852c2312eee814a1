package golden

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// told is a test that only says what it would fail with.
type told struct {
	testing.TB
	errors int
}

func (t *told) Errorf(string, ...any) { t.errors++ }

func TestCompare(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("a\nb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		got     string
		update  bool
		differs bool
	}{
		{"a\nb\n", false, false},
		{"a\nc\n", false, true},
		{"a\nc\n", true, false},
		{"a\nc\n", false, false}, // the file is another now
		{"a\nb\n", false, true},
	} {
		*update = test.update
		fake := &told{TB: t}
		Compare(fake, file, test.got)
		if fake.errors > 0 != test.differs {
			t.Errorf("%q, update %v: %d errors", strings.ReplaceAll(test.got, "\n", " "), test.update, fake.errors)
		}
	}
	*update = false
}
