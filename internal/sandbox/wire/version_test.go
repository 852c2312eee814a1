package wire

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// versions has what each Version says, as a hash of describe. Two builds of one release in development are told apart by nothing else,
// and one that doesn't know what the other says must refuse it.
var versions = map[string]string{"5": "03c36d00fb309ca9"}

func TestVersion(t *testing.T) {
	said := new(strings.Builder)
	for _, v := range []any{Request{}, Reply{}, Failure{}, Link{}, End{}, Trial{}} {
		describe(said, reflect.TypeOf(v), map[reflect.Type]bool{})
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(said.String())))[:16]
	if versions[Version] != sum {
		t.Errorf("what is said is not that of version %s any more: it needs another one, with %q", Version, sum)
	}
}

// describe writes down a type: the fields, with their names in JSON, and those of what they are of.
func describe(w *strings.Builder, t reflect.Type, seen map[reflect.Type]bool) {
	fmt.Fprintf(w, "%v %v\n", t, t.Kind())
	if seen[t] {
		return
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		describe(w, t.Elem(), seen)
	case reflect.Map:
		describe(w, t.Key(), seen)
		describe(w, t.Elem(), seen)
	case reflect.Struct:
		for f := range fields(t) {
			fmt.Fprintf(w, "%s %q: ", f.Name, f.Tag)
			describe(w, f.Type, seen)
		}
	}
}

// fields are those of a struct that are said.
func fields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && !yield(f) {
				return
			}
		}
	}
}
