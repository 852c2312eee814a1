package oci

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest/golden"
)

// fieldsOfType lists the paths of all fields below a type, in the notation of Claim.Field. It doesn't descend into what
// is claimed as a whole.
func fieldsOfType(prefix string, t reflect.Type) (fields []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			fields = append(fields, fieldsOfType(prefix, f.Type)...)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		path := prefix + name
		ft := f.Type
		for {
			switch ft.Kind() {
			case reflect.Pointer:
				ft = ft.Elem()
				continue
			case reflect.Slice:
				path += "[]"
				ft = ft.Elem()
				continue
			case reflect.Map:
				path += "{}"
				ft = ft.Elem()
				continue
			}
			break
		}
		fields = append(fields, path)
		if ft.Kind() == reflect.Struct && !claimedAsWhole(path) {
			fields = append(fields, fieldsOfType(path+".", ft)...)
		}
	}
	return fields
}

func claimedAsWhole(path string) bool {
	top, _, _ := strings.Cut(path, ".")
	return slices.ContainsFunc(Claims(), func(c Claim) bool { return c.Field == top && c.How == Refused })
}

func TestEveryFieldIsClaimed(t *testing.T) {
	want := fieldsOfType("", reflect.TypeFor[specs.Spec]())
	var got []string
	for _, c := range Claims() {
		if c.How != Renamed { // those are of older versions
			got = append(got, c.Field)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields of specs.Spec and claims (-spec +claims):\n%s", diff)
	}
}

func TestClaimsNamePackages(t *testing.T) {
	for _, c := range Claims() {
		if c.How != Applied {
			continue
		}
		if _, err := os.Stat(filepath.Join("..", c.By)); err != nil {
			t.Errorf("%s is applied by a package that isn't there: %v", c.Field, err)
		}
	}
}

// TestEveryFieldOfEveryVersionIsClaimed compares with a list of the fields that the specification's versions have had.
func TestEveryFieldOfEveryVersionIsClaimed(t *testing.T) {
	claimed := make(map[string]bool)
	for _, c := range Claims() {
		claimed[c.Field] = true
	}
	listed := make(map[string]bool)
	for line := range strings.Lines(string(read(t, "testdata/fields.tsv"))) {
		field, _, _ := strings.Cut(line, "\t")
		if strings.HasPrefix(line, "#") || strings.Contains(field, ":") { // not of config.json
			continue
		}
		listed[field] = true
		if !claimed[field] && !claimedAsWhole(field) {
			t.Errorf("%s: not claimed", field)
		}
	}
	if len(listed) < 200 {
		t.Fatalf("%d fields in the list", len(listed))
	}
	// zos and freebsd are left out of the list, and so are the two properties for Windows only.
	unlisted := []string{"process.commandLine", "process.user.username", "solaris", "windows", "zos", "freebsd"}
	for field := range claimed {
		if !listed[field] && !slices.Contains(unlisted, field) {
			t.Errorf("%s: claimed, but in no version's list", field)
		}
	}
}

func TestClaimsSayWhy(t *testing.T) {
	for _, c := range Claims() {
		if c.By == "" {
			t.Errorf("%s: by whom, or why?", c.Field)
		}
	}
}

func TestRenamed(t *testing.T) {
	for _, name := range []string{"enableCMT", "enableMBM", "enableMonitoring"} {
		s, d := decodeOnly([]byte(`{"linux":{"intelRdt":{"` + name + `":true}}}`))
		if len(d.warnings) > 0 || !s.Linux.IntelRdt.EnableMonitoring {
			t.Errorf("%s: warnings %q, %+v", name, d.warnings, s.Linux.IntelRdt)
		}
	}
	s, _ := decodeOnly([]byte(`{"linux":{"intelRdt":{"enableCMT":true,"enableMBM":false}}}`))
	if !s.Linux.IntelRdt.EnableMonitoring {
		t.Error("a second property turned monitoring off")
	}
}

// TestOtherCase reads each field by a name in another case: encoding/json does, and so must every runtime that takes the
// same files.
func TestOtherCase(t *testing.T) {
	for _, c := range Claims() {
		if c.How == Renamed {
			continue
		}
		bare := strings.TrimRight(c.Field, "[]{}")
		i := strings.LastIndexByte(bare, '.') + 1
		doc := document(bare[:i] + strings.ToUpper(bare[i:]))
		_, d := decodeOnly([]byte(doc))
		if len(d.mistakes) > 0 || d.stopped != nil {
			t.Errorf("%s: mistakes %v, warnings %q, stopped %v", doc, d.mistakes, d.warnings, d.stopped)
		}
		if len(d.warnings) != 1 || !strings.HasSuffix(d.warnings[0], ": taken for "+bare[i:]+", as the specification writes it") {
			t.Errorf("%s: warnings %q", doc, d.warnings)
		}
	}
	s, _ := decodeOnly([]byte(`{"LINUX":{"resources":{"hugepageLimits":[{"pagesize":"2MB","LIMIT":4096}]}}}`))
	if got, want := s.Linux.Resources.HugepageLimits, []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4096}}; !cmp.Equal(got, want) {
		t.Errorf("read %+v, want %+v", got, want)
	}
}

// document makes a configuration that has nothing but one field, as null.
func document(field string) string {
	doc := "null"
	for _, name := range slices.Backward(strings.Split(field, ".")) {
		bare := strings.TrimRight(name, "[]{}")
		switch {
		case strings.HasSuffix(name, "[]"):
			doc = "[" + doc + "]"
		case strings.HasSuffix(name, "{}"):
			doc = `{"key":` + doc + "}"
		}
		doc = `{"` + bare + `":` + doc + "}"
	}
	return doc
}

// TestBothCases: the later counts, and what is inside of two objects comes together.
func TestBothCases(t *testing.T) {
	for _, doc := range []string{
		`{"hostname":"a","hostName":"b"}`, `{"hostName":"a","hostname":"b"}`, `{"HOSTNAME":"a","hostName":"b"}`,
		`{"linux":{"resources":{"cpu":{"shares":1,"cpus":"0"},"CPU":{"Cpus":"1","mems":"0"}}}}`,
		`{"linux":{"Sysctl":{"a":"1","b":"1"},"sysctl":{"b":"2"}}}`,
		`{"linux":{"maskedPaths":["/a","/b"],"maskedpaths":["/c"]}}`,
	} {
		var want specs.Spec
		must(t, json.Unmarshal([]byte(doc), &want))
		got, d := decodeOnly([]byte(doc))
		if len(d.mistakes) > 0 || len(d.warnings) == 0 {
			t.Errorf("%s: mistakes %v, warnings %q", doc, d.mistakes, d.warnings)
		}
		if diff := cmp.Diff(&want, got); diff != "" {
			t.Errorf("%s: encoding/json and hull (-json +hull):\n%s", doc, diff)
		}
	}
}

// TestDocs keeps the summary of the claims in docs/spec.md.
func TestDocs(t *testing.T) {
	const file, begin, end = "../../docs/spec.md", "-update -->\n", "<!-- end of claims -->"
	doc := string(read(t, file))
	head, rest, ok1 := strings.Cut(doc, begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the claims", file)
	}
	want := head + begin + summary() + end + tail
	golden.Compare(t, file, want)
}

// summary lists the applied fields by package, and the others with their reasons, leaving out what is below a field of
// the same claim.
func summary() string {
	byPackage := make(map[string][]string)
	var rest strings.Builder
	byField := make(map[string]Claim)
	for _, c := range Claims() {
		bare := strings.TrimRight(c.Field, "[]{}")
		byField[bare] = c
		if c.How != Applied {
			how := map[How]string{Refused: "refused", Tolerated: "tolerated", Renamed: "read as"}[c.How]
			rest.WriteString("| `" + bare + "` | " + how + ": " + c.By + " |\n")
			continue
		}
		parent := ""
		if i := strings.LastIndexByte(c.Field, '.'); i >= 0 {
			parent = strings.TrimRight(c.Field[:i], "[]{}")
		}
		if p, ok := byField[parent]; !ok || p.By != c.By {
			byPackage[c.By] = append(byPackage[c.By], "`"+bare+"`")
		}
	}
	var b strings.Builder
	b.WriteString("\n| field | what |\n| --- | --- |\n")
	for _, name := range slices.Sorted(maps.Keys(byPackage)) {
		b.WriteString("| " + strings.Join(byPackage[name], ", ") + " | internal/" + name + " |\n")
	}
	b.WriteString(rest.String() + "\n")
	return b.String()
}
