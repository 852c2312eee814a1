package boot

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/hostarch"
	"gvisor.dev/gvisor/pkg/sentry/memmap"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"

	"hull/internal/sandbox/image"
)

// castagnoli returns the polynomial of the checksums: processors have an instruction for it. The tables that it takes are made at the
// first call, not at each start of a sandbox.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

var errChecksum = errors.New("the checksum differs")

// sumWriter writes to a file, by way of a buffer, and makes the checksum of that. It keeps its first error, since the encoder only
// says that there was one.
type sumWriter struct {
	image.File
	f   *os.File
	buf []byte
	err error
}

const sumBuffer = 256 << 10

func newSumWriter(f *os.File) *sumWriter { return &sumWriter{f: f, buf: make([]byte, 0, sumBuffer)} }

// Write implements io.Writer.
func (w *sumWriter) Write(p []byte) (int, error) {
	if len(w.buf)+len(p) > cap(w.buf) {
		w.flush()
	}
	if len(p) > cap(w.buf) {
		w.write(p)
	} else {
		w.buf = append(w.buf, p...)
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

func (w *sumWriter) write(p []byte) {
	if w.err == nil {
		w.Checksum = crc32.Update(w.Checksum, castagnoli(), p)
		w.Length += int64(len(p))
		_, w.err = w.f.Write(p)
	}
}

func (w *sumWriter) flush() {
	w.write(w.buf)
	w.buf = w.buf[:0]
}

// Close implements io.Closer. The file stays open.
func (w *sumWriter) Close() error {
	w.flush()
	return w.err
}

// readChecked reads a file that is what it was when it was saved.
func readChecked(f *os.File, want image.File) ([]byte, error) {
	b := make([]byte, want.Length)
	if _, err := f.ReadAt(b, 0); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if crc32.Checksum(b, castagnoli()) != want.Checksum {
		return nil, errChecksum
	}
	return b, nil
}

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

// check tells whether a file of pages is what it was when it was saved.
func check(f *os.File, want image.File) error {
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
		return errChecksum
	}
	return nil
}

// pagesWriter makes the checksum of pages that are written. They are added in the order in which they come in the file.
type pagesWriter struct {
	stateio.AsyncWriter
	pageSums
}

// AddWrite implements stateio.AsyncWriter.
func (w *pagesWriter) AddWrite(id int, f stateio.SourceFile, r memmap.FileRange, p []byte) {
	w.add(w.Length, p)
	w.AsyncWriter.AddWrite(id, f, r, p)
}

// AddWritev implements stateio.AsyncWriter.
func (w *pagesWriter) AddWritev(id int, total uint64, f stateio.SourceFile, r []memmap.FileRange, parts []unix.Iovec) {
	w.add(w.Length, slicesOf(parts)...)
	w.AsyncWriter.AddWritev(id, total, f, r, parts)
}

func slicesOf(parts []unix.Iovec) (all [][]byte) {
	for _, p := range parts {
		all = append(all, unsafe.Slice(p.Base, p.Len))
	}
	return all
}

// pagesReader makes the checksum of pages that are read, before anybody else sees them.
type pagesReader struct {
	stateio.AsyncReader
	pageSums
	reads map[int]pagesRead
}

type pagesRead struct {
	offset int64
	parts  [][]byte
}

// AddRead implements stateio.AsyncReader.
func (r *pagesReader) AddRead(id int, off int64, f stateio.DestinationFile, at memmap.FileRange, p []byte) {
	r.reads[id] = pagesRead{off, [][]byte{p}}
	r.AsyncReader.AddRead(id, off, f, at, p)
}

// AddReadv implements stateio.AsyncReader.
func (r *pagesReader) AddReadv(id int, off int64, total uint64, f stateio.DestinationFile, at []memmap.FileRange, parts []unix.Iovec) {
	r.reads[id] = pagesRead{off, slicesOf(parts)}
	r.AsyncReader.AddReadv(id, off, total, f, at, parts)
}

// Wait implements stateio.AsyncReader.
func (r *pagesReader) Wait(done []stateio.Completion, least int) ([]stateio.Completion, error) {
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
