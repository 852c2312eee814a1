package linux

import "golang.org/x/sys/unix"

// Namespace is a kind of namespace (namespaces(7)).
type Namespace struct {
	Flag uint64 // CLONE_NEW*
	Name string // in config.json
	File string // in /proc/PID/ns
}

// Namespaces are all kinds, in an order in which they can be joined one by one: the user namespace first, which gives the
// rights to the others, and the mount namespace last, after which the files of the others can't be opened.
var Namespaces = [...]Namespace{
	{unix.CLONE_NEWUSER, "user", "user"},
	{unix.CLONE_NEWPID, "pid", "pid"},
	{unix.CLONE_NEWNET, "network", "net"},
	{unix.CLONE_NEWIPC, "ipc", "ipc"},
	{unix.CLONE_NEWUTS, "uts", "uts"},
	{unix.CLONE_NEWCGROUP, "cgroup", "cgroup"},
	{unix.CLONE_NEWTIME, "time", "time"},
	{unix.CLONE_NEWNS, "mount", "mnt"},
}
