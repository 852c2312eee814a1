package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/fault"
)

// FuzzParse holds Parse against encoding/json: what Parse accepts is JSON, and encoding/json reads the same from it. So
// another tool that looks at the file sees the container that hull runs.
func FuzzParse(f *testing.F) {
	for _, dir := range []string{"good", "bad"} {
		files, err := filepath.Glob("testdata/" + dir + "/*.json")
		if err != nil || len(files) == 0 {
			f.Fatal(dir, files, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data)
		if err != nil {
			checkError(t, err)
			return
		}
		if !json.Valid(data) {
			t.Fatal("accepted what is not JSON")
		}
		var want specs.Spec
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatalf("accepted what encoding/json refuses: %v", err)
		}
		if want.Linux == nil {
			want.Linux = new(specs.Linux)
		}
		// encoding/json doesn't know renamed properties.
		if bytes.Contains(bytes.ToLower(data), []byte("enable")) {
			return
		}
		if diff := cmp.Diff(&want, c.Spec, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("encoding/json and Parse (-json +hull):\n%s", diff)
		}
	})
}

// checkError holds every error to be a join of mistakes that have words and a kind, each of one line.
func checkError(t *testing.T, err error) {
	t.Helper()
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		if _, single := err.(*fault.Error); !single {
			all = joined.Unwrap()
		}
	}
	for _, err := range all {
		var e *fault.Error
		if !errors.As(err, &e) || e.Kind == nil || e.Err == nil || bytes.ContainsAny([]byte(err.Error()), "\n\x00") {
			t.Errorf("not a proper error: %q", err)
		}
	}
}
