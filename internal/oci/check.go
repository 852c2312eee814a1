package oci

import (
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/fault"
)

// Check applies the rules of the runtime-spec that can be decided from a configuration alone. The error joins one
// *fault.Error for each mistake; warnings are one line each. Parse has done it already.
func Check(s *specs.Spec) (warnings []string, err error) {
	var k checker
	k.spec(s)
	return k.result()
}

// CheckProcess applies the rules for a process, for one that is made of a command line.
func CheckProcess(p *specs.Process) (warnings []string, err error) {
	var k checker
	k.process(p)
	return k.result()
}

// Startable returns what keeps a configuration without mistakes from being started: a configuration may be without a
// process, but no container can be started that way (config.md, "Process").
func Startable(c *Config) error {
	if c.Spec.Process == nil {
		missing := fault.Spec("process", "missing: there is nothing to start")
		if len(c.unknown) > 0 {
			missing.Hint = c.unknown.hint(File)
		}
		return missing
	}
	return nil
}

// MountField names a mount in a message: mounts[2] "/proc".
func MountField(i int, m *specs.Mount) string {
	return fmt.Sprintf("mounts[%d] %s", i, quote(m.Destination))
}

// A checker collects the mistakes of one configuration: at most maxMistakes, as many warnings, and the number of the
// others. A hostile file can have millions.
type checker struct {
	broken       []string // fields that could not be read: what is said of them would be wrong
	mistakes     []*fault.Error
	more         int
	warnings     []string
	moreWarnings int
}

func (k *checker) result() (warnings []string, err error) {
	if k.moreWarnings > 0 {
		k.warnings = append(k.warnings, fmt.Sprintf("and %d more warnings", k.moreWarnings))
	}
	return k.warnings, join(k.mistakes, k.more)
}

func (k *checker) mistake(field, format string, a ...any) {
	k.add(fault.Spec(field, fmt.Sprintf(format, a...)))
}

func (k *checker) add(e *fault.Error) {
	switch {
	case k.isBroken(e.Field):
	case len(k.mistakes) == maxMistakes:
		k.more++
	default:
		k.mistakes = append(k.mistakes, e)
	}
}

// refuse notes something well-formed that hull doesn't do.
func (k *checker) refuse(field, reason string) {
	k.add(&fault.Error{Field: field, Kind: fault.Unsupported, Err: problemError(reason)})
}

func (k *checker) warn(field, format string, a ...any) {
	if len(k.warnings) == maxMistakes {
		k.moreWarnings++
		return
	}
	k.warnings = append(k.warnings, field+": "+fmt.Sprintf(format, a...))
}

// take adds the mistakes that another package has found and joined.
func (k *checker) take(err error) {
	switch e := err.(type) {
	case nil:
	case *fault.Error:
		k.add(short(e))
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			k.take(err)
		}
	default:
		k.add(&fault.Error{Kind: fault.BadSpec, Err: e})
	}
}

// short cuts a message down that quotes a value of megabytes.
func short(e *fault.Error) *fault.Error {
	if len(e.Error()) <= 10*maxQuote {
		return e
	}
	c := *e
	c.Field = clip(e.Field)
	c.Err = problemError(clip(e.Err.Error()))
	return &c
}

// isBroken says whether a field, something around it or something in it could not be read.
func (k *checker) isBroken(field string) bool {
	if i := strings.Index(field, `] "`); i >= 0 {
		field = field[:i+1] // mounts[2] "/proc" is mounts[2]
	}
	for _, b := range k.broken {
		if inside(b, field) || inside(field, b) {
			return true
		}
	}
	return false
}

// inside says whether field is outer or a part of it.
func inside(field, outer string) bool {
	rest, ok := strings.CutPrefix(field, outer)
	return ok && (rest == "" || strings.IndexByte(".[ ", rest[0]) >= 0)
}

// spec checks in the order of the document.
func (k *checker) spec(s *specs.Spec) {
	k.version(s.Version)
	if s.Process != nil {
		k.process(s.Process)
	}
	k.root(s.Root)
	k.uts(s)
	for i := range s.Mounts {
		k.mount(i, &s.Mounts[i])
	}
	if s.Hooks != nil {
		k.hooks(s.Hooks)
	}
	if _, ok := s.Annotations[""]; ok {
		k.mistake("annotations", "a key is empty")
	}
	if s.Linux != nil {
		k.linux(s.Linux)
	}
	if s.Linux != nil && s.Process != nil {
		k.mappedUser(s.Linux, &s.Process.User)
	}
	k.foreign(s)
}

// foreign refuses sections for other platforms. Their settings isolate, too: a container that asked for a virtual machine
// must not come to run without one.
func (k *checker) foreign(s *specs.Spec) {
	if s.VM != nil {
		k.refuse("vm", "hull runs no virtual machines: remove the section, or use a runtime that does")
	}
	for _, section := range []struct {
		field, platform string
		there           bool
	}{
		{"solaris", "Solaris", s.Solaris != nil},
		{"windows", "Windows", s.Windows != nil},
		{"zos", "z/OS", s.ZOS != nil},
		{"freebsd", "FreeBSD", s.FreeBSD != nil},
	} {
		if section.there {
			k.refuse(section.field, "settings for "+section.platform+" have no meaning on Linux: remove the section")
		}
	}
}

func (k *checker) root(r *specs.Root) {
	switch {
	case r == nil:
		k.mistake("root", "missing")
	case r.Path == "":
		k.mistake("root.path", "missing, want the directory of the root file system")
	}
}

func (k *checker) mount(i int, m *specs.Mount) {
	switch {
	case m.Destination == "":
		k.mistake(MountField(i, m), "the destination is missing")
	case !path.IsAbs(m.Destination):
		k.warn(MountField(i, m), "a relative destination is deprecated; it is taken as relative to /")
	}
	if len(m.UIDMappings) == 0 && len(m.GIDMappings) == 0 {
		return
	}
	field := MountField(i, m)
	switch {
	case len(m.GIDMappings) == 0:
		k.mistake(field, "uidMappings without gidMappings")
	case len(m.UIDMappings) == 0:
		k.mistake(field, "gidMappings without uidMappings")
	}
	k.idMap(field+".uidMappings", m.UIDMappings)
	k.idMap(field+".gidMappings", m.GIDMappings)
}

func (k *checker) hooks(h *specs.Hooks) {
	for _, point := range HookPoints(h) {
		for i := range point.Hooks {
			k.hook(elem(point.Field, i), &point.Hooks[i])
		}
	}
}

// HookPoint is the hooks of one point in a container's life, and the field of the configuration that has them.
type HookPoint struct {
	Field string
	Hooks []specs.Hook
}

// HookPoints returns the points in the order in which their hooks run.
func HookPoints(h *specs.Hooks) []HookPoint {
	return []HookPoint{
		{"hooks.prestart", h.Prestart}, //lint:ignore SA1019 deprecated, but in use
		{"hooks.createRuntime", h.CreateRuntime},
		{"hooks.createContainer", h.CreateContainer},
		{"hooks.startContainer", h.StartContainer},
		{"hooks.poststart", h.Poststart},
		{"hooks.poststop", h.Poststop},
	}
}

func (k *checker) hook(field string, h *specs.Hook) {
	k.absolute(field+".path", h.Path)
	const longest = int64(math.MaxInt64 / time.Second) // a longer one would overflow, and end at once
	if h.Timeout != nil && (*h.Timeout <= 0 || int64(*h.Timeout) > longest) {
		k.mistake(field+".timeout", "%d is out of range, want 1 to %d seconds", *h.Timeout, longest)
	}
}

// elem names an element of a list. Where it is called for every element of a correct file, fmt would cost too much.
func elem(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

func (k *checker) absolute(field, p string) {
	switch {
	case p == "":
		k.mistake(field, "missing, want an absolute path")
	case !path.IsAbs(p):
		k.mistake(field, "got %s, want an absolute path", quote(p))
	}
}
