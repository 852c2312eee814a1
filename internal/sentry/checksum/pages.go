package checksum

import (
	"fmt"
	"hash/crc32"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"

	"hull/internal/sandbox/image"
)

// pageSums is the checksum of a file of pages: the sum of those of the pages, each of which begins with its number. They come
// in any order, as they are read.
type pageSums struct{ image.File }

// add adds what lies at an offset. That begins a page, and all of it are pages.
func (s *pageSums) add(offset int64, parts ...[]byte) {
	for _, p := range parts {
		for len(p) > 0 {
			n := min(len(p), hostarch.PageSize)
			s.Checksum += crc32.Update(uint32(offset/hostarch.PageSize), castagnoli(), p[:n])
			p, offset = p[n:], offset+int64(n)
			s.Length += int64(n)
		}
	}
}

// CheckPages tells whether a file of pages is what it was when it was saved.
func CheckPages(f *os.File, want image.File) error {
	var sums pageSums
	buf := make([]byte, 1<<20)
	for off := int64(0); off < want.Length; {
		part := buf[:min(int64(len(buf)), want.Length-off)]
		if _, err := f.ReadAt(part, off); err != nil {
			return fmt.Errorf("it ends before byte %d of %d", off+int64(len(part)), want.Length)
		}
		sums.add(off, part)
		off += int64(len(part))
	}
	if sums.File != want {
		return errDiffers
	}
	return nil
}

// PagesWriter makes the checksum of pages that are written. They are added in the order in which they come in the file.
type PagesWriter struct {
	stateio.AsyncWriter
	pageSums
}

// NewPagesWriter returns one that writes by w.
func NewPagesWriter(w stateio.AsyncWriter) *PagesWriter { return &PagesWriter{AsyncWriter: w} }

// AddWrite implements stateio.AsyncWriter.
func (w *PagesWriter) AddWrite(id int, f stateio.SourceFile, r memmap.FileRange, p []byte) {
	w.add(w.Length, p)
	w.AsyncWriter.AddWrite(id, f, r, p)
}

// AddWritev implements stateio.AsyncWriter.
func (w *PagesWriter) AddWritev(id int, total uint64, f stateio.SourceFile, r []memmap.FileRange, parts []unix.Iovec) {
	w.add(w.Length, slicesOf(parts)...)
	w.AsyncWriter.AddWritev(id, total, f, r, parts)
}

func slicesOf(parts []unix.Iovec) (all [][]byte) {
	for _, p := range parts {
		all = append(all, unsafe.Slice(p.Base, p.Len))
	}
	return all
}

// PagesReader makes the checksum of pages that are read, before anybody else sees them.
type PagesReader struct {
	stateio.AsyncReader
	pageSums
	reads map[int]pagesRead
}

type pagesRead struct {
	offset int64
	parts  [][]byte
}

// NewPagesReader returns one that reads by r.
func NewPagesReader(r stateio.AsyncReader) *PagesReader {
	return &PagesReader{AsyncReader: r, reads: make(map[int]pagesRead)}
}

// AddRead implements stateio.AsyncReader.
func (r *PagesReader) AddRead(id int, off int64, f stateio.DestinationFile, at memmap.FileRange, p []byte) {
	r.reads[id] = pagesRead{off, [][]byte{p}}
	r.AsyncReader.AddRead(id, off, f, at, p)
}

// AddReadv implements stateio.AsyncReader.
func (r *PagesReader) AddReadv(id int, off int64, total uint64, f stateio.DestinationFile, at []memmap.FileRange, parts []unix.Iovec) {
	r.reads[id] = pagesRead{off, slicesOf(parts)}
	r.AsyncReader.AddReadv(id, off, total, f, at, parts)
}

// Wait implements stateio.AsyncReader.
func (r *PagesReader) Wait(done []stateio.Completion, least int) ([]stateio.Completion, error) {
	had := len(done)
	done, err := r.AsyncReader.Wait(done, least)
	for _, c := range done[had:] {
		if read := r.reads[c.ID]; c.Err == nil {
			r.add(read.offset, read.parts...)
		}
		delete(r.reads, c.ID)
	}
	return done, err
}
