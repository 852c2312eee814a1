package hull

// HostFiles say what a Cmd without a Rootfs sees of the host's files. What it writes to them goes to memory, and is gone
// with it.
//
// The zero value shows the programs and libraries of the host and the working tree: the git repository that Dir is in,
// or else Dir. All other directories of the root are empty, and so are places like /var/tmp, where users and services
// keep what is theirs; known secrets, such as /etc/shadow, are covered. docs/do.md has the lists.
//
// Paths are relative to the caller's working directory. What they name must exist.
type HostFiles struct {
	// Root is the directory shown as /. Empty means the host's own. If it is another one, all of it is shown.
	Root string
	// All shows the private places and secrets, too.
	All bool
	// Home shows the caller's home directory, but for known secrets in it.
	Home bool
	// Bind are files and directories that the command sees as they are: what it writes to them is written.
	Bind []HostBind
	// Hide are files and directories that the command doesn't see: they are covered by something empty.
	Hide []string
	// TmpfsSize bounds what can be written, as the option size of tmpfs(5) does. Empty means half of the memory.
	TmpfsSize string
	// Keep is a directory that what is written goes to instead of memory, into a directory named upper there: an upper
	// directory that overlayfs can mount over Root. It must not exist, or be empty.
	Keep string
	// Watch has Cmd.Changes be set, for looking at what was written and putting it onto the host.
	Watch bool
}

// HostBind is a file or directory of the host that a command sees as it is.
type HostBind struct {
	Source   string
	Dest     string // where the command sees it; empty means at the same path
	ReadOnly bool
}

func (b HostBind) String() string {
	switch {
	case b.Dest == "":
		return b.Source
	case b.ReadOnly:
		return b.Source + ":" + b.Dest + ":ro"
	}
	return b.Source + ":" + b.Dest
}
