package filter

import "golang.org/x/sys/unix"

// Sockets are those of the host's that a kernel passes on: of a container that has the host's network.
type Sockets struct {
	Types   []Type
	Options []Option
	// Unix are those in donated mounts: these, and none of the others.
	Unix UnixSockets
}

// UnixSockets says what is done with sockets of unix(7) in donated mounts: those that programs of the host have there are connected
// with; or such are made there, which programs of the host connect with.
type UnixSockets struct{ Connect, Bind bool }

// Any tells whether anything is.
func (u UnixSockets) Any() bool { return u.Connect || u.Bind }

// Type is one of socket(2).
type Type struct{ Family, Type, Protocol int }

// Option is one of setsockopt(2), and whether it may be read and set.
type Option struct {
	Level, Name uint64
	Get, Set    bool
}

// rules are the calls that pass the sockets on.
func (s *Sockets) rules() []rule {
	if s == nil {
		return nil
	}
	if s.Unix.Any() {
		// By a name alone, below a directory that is open: the address has no place in a filter. What there is of names are those
		// in the donated mounts; the network namespace, which abstract ones are of, is the container's own.
		list := []rule{
			{"socket", []condition{is(0, unix.AF_UNIX), is(1, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK), is(2, 0)}},
			{"socket", []condition{is(0, unix.AF_UNIX), is(1, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK), is(2, 0)}},
			{"fchdir", []condition{fd(0)}},
		}
		if s.Unix.Connect {
			list = append(list, rule{"connect", []condition{fd(0)}})
		}
		if s.Unix.Bind {
			// Of any socket: a filter sees its number, and a length that an address of any family may have. What there is beside
			// those above are the packet sockets of the container's own network namespace, which bind could turn to another of
			// its devices.
			list = append(list, rule{"bind", []condition{fd(0)}}, rule{"listen", []condition{fd(0)}})
		}
		return list
	}
	list := []rule{
		{"bind", []condition{fd(0)}}, {"listen", []condition{fd(0)}}, {"connect", []condition{fd(0)}},
		{"getsockname", []condition{fd(0)}}, {"getpeername", []condition{fd(0)}},
		{"sendto", []condition{fd(0)}}, {"recvfrom", []condition{fd(0)}},
		// the host's devices and addresses, to be listed
		{"socket", []condition{is(0, unix.AF_NETLINK), is(1, unix.SOCK_RAW|unix.SOCK_CLOEXEC), is(2, unix.NETLINK_ROUTE)}},
		{"socket", []condition{is(0, unix.AF_INET6), is(1, unix.SOCK_STREAM), is(2, 0)}},
		{"socket", []condition{is(0, unix.AF_INET), is(1, unix.SOCK_STREAM), is(2, 0)}},
	}
	for _, t := range s.Types {
		list = append(list, rule{"socket", []condition{
			is(0, uint64(t.Family)), is(1, uint64(t.Type)|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), is(2, uint64(t.Protocol)),
		}})
	}
	for _, request := range []uint64{
		unix.SIOCGIFCONF, unix.SIOCETHTOOL, unix.SIOCGIFFLAGS, unix.SIOCGIFHWADDR, unix.SIOCGIFINDEX, unix.SIOCGIFMTU,
		unix.SIOCGIFNAME, unix.SIOCGIFNETMASK, unix.SIOCGIFTXQLEN, unix.TIOCOUTQ,
	} {
		list = append(list, rule{"ioctl", []condition{fd(0), is(1, request)}})
	}
	for _, o := range s.Options {
		option := []condition{is(1, o.Level), is(2, o.Name)}
		if o.Get {
			list = append(list, rule{"getsockopt", option})
		}
		if o.Set {
			list = append(list, rule{"setsockopt", option})
		}
	}
	return list
}
