package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/rdt"
	"hull/internal/stub"
)

const (
	recordFile = "state"
	copyFile   = "state.copy"
)

// ConfigFile is the name of what SaveConfig keeps.
const ConfigFile = "config.json"

// recordVersion is the version of the record's format. A record of a newer hull is refused.
const recordVersion = 1

// Record is what is kept of a container.
//
// On disk it is a line for each field: its name, then its values, quoted as in Go, separated by spaces. JSON would be
// as good, but the first use of encoding/json costs a program a millisecond, and every command reads a record. Fields
// are only ever added; one that is unknown is a mistake, since only a newer hull, with another version, would write it.
type Record struct {
	ID          string
	Bundle      string
	Rootfs      string // absolute
	Created     time.Time
	Init        engine.Init // zero while the container is being created
	Cgroup      cgroup.State
	RDT         rdt.State
	Isolation   string // or "", which is native
	Pod         string // the id of the container in whose sandbox it is; or ""
	Rootless    bool
	Systemd     bool
	NoKeyring   bool
	Streams     [3]string // what the standard streams were, see engine.Container
	Restored    bool
	Overlaid    bool // its sandbox keeps what is written to roots
	Annotations map[string]string
	Steps       []stub.Step // what the parked init still has to do, for error messages
}

func (r *Record) encode() []byte {
	var b bytes.Buffer
	line := func(name string, values ...string) {
		b.WriteString(name)
		for _, v := range values {
			b.WriteByte(' ')
			b.WriteString(strconv.Quote(v))
		}
		b.WriteByte('\n')
	}
	flag := func(name string, set bool) {
		if set {
			line(name)
		}
	}
	line("version", strconv.Itoa(recordVersion))
	line("id", r.ID)
	line("bundle", r.Bundle)
	line("rootfs", r.Rootfs)
	if r.Isolation != "" {
		line("isolation", r.Isolation)
	}
	if r.Pod != "" {
		line("pod", r.Pod)
	}
	line("created", r.Created.Format(time.RFC3339Nano))
	line("init", strconv.Itoa(r.Init.Pid), strconv.FormatUint(r.Init.StartTime, 10))
	line("cgroup", r.Cgroup.Mode, r.Cgroup.Unit, r.Cgroup.Slice)
	for _, controller := range slices.Sorted(maps.Keys(r.Cgroup.Paths)) {
		line("cgroup.path", controller, r.Cgroup.Paths[controller])
	}
	flag("cgroup.rootless", r.Cgroup.Rootless)
	flag("cgroup.given", r.Cgroup.Given)
	if r.RDT.Dir != "" || r.RDT.Monitor != "" {
		line("rdt", r.RDT.Dir, r.RDT.Monitor)
	}
	flag("rdt.made", r.RDT.Made)
	flag("rdt.shared", r.RDT.Shared)
	flag("rootless", r.Rootless)
	flag("systemd", r.Systemd)
	flag("noKeyring", r.NoKeyring)
	if r.Streams != [3]string{} {
		line("streams", r.Streams[:]...)
	}
	flag("restored", r.Restored)
	flag("overlaid", r.Overlaid)
	for _, key := range slices.Sorted(maps.Keys(r.Annotations)) {
		line("annotation", key, r.Annotations[key])
	}
	for _, s := range r.Steps {
		line("step", s.Field, s.Name)
	}
	return b.Bytes()
}

func decodeRecord(s string) (*Record, error) {
	r := &Record{Cgroup: cgroup.State{Paths: make(map[string]string)}}
	i := -1
	for line := range strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n") {
		i++
		name, values, err := splitLine(line)
		if err == nil && (i == 0) != (name == "version") {
			err = errors.New("the version must come first, and once")
		}
		if err == nil {
			err = r.set(name, values)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if r.ID == "" {
		return nil, errors.New("incomplete")
	}
	return r, nil
}

// splitLine takes a line apart. Missing values are a mistake of the field, so there are always at least three, maybe
// empty.
func splitLine(line string) (name string, values [3]string, err error) {
	name, rest, _ := strings.Cut(line, " ")
	for i := 0; rest != ""; i++ {
		n := plainQuoted(rest)
		if n > 0 && i < len(values) {
			values[i] = rest[1 : n-1]
			rest = strings.TrimPrefix(rest[n:], " ")
			continue
		}
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil || i == len(values) {
			return "", values, fmt.Errorf("%s: malformed values", name)
		}
		if values[i], err = strconv.Unquote(quoted); err != nil {
			return "", values, err
		}
		rest = strings.TrimPrefix(rest[len(quoted):], " ")
	}
	return name, values, nil
}

// plainQuoted returns the length of the string in quotes that s begins with, or 0 if it isn't as plain as nearly all are:
// strconv takes ten times as long, which list notices.
func plainQuoted(s string) int {
	if s[0] != '"' {
		return 0
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return i + 1
		case c == '\\' || c < ' ' || c > '~':
			return 0
		}
	}
	return 0
}

func (r *Record) set(name string, v [3]string) (err error) {
	switch name {
	case "version":
		var n int
		if n, err = strconv.Atoi(v[0]); err == nil && n > recordVersion {
			return &fault.Error{Kind: fault.Unsupported, Err: fmt.Errorf("version %d, this hull knows %d: a newer hull made it", n, recordVersion)}
		}
	case "id":
		r.ID = v[0]
	case "bundle":
		r.Bundle = v[0]
	case "rootfs":
		r.Rootfs = v[0]
	case "isolation":
		r.Isolation = v[0]
	case "pod":
		r.Pod = v[0]
	case "annotation":
		if r.Annotations == nil {
			r.Annotations = make(map[string]string)
		}
		r.Annotations[v[0]] = v[1]
	case "created":
		r.Created, err = time.Parse(time.RFC3339Nano, v[0])
	case "init":
		if r.Init.Pid, err = strconv.Atoi(v[0]); err == nil {
			r.Init.StartTime, err = strconv.ParseUint(v[1], 10, 64)
		}
	case "cgroup":
		r.Cgroup.Mode, r.Cgroup.Unit, r.Cgroup.Slice = v[0], v[1], v[2]
	case "cgroup.path":
		r.Cgroup.Paths[v[0]] = v[1]
	case "cgroup.rootless":
		r.Cgroup.Rootless = true
	case "cgroup.given":
		r.Cgroup.Given = true
	case "rdt":
		r.RDT.Dir, r.RDT.Monitor = v[0], v[1]
	case "rdt.made":
		r.RDT.Made = true
	case "rdt.shared":
		r.RDT.Shared = true
	case "rootless":
		r.Rootless = true
	case "systemd":
		r.Systemd = true
	case "noKeyring":
		r.NoKeyring = true
	case "streams":
		r.Streams = v
	case "restored":
		r.Restored = true
	case "overlaid":
		r.Overlaid = true
	case "step":
		r.Steps = append(r.Steps, stub.Step{Field: v[0], Name: v[1]})
	default:
		err = fmt.Errorf("unknown field %q", name)
	}
	return err
}
