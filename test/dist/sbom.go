package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A bom says what the programs are made of, as CycloneDX 1.5 has it. Its source is what Go's linker has put into each of them.
type bom struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// addSBOM adds the list to the tree, and returns the modules that are linked, but for hull's own.
func (d *dist) addSBOM(t tree, bin string, when time.Time) (modules []string, err error) {
	product := component{Type: "application", Ref: "hull-" + d.version, Name: "hull", Version: d.version}
	b := bom{Schema: "http://cyclonedx.org/schema/bom-1.5.schema.json", Format: "CycloneDX", SpecVersion: "1.5", Version: 1,
		Metadata: metadata{when.Format(time.RFC3339), product}}
	all := map[string]component{}
	var names []string
	for _, p := range programs {
		info, err := buildinfo.ReadFile(filepath.Join(bin, p.name))
		if err != nil {
			return nil, err
		}
		content := t.content(p.dir + "/" + p.name)
		c := component{Type: "application", Ref: p.name, Name: p.name, Version: d.version,
			Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(content))}}}
		for _, s := range info.Settings {
			if slices.Contains([]string{"GOARCH", "GOAMD64", "GOARM64", "CGO_ENABLED", "-ldflags", "vcs.revision", "vcs.modified"}, s.Key) {
				c.Properties = append(c.Properties, property{"go:build:" + s.Key, s.Value})
			}
		}
		all[c.Ref] = c
		names = append(names, c.Ref)
		goVersion := strings.TrimPrefix(info.GoVersion, "go")
		std := component{Type: "library", Ref: "std@" + goVersion, Name: "std", Version: goVersion, PURL: "pkg:golang/std@" + goVersion}
		all[std.Ref] = std
		on := []string{std.Ref}
		for _, m := range info.Deps {
			if m.Replace != nil {
				m = m.Replace
			}
			purl := "pkg:golang/" + strings.ToLower(m.Path) + "@" + m.Version
			c := component{Type: "library", Ref: m.Path + "@" + m.Version, Name: m.Path, Version: m.Version, PURL: purl}
			if m.Sum != "" {
				c.Properties = []property{{"go:module:sum", m.Sum}}
			}
			all[c.Ref] = c
			on = append(on, c.Ref)
			if !slices.Contains(modules, m.Path) {
				modules = append(modules, m.Path)
			}
		}
		slices.Sort(on)
		b.Dependencies = append(b.Dependencies, dependency{p.name, on})
	}
	b.Dependencies = append([]dependency{{product.Ref, names}}, b.Dependencies...)
	for _, ref := range sorted(all) {
		b.Components = append(b.Components, all[ref])
	}
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, err
	}
	t.add("share/doc/hull/sbom.cdx.json", 0o644, append(text, '\n'))
	slices.Sort(modules)
	return modules, nil
}
