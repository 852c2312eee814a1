// Package checksum writes and reads the files of a saved kernel with their checksums, which package boot compares with those in the
// image's header: what is decoded is what was saved. An image from a stranger is no less hostile for that.
package checksum

import (
	"errors"
	"hash/crc32"
	"io"
	"os"

	"hull/internal/sandbox/image"
)

// castagnoli returns the polynomial of the checksums: processors have an instruction for it. The tables that it takes are made at the
// first call, not at each start of a sandbox.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

var errDiffers = errors.New("the checksum differs")

// Writer writes to a file, by way of a buffer, and makes the checksum of that. It keeps its first error, since the encoder only
// says that there was one.
type Writer struct {
	image.File
	f   *os.File
	buf []byte
	err error
}

const sumBuffer = 256 << 10

// NewWriter returns a writer to a file, which it leaves open.
func NewWriter(f *os.File) *Writer { return &Writer{f: f, buf: make([]byte, 0, sumBuffer)} }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
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

func (w *Writer) write(p []byte) {
	if w.err == nil {
		w.Checksum = crc32.Update(w.Checksum, castagnoli(), p)
		w.Length += int64(len(p))
		_, w.err = w.f.Write(p)
	}
}

func (w *Writer) flush() {
	w.write(w.buf)
	w.buf = w.buf[:0]
}

// Err returns the first error.
func (w *Writer) Err() error { return w.err }

// Close implements io.Closer. The file stays open.
func (w *Writer) Close() error {
	w.flush()
	return w.err
}

// Read reads a file that is what it was when it was saved.
func Read(f *os.File, want image.File) ([]byte, error) {
	b := make([]byte, want.Length)
	if _, err := f.ReadAt(b, 0); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if crc32.Checksum(b, castagnoli()) != want.Checksum {
		return nil, errDiffers
	}
	return b, nil
}
