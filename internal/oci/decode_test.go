package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// foreignSections are the fields of specs.Spec whose content hull doesn't read, because having one is a mistake.
var foreignSections = []string{"Solaris", "Windows", "VM", "ZOS", "FreeBSD"}

// fill gives each field below v a value of its own; n counts them.
func fill(v reflect.Value, n *int) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(e, n)
			v.SetMapIndex(reflect.ValueOf(fmt.Sprintf("key%d", *n)), e)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("v\"\\\t€😀%d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(-*n))
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	default:
		panic("specs.Spec has a field of kind " + v.Kind().String())
	}
}

func TestEveryFieldIsRead(t *testing.T) {
	var want specs.Spec
	n := 0
	v := reflect.ValueOf(&want).Elem()
	for i := range v.NumField() {
		if !slices.Contains(foreignSections, v.Type().Field(i).Name) {
			fill(v.Field(i), &n)
		}
	}
	for _, indent := range []string{"", "\t"} {
		data, err := json.MarshalIndent(&want, "", indent)
		if err != nil {
			t.Fatal(err)
		}
		got, d := decodeOnly(data)
		if len(d.mistakes) > 0 || d.stopped != nil || len(d.warnings) > 0 {
			t.Fatalf("mistakes %v, stopped %v, warnings %q", d.mistakes, d.stopped, d.warnings)
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("written and read back (-want +got):\n%s", diff)
		}
	}
}

// decodeOnly reads without the checks that follow.
func decodeOnly(data []byte) (*specs.Spec, *decoder) {
	var s specs.Spec
	d := &decoder{src: string(data)}
	d.document(func() { readSpec(d, &s) })
	return &s, d
}

func TestBounds(t *testing.T) {
	tests := []struct {
		name, json string
		get        func(*specs.Spec) any
		want       any // nil: a mistake
	}{
		{"uid max", `{"process":{"user":{"uid":4294967294}}}`, uid, uint32(4294967294)},
		{"uid wraps to root", `{"process":{"user":{"uid":4294967296}}}`, uid, nil},
		{"uid far out", `{"process":{"user":{"uid":18446744073709551616}}}`, uid, nil},
		{"uid negative", `{"process":{"user":{"uid":-1}}}`, uid, nil},
		{"uid fraction", `{"process":{"user":{"uid":1.0}}}`, uid, nil},
		{"uid exponent", `{"process":{"user":{"uid":1e2}}}`, uid, nil},
		{"uid as string", `{"process":{"user":{"uid":"0"}}}`, uid, nil},
		{"null is absent", `{"process":{"user":{"uid":null}}}`, uid, uint32(0)},
		{"int64 min", `{"linux":{"timeOffsets":{"m":{"secs":-9223372036854775808}}}}`, secs, int64(-1 << 63)},
		{"int64 below", `{"linux":{"timeOffsets":{"m":{"secs":-9223372036854775809}}}}`, secs, nil},
		{"int64 above", `{"linux":{"timeOffsets":{"m":{"secs":9223372036854775808}}}}`, secs, nil},
		{"int32 max", `{"process":{"scheduler":{"nice":2147483647}}}`, nice, int32(1<<31 - 1)},
		{"int32 above", `{"process":{"scheduler":{"nice":2147483648}}}`, nice, nil},
		{"int32 min", `{"process":{"scheduler":{"nice":-2147483648}}}`, nice, int32(-1 << 31)},
		{"uint64 max", `{"process":{"rlimits":[{"hard":18446744073709551615}]}}`, hard, uint64(1<<64 - 1)},
		{"uint64 above", `{"process":{"rlimits":[{"hard":18446744073709551616}]}}`, hard, nil},
		{"uint16 max", `{"linux":{"resources":{"blockIO":{"weight":65535}}}}`, weight, uint16(65535)},
		{"uint16 above", `{"linux":{"resources":{"blockIO":{"weight":65536}}}}`, weight, nil},
		{"escapes", `{"hostname":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}`, hostname, "\"\\/\b\f\n\r\té😀"},
		{"NUL", `{"hostname":"a\u0000b"}`, hostname, nil},
		{"NUL in an annotation", `{"annotations":{"k":"a\u0000b"}}`,
			func(s *specs.Spec) any { return s.Annotations["k"] }, "a\x00b"},
		{"boolean as number", `{"root":{"readonly":1}}`, readonly, nil},
		{"boolean as string", `{"root":{"readonly":"true"}}`, readonly, nil},
		{"boolean", `{"root":{"readonly":true}}`, readonly, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, d := decodeOnly([]byte(tt.json))
			if d.stopped != nil {
				t.Fatal(d.stopped)
			}
			if tt.want == nil {
				if len(d.mistakes) != 1 {
					t.Fatalf("mistakes %v, want one", d.mistakes)
				}
				return
			}
			if len(d.mistakes) > 0 {
				t.Fatal(d.mistakes)
			}
			if got := tt.get(s); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func uid(s *specs.Spec) any      { return s.Process.User.UID }
func secs(s *specs.Spec) any     { return s.Linux.TimeOffsets["m"].Secs }
func nice(s *specs.Spec) any     { return s.Process.Scheduler.Nice }
func hard(s *specs.Spec) any     { return s.Process.Rlimits[0].Hard }
func weight(s *specs.Spec) any   { return *s.Linux.Resources.BlockIO.Weight }
func hostname(s *specs.Spec) any { return s.Hostname }
func readonly(s *specs.Spec) any { return s.Root.Readonly }

// TestSyntax takes each document to be wrong JSON exactly if encoding/json does, beside what hull is stricter in.
func TestSyntax(t *testing.T) {
	for _, doc := range []string{
		``, ` `, `{`, `}`, `{}`, `{},`, `{} {}`, `[]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{"a":1 "b":2}`, `{a:1}`,
		`{"a":[1,]}`, `{"a":[,1]}`, `{"a":[1 2]}`, `{"a":[}`, `{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`,
		`{"a":1e+}`, `{"a":+1}`, `{"a":-0}`, `{"a":0.5e-7}`, `{"a":tru}`, `{"a":truE}`, `{"a":nul}`, `{"a":"`, `{"a":"\x"}`,
		`{"a":"\u12"}`, `{"a":"\u+123"}`, "{\"a\":\"\n\"}", "{\"a\":\"\x7f\"}", `{"a":"\`, `{"a":"\u`, `{"a":NaN}`, "\ufeff{}",
		"{\"a\":1}\x00", `{"hostname":nul}`, `{"root":{"readonly":tru}}`, `{"process":{"user":{"uid":}}}`,
	} {
		_, d := decodeOnly([]byte(doc))
		valid := json.Valid([]byte(doc)) && strings.HasPrefix(strings.TrimSpace(doc), "{")
		if got := d.stopped == nil; got != valid {
			t.Errorf("%q: read as JSON: %v, want %v (%v)", doc, got, valid, d.stopped)
		}
	}
	for _, doc := range []string{
		"{\"a\":\"\xff\"}", `{"a":"\ud800"}`, `{"a":"\udc00\ud800"}`, `{"a":"\ud800x"}`, `{"a":"\ud800\u0041"}`,
		"{\"a\":\"\\n\xff\"}", "{\"\xc0\xaf\":1}",
	} {
		if _, d := decodeOnly([]byte(doc)); d.stopped == nil {
			t.Errorf("%q: read without a mistake, which other readers don't read alike", doc)
		}
	}
}

func TestManyKeys(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"annotations":{`)
	for i := range 4 * manyKeys {
		fmt.Fprintf(&b, `"k%d":"v",`, i)
	}
	doc := b.String()
	if s, d := decodeOnly([]byte(doc + `"last":"v"}}`)); len(d.mistakes) > 0 || len(s.Annotations) != 4*manyKeys+1 {
		t.Errorf("mistakes %v, %d annotations", d.mistakes, len(s.Annotations))
	}
	for _, key := range []string{"k0", "k31", "k32", "k33", "k127"} {
		s, d := decodeOnly([]byte(doc + `"` + key + `":"other"}}`))
		if len(d.mistakes) != 1 || s.Annotations[key] != "v" {
			t.Errorf("%s twice: mistakes %v, value %q", key, d.mistakes, s.Annotations[key])
		}
	}
}

func TestKeysOfInnerObjectsAreTheirOwn(t *testing.T) {
	_, d := decodeOnly([]byte(`{"x":{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}]},"a":1,"b":1}`))
	if len(d.mistakes) > 0 || d.stopped != nil {
		t.Errorf("mistakes %v, stopped %v", d.mistakes, d.stopped)
	}
}

func TestDepth(t *testing.T) {
	nested := func(n int) []byte {
		return []byte(`{"x":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + "}")
	}
	if _, d := decodeOnly(nested(maxDepth)); d.stopped != nil {
		t.Error(d.stopped)
	}
	if _, d := decodeOnly(nested(maxDepth + 1)); d.stopped == nil {
		t.Error("read")
	}
	if _, d := decodeOnly([]byte(strings.Repeat(`{"a":`, 1<<20))); d.stopped == nil {
		t.Error("read")
	}
}

func TestMistakesAreCounted(t *testing.T) {
	doc := `{"process":{"args":[` + strings.Repeat("1,", 1000) + `1]}}`
	_, err := Parse("f", []byte(doc))
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if got, want := lines[len(lines)-1], "and 951 more mistakes"; got != want {
		t.Errorf("last line %q, want %q", got, want)
	}
}

func BenchmarkParse(b *testing.B) {
	data := read(b, "testdata/good/default.json")
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("f", data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodingJSON(b *testing.B) {
	data := read(b, "testdata/good/default.json")
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		var s specs.Spec
		if err := json.Unmarshal(data, &s); err != nil {
			b.Fatal(err)
		}
	}
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
