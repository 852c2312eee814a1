// Package oci reads the configuration of an OCI bundle and says everything that is wrong with it.
//
// It is pure: it opens one file, config.json, and asks the kernel nothing. What Parse returns has passed every rule of
// the runtime-spec that can be decided from the document alone; the packages that apply a field check what depends on
// the host, and say which field it was. Mount options belong to internal/mnt, seccomp to internal/seccomp, the values of
// linux.resources to internal/cgroup.
//
// The file is untrusted: its author may be somebody else than the caller. It is read once, because the bundle may change
// meanwhile, and all that follows works on those bytes.
package oci

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/fault"
)

// File is the name of a bundle's configuration.
const File = "config.json"

// A Config is a configuration without mistakes.
type Config struct {
	Spec *specs.Spec
	Raw  []byte // the bytes it was read from

	// Warnings are what hull takes though it is probably not meant, properties that it doesn't know among them: one line each,
	// with the field.
	Warnings []string

	unknown unknown
}

// unknown has the names of the first properties that hull doesn't know. Of a file with a mistake they are told: what is
// missing may be there, mistyped.
type unknown []string

func (u *unknown) add(name, meant string) {
	if len(*u) == maxUnknown {
		return
	}
	if meant != "" {
		name += " (" + meant + "?)"
	}
	*u = append(*u, name)
}

func (u unknown) hint(file string) string {
	if len(u) == 0 {
		return "in " + file
	}
	return "in " + file + ", of which hull doesn't know " + strings.Join(u, ", ")
}

// Load reads and checks the configuration of a bundle.
func Load(bundle string) (*Config, error) {
	file := filepath.Join(bundle, File)
	data, err := readFile(file)
	if err != nil {
		return nil, notLoaded(bundle, err)
	}
	return Parse(file, data)
}

func notLoaded(bundle string, err error) error {
	e := &fault.Error{Kind: fault.BadSpec, Err: err}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		e.Step, e.Err = pe.Op+" "+pe.Path, pe.Err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return e
	}
	if _, bad := os.Stat(bundle); bad != nil {
		e.Step, e.Hint = "open bundle "+bundle, ""
		return e
	}
	e.Hint = "the bundle has no configuration yet: hull spec writes one"
	return e
}

// Parse reads and checks a configuration. The file's name is for messages. The error joins one *fault.Error for each
// mistake: first those of values that could not be read, then those of values that break a rule. The Config keeps data. Its
// Spec.Linux is never nil.
func Parse(file string, data []byte) (*Config, error) {
	var s specs.Spec
	d, err := parse(file, data, &s, readSpec, func(k *checker) {
		if s.Linux == nil { // the section is optional, and who reads on need not know
			s.Linux = new(specs.Linux)
		}
		k.spec(&s)
	})
	if err != nil {
		return nil, err
	}
	return &Config{Spec: &s, Raw: data, Warnings: d.warnings, unknown: d.unknown}, nil
}

// ParseProcess reads and checks a file that holds only a process, as exec --process takes it. Fields are named as in a
// whole configuration. The warnings are about the names of properties alone: those about their values are CheckProcess's.
func ParseProcess(file string, data []byte) (p *specs.Process, warnings []string, err error) {
	p = &specs.Process{}
	d, err := parse(file, data, p, readProcess, func(k *checker) {
		k.process(p)
		k.warnings, k.moreWarnings = nil, 0
	}, "process")
	if err != nil {
		return nil, nil, err
	}
	return p, d.warnings, nil
}

// ParseResources reads and checks a file that holds only linux.resources, as update --resources takes it.
func ParseResources(file string, data []byte) (r *specs.LinuxResources, warnings []string, err error) {
	r = &specs.LinuxResources{}
	d, err := parse(file, data, r, readResources, func(k *checker) { k.resources(r) }, "linux", "resources")
	if err != nil {
		return nil, nil, err
	}
	return r, d.warnings, nil
}

// ParseSeccomp reads and checks a file that holds only linux.seccomp, as do --seccomp takes it. Properties that hull doesn't know are
// mistakes: engines have files that look like it, in which other properties say when a rule holds.
func ParseSeccomp(file string, data []byte) (*specs.LinuxSeccomp, error) {
	s := &specs.LinuxSeccomp{}
	d, err := parse(file, data, s, readSeccomp, func(k *checker) { k.listener(s) }, "linux", "seccomp")
	if err == nil && len(d.unknown) > 0 {
		err = &fault.Error{Field: "linux.seccomp", Kind: fault.BadSpec,
			Err:  problemError("a profile is what linux.seccomp has in config.json"),
			Hint: d.unknown.hint(file)}
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// parse reads a file that is an object, which has its place at path in a configuration, and checks what was read.
func parse[T any](file string, data []byte, v *T, read func(*decoder, *T), check func(*checker), path ...string) (*decoder, error) {
	if len(data) > maxSize {
		return nil, fault.Spec(file, fmt.Sprintf("%d bytes, want at most %d", len(data), maxSize))
	}
	d := &decoder{src: string(data)}
	for _, name := range path {
		d.path = append(d.path, step{name: name})
	}
	d.document(func() { read(d, v) })
	if d.stopped != nil {
		d.stopped.Step = file + " " + d.stopped.Step
		return nil, join(append(d.mistakes, d.stopped), d.more)
	}
	k := checker{broken: fieldsOf(d.mistakes)}
	check(&k)
	k.more += d.more
	k.mistakes = append(d.mistakes, k.mistakes...)
	k.warnings = append(d.warnings, k.warnings...)
	var err error
	d.warnings, err = k.result()
	if n := len(k.mistakes); err != nil && n > 0 && k.mistakes[n-1].Hint == "" {
		k.mistakes[n-1].Hint = d.unknown.hint(file) // once, below all mistakes
	}
	return d, err
}

// document reads the whole file: one object and nothing behind it.
func (d *decoder) document(read func()) {
	if d.peek(); d.pos == len(d.src) {
		d.stop(d.pos, "the file is empty")
		return
	}
	if d.peek() != '{' {
		d.unexpected("'{'")
		return
	}
	read()
	if d.peek(); d.pos < len(d.src) {
		d.unexpected("the end of the file")
	}
}

func fieldsOf(mistakes []*fault.Error) []string {
	fields := make([]string, 0, len(mistakes))
	for _, m := range mistakes {
		fields = append(fields, m.Field)
	}
	return fields
}

// join makes one error of all mistakes. more is the number of those beyond the limit.
func join(mistakes []*fault.Error, more int) error {
	if len(mistakes) == 0 {
		return nil
	}
	errs := make([]error, 0, len(mistakes)+1)
	for _, m := range mistakes {
		errs = append(errs, m)
	}
	if more > 0 {
		errs = append(errs, &fault.Error{Kind: fault.BadSpec, Err: fmt.Errorf("and %d more mistakes", more)})
	}
	return errors.Join(errs...)
}

// MemoryLimit returns linux.resources.memory.limit, in bytes. There is none if it is not above 0.
func MemoryLimit(s *specs.Spec) int64 {
	if r := s.Linux.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil {
		return *r.Memory.Limit
	}
	return 0
}
