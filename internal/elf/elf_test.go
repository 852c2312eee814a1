package elf

import (
	"bytes"
	"debug/elf"
	"io"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestProgram reads programs with Go's own reader.
func TestProgram(t *testing.T) {
	text := []byte("instructions")
	size := uint64(headers + len(text))
	code := elf.ProgHeader{Type: elf.PT_LOAD, Flags: elf.PF_R | elf.PF_X, Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x10000}
	stack := elf.ProgHeader{Type: elf.PT_GNU_STACK, Flags: elf.PF_R | elf.PF_W, Align: 16}
	for name, test := range map[string]struct {
		program Program
		second  elf.ProgHeader
	}{
		"text alone": {Program{Text: text}, elf.ProgHeader{Type: elf.PT_NULL}},
		"with memory": {
			Program{Text: text, Zeros: Zeros{0x10000000, 5000}, Flags: 7},
			elf.ProgHeader{Type: elf.PT_LOAD, Flags: elf.PF_R | elf.PF_W, Vaddr: 0x10000000, Paddr: 0x10000000, Memsz: 5000, Align: 0x10000},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := test.program.File()
			f, err := elf.NewFile(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
			if f.Type != elf.ET_EXEC || f.Machine != machine || f.Entry != TextAt {
				t.Errorf("%v for %v from %#x on", f.Type, f.Machine, f.Entry)
			}
			var got []elf.ProgHeader
			for _, p := range f.Progs {
				got = append(got, p.ProgHeader)
			}
			if diff := cmp.Diff([]elf.ProgHeader{code, test.second, stack}, got); diff != "" {
				t.Error(diff)
			}
			mapped, err := io.ReadAll(f.Progs[0].Open())
			if err != nil {
				t.Fatal(err)
			}
			if at := mapped[TextAt-base:]; !bytes.Equal(at, text) {
				t.Errorf("text %q", at)
			}
			if flags := f.ByteOrder.Uint32(mapped[FlagsAt-base:]); flags != test.program.Flags {
				t.Errorf("flags %d", flags)
			}
		})
	}
}
