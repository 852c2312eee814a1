// Package image is the form of a sandbox that was saved: a directory with the kernel's state and the memory, in three files that
// its kernel alone writes and reads, and a header, which is all that hull itself looks at.
//
// An image is hostile input. It may have been changed, cut or made up by who wants to be root: so the header is small,
// bounded and strict, nothing of it is used for more than to compare and to say what differs, and the other files are read by
// nobody but the program in the jail, which is as confined then as one whose container has taken it over.
//
//	the header:  "hull sandbox image 1 " checksum "\n" JSON
//
// The checksum, SHA-256 in hexadecimal, is that of the JSON, and there is one of each other file in it (CRC-32C). They find what
// a disk or a copy has damaged; who changes an image on purpose makes them right again.
package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/fault"
)

// The names of the files in the directory. The header comes last: where it is missing there is no image.
const Header = "sandbox.header"

// Files are the names of those beside the header.
var Files = [3]string{"sandbox.kernel", "sandbox.memory", "sandbox.pages"}

const (
	// Kernel is the index of the file with the kernel's state, Memory of that which says what is where in Pages.
	Kernel = iota
	Memory
	Pages
)

// MaxHeader bounds a header, in bytes.
const MaxHeader = 64 << 10

// maxKernel bounds what is read at once: the kernel's state, and the list of pages.
const maxKernel = 1 << 30

const magic = "hull sandbox image 1 "

// Contents are what the kernel says of what it has saved.
type Contents struct {
	Module string // the version of the kernel's sources
	CPU    string // features of the processor that programs may use, with spaces in between
	Files  [len(Files)]File
	Polled [3]bool // standard streams that can be waited for, as pipes
}

// File is one of the image's.
type File struct {
	Length   int64
	Checksum uint32 // CRC-32C
}

// Image is what a header says.
type Image struct {
	Release      string // of hull
	Architecture string // as Go calls it
	Contents
	Spec     map[string]string // digests of the parts of the configuration; see Digest
	Overlaid bool              // what was written to the root is in the image; the root is nothing to be written to
}

// Encode returns the header.
func (i *Image) Encode() ([]byte, error) {
	body, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	b := append([]byte(magic+checksum(body)+"\n"), body...)
	if len(b) > MaxHeader {
		return nil, fmt.Errorf("a header of %d bytes, at most %d are possible", len(b), MaxHeader)
	}
	return b, nil
}

// Decode reads a header.
func Decode(b []byte) (*Image, error) {
	if len(b) > MaxHeader {
		return nil, errors.New("it is too long")
	}
	first, body, _ := bytes.Cut(b, []byte("\n"))
	sum, ok := strings.CutPrefix(string(first), magic)
	if !ok {
		return nil, errors.New("it is none of a sandbox's that this hull knows")
	}
	if sum != checksum(body) {
		return nil, errors.New("it is damaged: the checksum differs")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	i := new(Image)
	if err := d.Decode(i); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("something follows it")
	}
	for n, f := range i.Files {
		if f.Length < 0 || n != Pages && f.Length > maxKernel {
			return nil, fmt.Errorf("%s has %d bytes", Files[n], f.Length)
		}
	}
	return i, nil
}

func checksum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Usable returns why an image can't be used by a hull of that release, on a machine of that architecture, for a container of
// that configuration.
func (i *Image) Usable(release, architecture string, spec map[string]string) error {
	switch {
	case i.Release != release:
		return fmt.Errorf("it was saved by hull %q, and this is %s: an image is restored by the release that has made it", cut(i.Release), release)
	case i.Architecture != architecture:
		return fmt.Errorf("it was saved on a machine of the architecture %q, and this one is %s", cut(i.Architecture), architecture)
	}
	var other []string
	for _, part := range slices.Sorted(maps.Keys(spec)) {
		if i.Spec[part] != spec[part] {
			other = append(other, part)
		}
	}
	if len(other) > 0 || len(i.Spec) != len(spec) {
		return &fault.Error{Err: fmt.Errorf("config.json is not that of the container which was saved: %s differs", strings.Join(other, ", ")),
			Hint: "restore wants the bundle that the container was made from, or a copy: --bundle names it"}
	}
	return nil
}

// cut bounds what is shown of what an image says.
func cut(s string) string { return s[:min(len(s), 100)] }

// Digest returns what an image has to have in common with a configuration, part by part: all that the kernel in the sandbox
// has been told. Left out is what hull does anew, by the configuration at hand: where files come from on the host,
// cgroups and limits, hooks, paths of namespaces, annotations.
func Digest(s *specs.Spec) map[string]string {
	type mount struct {
		Destination, Type string
		Options           []string
	}
	var mounts []mount
	for _, m := range s.Mounts {
		mounts = append(mounts, mount{m.Destination, m.Type, m.Options})
	}
	parts := map[string]any{
		"process": s.Process, "mounts": mounts, "hostname": s.Hostname, "domainname": s.Domainname,
		"root.readonly": s.Root != nil && s.Root.Readonly,
	}
	if s.Linux != nil {
		l := *s.Linux
		l.CgroupsPath, l.Resources, l.IntelRdt = "", nil, nil
		l.Namespaces = slices.Clone(l.Namespaces)
		for n := range l.Namespaces {
			l.Namespaces[n].Path = ""
		}
		parts["linux"] = &l
	}
	digests := make(map[string]string)
	for name, part := range parts {
		b, err := json.Marshal(part)
		if err != nil {
			panic("bug: " + err.Error()) // it was read from JSON
		}
		digests[name] = checksum(b)
	}
	return digests
}
