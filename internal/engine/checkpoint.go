package engine

import "os"

// Image is a container that was saved in a directory. What stands below Dir is CRIU's, by which native isolation saves;
// a sandbox takes what it can do without, and refuses the rest.
type Image struct {
	Path string   // absolute
	Dir  *os.File // what Path is, opened

	Program       string // CRIU's path; or "", which is looked for in PATH
	WorkPath      string // absolute: of CRIU's log and statistics; or "", which is Path
	TCPConnected  bool   // connections of TCP are saved, or restored, too
	UnixSockets   bool   // so are Unix sockets whose other end is outside of the container
	ShellJob      bool   // the terminal of the session is outside of the container
	FileLocks     bool
	LazyPages     bool     // memory comes when it is needed (userfaultfd(2))
	AutoDedup     bool     // what is in two images of memory is taken out of the older one
	ManageCgroups string   // soft, full, strict, ignore; or "", which is soft
	EmptyNS       []string // namespaces that are made, but not filled: "network"
}

// CheckpointRequest says how a container that runs or is paused is saved.
type CheckpointRequest struct {
	Container
	Init   Init
	Paused bool // it is paused, and stays so
	Image  Image

	// LeaveRunning lets it go on afterwards. Otherwise none of its processes runs again once Checkpoint has returned without an
	// error, and all of them may have ended.
	LeaveRunning bool

	ParentPath string   // of an earlier image, relative to Path; or ""
	PreDump    bool     // the memory alone, and the container goes on
	PageServer string   // address:port of who takes the memory; or ""
	StatusFD   *os.File // gets a zero byte when lazy pages can be asked for; or nil

	LinkRemap    bool // files without a name get one until they are restored
	SkipInFlight bool // connections of TCP that are not accepted yet are left out

	Trace func(line string)
	Warn  func(line string)
}

// RestoreRequest says how a container is made that goes on where another was saved. Of the CreateRequest, Park, Begun and
// BeforeStart don't count: its processes run as soon as Prepared has returned.
type RestoreRequest struct {
	CreateRequest
	Image Image

	LSMProfile      string // TYPE:NAME; or ""
	LSMMountContext string // or ""
}
