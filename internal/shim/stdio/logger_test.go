package stdio

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLogger: programs that take a process's output, and how each says that it is ready.
func TestLogger(t *testing.T) {
	for _, test := range []struct {
		name, scheme, ready, err string
	}{
		{"closes", "binary", "exec 5>&-", ""},
		{"writes and closes", "binary-v2", "printf 1 >&5; exec 5>&-", ""},
		{"closes alone", "binary-v2", "exec 5>&-", "should write a byte to descriptor 5"},
		{"ends", "binary-v2", "exit 1", "should write a byte to descriptor 5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			program, log := filepath.Join(dir, "logger"), filepath.Join(dir, "log")
			script := "#!/bin/sh\n" + test.ready + "\necho \"$CONTAINER_NAMESPACE $CONTAINER_ID $1 $2\" >" + log + "\ncat <&3 >>" + log + "\ncat <&4 >>" + log + "\n"
			if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
				t.Fatal(err)
			}
			l, err := startLogger(&url.URL{Scheme: test.scheme, Path: program, RawQuery: "key=value"}, "box", "ns")
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("%v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for f, text := range map[*os.File]string{l.out: "to stdout\n", l.err: "to stderr\n"} {
				if _, err := f.WriteString(text); err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
			l.finish()
			got, err := os.ReadFile(log)
			if want := "ns box key value\nto stdout\nto stderr\n"; err != nil || string(got) != want {
				t.Errorf("%q, %v, want %q", got, err, want)
			}
		})
	}
}
