package wire

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Park is the command of hull-sandbox that makes a kernel without a container: it waits to be told of one. See package pool.
//
//	pool                                     hull-sandbox park
//	  starts it in its jail, with  ────────>   one end of a pair of sockets
//	  waits for the report         <────────   Ready, when it is under its filter; or a Failure
//	  gives its end to a hull
//	hull
//	  words, with descriptors      ────────>   the command line of boot, in which the number of a descriptor counts from 3 among
//	                                           those that come behind the standard streams
//
// They take as many messages as they need. From then on it is a boot. Until its first report the end of the connection ends it.
const Park = "park"

// maxParkFiles is how many descriptors a container made in a parked sandbox has at most.
const maxParkFiles = 1 << 13

// SendContainer sends a command line and its descriptors in as many messages as they need. The first begins with how many bytes and
// descriptors there are.
func SendContainer(conn int, words []string, fds []int) error {
	text := strings.Join(words, "\x00")
	if len(text) > MaxMessage || len(fds) > maxParkFiles {
		return fmt.Errorf("a container of %d bytes and %d descriptors; at most %d and %d are possible", len(text), len(fds), MaxMessage, maxParkFiles)
	}
	head := strconv.Itoa(len(text)) + "\x00" + strconv.Itoa(len(fds)) + "\x00"
	for first := true; first || len(text)+len(fds) > 0; first = false {
		n, files := min(len(text), packet-len(head)), min(len(fds), MaxFiles)
		if err := SendWords(conn, []string{head + text[:n] + "."}, fds[:files]...); err != nil {
			return err
		}
		text, fds, head = text[n:], fds[files:], ""
	}
	return nil
}

// ReceiveContainer receives what SendContainer sends.
func ReceiveContainer(conn int) (words []string, fds []int, err error) {
	defer func() {
		if err != nil {
			closeAll(fds)
			fds = nil
		}
	}()
	text, bytes, files := "", 0, 0
	for first := true; first || len(text) < bytes || len(fds) < files; first = false {
		b, more, err := ReceiveBytes(conn, packet+1, MaxFiles)
		if err != nil {
			return nil, fds, err
		}
		fds = append(fds, more...)
		part := strings.TrimSuffix(string(b), ".") // so that no message is empty, which would be the end
		if first {
			var counts [2]string
			for i := range counts {
				var ok bool
				if counts[i], part, ok = strings.Cut(part, "\x00"); !ok {
					return nil, fds, errors.New("a container without its size")
				}
			}
			var errs [2]error
			bytes, errs[0] = strconv.Atoi(counts[0])
			files, errs[1] = strconv.Atoi(counts[1])
			if err := errors.Join(errs[:]...); err != nil || bytes > MaxMessage || files > maxParkFiles {
				return nil, fds, errors.New("a container of an impossible size")
			}
		} else if len(part)+len(more) == 0 {
			return nil, fds, errors.New("a message with nothing of a container")
		}
		text += part
	}
	if len(text) != bytes || len(fds) != files {
		return nil, fds, errors.New("more of a container than was told")
	}
	return strings.Split(text, "\x00"), fds, nil
}

// SendWords sends words, none of which has a zero byte, with descriptors.
func SendWords(conn int, words []string, fds ...int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return retry(func() error {
		return unix.Sendmsg(conn, []byte(strings.Join(words, "\x00")), rights, nil, unix.MSG_NOSIGNAL)
	})
}

// ReceiveWords receives words, with at most that many descriptors.
func ReceiveWords(conn, most int) (words []string, fds []int, err error) {
	b, fds, err := ReceiveBytes(conn, packet, most)
	if err != nil {
		return nil, nil, err
	}
	return strings.Split(string(b), "\x00"), fds, nil
}
