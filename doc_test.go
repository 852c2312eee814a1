package hull_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"

	"hull"
)

// go doc shows no fields of a type that is another name of an internal one: its comment has to.
func TestDocOfAliases(t *testing.T) {
	types := make(map[string]reflect.Type)
	for _, v := range []any{hull.Error{}, hull.Change{}, hull.Refusal{}, hull.Unfinished{}, hull.Stats{}, hull.MemoryKinds{}} {
		types[reflect.TypeOf(v).Name()] = reflect.TypeOf(v)
	}
	types["SandboxOptions"] = reflect.TypeFor[hull.SandboxOptions]()
	types["NetworkRefusal"] = reflect.TypeFor[hull.NetworkRefusal]()
	types["ProcessInfo"] = reflect.TypeFor[hull.ProcessInfo]()
	types["PoolStatus"] = reflect.TypeFor[hull.PoolStatus]()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.TYPE {
				continue
			}
			for _, s := range g.Specs {
				spec := s.(*ast.TypeSpec)
				if !spec.Assign.IsValid() || !spec.Name.IsExported() {
					continue
				}
				seen++
				typ, ok := types[spec.Name.Name]
				if !ok {
					t.Errorf("%s: alias %s is not in this test", file, spec.Name)
					continue
				}
				for _, field := range reflect.VisibleFields(typ) {
					word := regexp.MustCompile(`\b` + field.Name + `\b`)
					if field.IsExported() && !word.MatchString(g.Doc.Text()) {
						t.Errorf("%s: the comment of %s doesn't have field %s", file, spec.Name, field.Name)
					}
				}
			}
		}
	}
	if seen != len(types) {
		t.Errorf("found %d aliases, want %d", seen, len(types))
	}
}
