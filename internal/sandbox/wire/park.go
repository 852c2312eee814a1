package wire

import (
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
// From then on it is a boot. Until its first report the end of the connection ends it.
const Park = "park"

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
