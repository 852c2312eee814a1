package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hull/internal/cli"
)

// programs are what is built, and the directory each goes to: what people and engines call is found by PATH.
var programs = []struct{ name, dir string }{
	{"hull", "bin"},
	{"containerd-shim-hull-v1", "bin"},
	{"hull-net", "libexec/hull"},
	{"hull-sandbox", "libexec/hull"},
	{"hull-metrics", "libexec/hull"},
	{"hull-node", "libexec/hull"}, // see nodeProgram
}

// file is a regular file or a link of a tree.
type file struct {
	mode    int64
	content []byte
	link    string // target; then there is no content
}

// tree are files by their paths, below /usr or whatever it is unpacked to.
type tree map[string]file

func (t tree) add(name string, mode int64, content []byte) {
	t[name] = file{mode: mode, content: content}
}
func (t tree) content(name string) []byte { return t[name].content }

// without returns the tree but for one file.
func (t tree) without(name string) tree {
	less := maps.Clone(t)
	delete(less, name)
	return less
}

// under returns the tree with all paths below a directory.
func (t tree) under(dir string) tree {
	moved := tree{}
	for name, f := range t {
		moved[path.Join(dir, name)] = f
	}
	return moved
}

// tree returns all files.
func (d *dist) tree(dir, bin string, when time.Time) (tree, error) {
	t := tree{}
	for _, p := range programs {
		content, err := os.ReadFile(filepath.Join(bin, p.name))
		if err != nil {
			return nil, err
		}
		t.add(path.Join(p.dir, p.name), 0o755, content)
	}
	t["bin/hull-s"] = file{mode: 0o777, link: "hull"} // see cli.sandboxName
	for name, text := range cli.Manual() {
		page, err := compress([]byte(text))
		if err != nil {
			return nil, err
		}
		t.add("share/man/man1/"+name+".gz", 0o644, page)
	}
	for shell, name := range map[string]string{
		"bash": "share/bash-completion/completions/hull",
		"zsh":  "share/zsh/vendor-completions/_hull",
		"fish": "share/fish/vendor_completions.d/hull.fish",
	} {
		t.add(name, 0o644, []byte(cli.Completion(shell)))
	}
	t["share/bash-completion/completions/hull-s"] = file{mode: 0o777, link: "hull"}
	if err := t.addDocs(dir, d.version); err != nil {
		return nil, err
	}
	modules, err := d.addSBOM(t, bin, when)
	if err != nil {
		return nil, err
	}
	return t, t.addLicenses(dir, modules)
}

// addDocs adds what the repository says of itself.
func (t tree) addDocs(dir, version string) error {
	for pattern, to := range map[string]string{"README.md": "", "docs/*.md": "docs", "deploy/kubernetes/*.yaml": "deploy/kubernetes", "LICENSE": "../hull"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(names) == 0 {
			return fmt.Errorf("no %s", pattern)
		}
		for _, name := range names {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			if strings.HasPrefix(pattern, "deploy/") {
				if content, err = nodeManifest(content, version); err != nil {
					return err
				}
			}
			base := filepath.Base(name)
			if base == "LICENSE" {
				base = "copyright" // as Debian has it
			}
			t.add(path.Join("share/doc/hull", to, base), 0o644, content)
		}
	}
	return nil
}

// addLicenses adds what the modules that are linked want to be handed on with them.
func (t tree) addLicenses(dir string, modules []string) error {
	out, err := output(dir, "go", append([]string{"list", "-m", "-json"}, modules...)...)
	if err != nil {
		return err
	}
	for dec := json.NewDecoder(strings.NewReader(out)); dec.More(); {
		var m struct{ Path, Dir string }
		if err := dec.Decode(&m); err != nil {
			return err
		}
		entries, err := os.ReadDir(m.Dir)
		if err != nil {
			return err
		}
		found := false
		for _, e := range entries {
			name := strings.ToUpper(e.Name())
			if e.IsDir() || !slices.ContainsFunc([]string{"LICENSE", "LICENCE", "COPYING", "NOTICE", "PATENTS", "AUTHORS"}, func(s string) bool { return strings.HasPrefix(name, s) }) {
				continue
			}
			content, err := os.ReadFile(filepath.Join(m.Dir, e.Name()))
			if err != nil {
				return err
			}
			t.add(path.Join("share/doc/hull/licenses", m.Path, e.Name()), 0o644, content)
			found = true
		}
		if !found {
			return fmt.Errorf("module %s has no license that could be handed on", m.Path)
		}
	}
	return nil
}

// compress returns content as gzip has it, without a name and a time.
func compress(content []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	err = w.Close() // writes the end
	return b.Bytes(), err
}
