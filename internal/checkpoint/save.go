package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/criu"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/proc"
)

// dumpLog is the name of CRIU's log of a checkpoint.
const dumpLog = "dump.log"

// Save saves a container. CRIU freezes it by its cgroup and stops its processes with ptrace(2) meanwhile; whether hull
// is killed, or CRIU itself, or fails, they go on. Once all is saved, CRIU kills them.
func Save(ctx context.Context, r *engine.CheckpointRequest) error {
	if engine.HasNamespace(r.Spec, specs.UserNamespace) {
		return &fault.Error{Field: "linux.namespaces", Kind: fault.Unsupported,
			Err: errors.New("CRIU could not restore a container with a user namespace: nobody in it can make its device nodes again")}
	}
	if err := checkParent(r); err != nil {
		return err
	}
	before, err := namesIn(r.Image.Dir)
	if err != nil {
		return err
	}
	logged, err := save(ctx, r)
	if err == nil {
		return nil
	}
	return errors.Join(err, discard(r, append(before, logged)))
}

// namesIn returns the names in a directory.
func namesIn(dir *os.File) ([]string, error) {
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // with an offset of its own
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir.Name(), Err: err}
	}
	f := os.NewFile(uintptr(fd), dir.Name())
	defer f.Close()
	return f.Readdirnames(-1)
}

// discard removes what a checkpoint that failed has left of an image, which would be none, but for these names. It stays if the
// container has ended: all may have been saved before ctx ended, or CRIU, and then there is nothing else of it.
func discard(r *engine.CheckpointRequest, keep []string) error {
	if !proc.Alive(r.Init) || proc.Killed(r.Init) {
		return nil
	}
	dir := r.Image.Dir
	names, err := namesIn(dir)
	for _, name := range names {
		if slices.Contains(keep, name) || !ofImage(name) {
			continue
		}
		if e := unix.Unlinkat(int(dir.Fd()), name, 0); e != nil && e != unix.ENOENT {
			err = errors.Join(err, &os.PathError{Op: "unlink", Path: dir.Name() + "/" + name, Err: e})
		}
	}
	return err
}

// ofImage tells whether a file has a name that CRIU or hull gives one of an image. Others may be somebody else's, who has made
// them meanwhile.
func ofImage(name string) bool {
	return strings.HasSuffix(name, ".img") || slices.Contains([]string{"parent", "stats-dump", "irmap-cache", dumpLog, criu.StreamsFile}, name)
}

// save is Save. logged is "", or the name of the log that the error names.
func save(ctx context.Context, r *engine.CheckpointRequest) (logged string, err error) {
	ps, err := pageServer(r.PageServer)
	if err != nil {
		return "", err
	}
	pidfd, err := proc.Open(r.Init)
	if err != nil {
		return "", err
	}
	defer pidfd.Close()
	s, err := startCRIU(ctx, launch{image: &r.Image, spec: r.Spec, log: dumpLog, trace: r.Trace})
	if err != nil {
		return "", err
	}
	defer s.end()
	if err := s.canDump(ctx, r); err != nil {
		return "", err
	}
	o := s.options
	o.Pid = ptr(int32(r.Init.Pid))
	o.Root = ptr(r.Root())
	o.LeaveRunning, o.LinkRemap, o.TcpSkipInFlight = &r.LeaveRunning, &r.LinkRemap, &r.SkipInFlight
	o.Ps = ps
	if r.ParentPath != "" {
		o.ParentImg, o.TrackMem = &r.ParentPath, ptr(true)
	}
	o.FreezeCgroup = freezer(r, s.version)
	kind := rpc.CriuReqType_PRE_DUMP
	if !r.PreDump {
		kind = rpc.CriuReqType_DUMP
		if err := dumpOptions(r, o); err != nil {
			return "", err
		}
	} else {
		o.TrackMem = ptr(true)
	}
	err = s.run(ctx, kind, func(n criu.Notification) error {
		if n.File != nil {
			n.File.Close()
		}
		if n.Step == "status-ready" && r.StatusFD != nil {
			_, err := r.StatusFD.Write([]byte{0})
			return err
		}
		return nil
	})
	if err != nil && !r.Paused && r.Cgroup.Tracks() {
		// A CRIU that was killed has not thawed what it had frozen.
		s.Close()
		s.wait()
		err = errors.Join(err, r.Cgroup.Thaw())
	}
	if s.namesLog {
		logged = dumpLog
	}
	return logged, err
}

// canDump returns an error if CRIU, or the kernel, is too old for what is asked.
func (s *service) canDump(ctx context.Context, r *engine.CheckpointRequest) error {
	const pid, status = 31500, 31500
	if joins(r.Spec, specs.PIDNamespace) {
		if err := s.needs(pid, "a pid namespace that is another's"); err != nil {
			return err
		}
	}
	if r.StatusFD != nil {
		if err := s.needs(status, "telling that lazy pages can be asked for"); err != nil {
			return err
		}
	}
	if r.PreDump || r.ParentPath != "" {
		if err := s.has(ctx, &rpc.CriuFeatures{MemTrack: ptr(true)}); err != nil {
			return err
		}
	}
	if r.Image.LazyPages {
		return s.has(ctx, &rpc.CriuFeatures{LazyPages: ptr(true)})
	}
	return nil
}

// checkParent makes sure that there is an image to leave out the pages of: CRIU would take a wrong path for none and save
// everything, or end with an error that doesn't name it.
func checkParent(r *engine.CheckpointRequest) error {
	if r.ParentPath == "" {
		return nil
	}
	step := "--parent-path " + r.ParentPath
	if filepath.IsAbs(r.ParentPath) {
		return &fault.Error{Step: step, Kind: fault.BadUsage, Err: errors.New("want a path that is relative to the image's directory")}
	}
	fd, err := unix.Openat(int(r.Image.Dir.Fd()), r.ParentPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fault.Error{Step: step, Kind: fault.BadUsage, Err: fmt.Errorf("%s: %w", filepath.Join(r.Image.Path, r.ParentPath), err),
			Hint: "it is the directory of an earlier image, relative to that of the new one"}
	}
	return unix.Close(fd)
}

func pageServer(address string) (*rpc.CriuPageServerInfo, error) {
	if address == "" {
		return nil, nil
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil || a.Port() == 0 {
		return nil, &fault.Error{Step: "page server " + address, Kind: fault.BadUsage,
			Err: errors.New("want ADDRESS:PORT, with an IP address")}
	}
	return &rpc.CriuPageServerInfo{Address: ptr(a.Addr().String()), Port: ptr(int32(a.Port()))}, nil
}

// freezer returns the directory by whose freezer CRIU stops the container at once, or nil: then it does so one by one.
func freezer(r *engine.CheckpointRequest, v criu.Version) *string {
	const v2 = 31400
	dir := r.Cgroup.Path("freezer")
	if dir == "" && v >= v2 {
		dir = r.Cgroup.Path("")
	}
	if dir == "" || strings.Contains(dir, "\x00") {
		return nil
	}
	return &dir
}

// joins tells whether the container has a namespace of that type that was there before it.
func joins(s *specs.Spec, t specs.LinuxNamespaceType) bool {
	ns, ok := engine.Namespace(s, t)
	return ok && ns.Path != ""
}

// externalNamespaces are those that CRIU leaves alone where they were there before the container, with the keys by which it is
// given them at the restoration, as with runc.
var externalNamespaces = []struct {
	kind specs.LinuxNamespaceType
	name string // of the file in /proc/PID/ns
	key  string
}{
	{specs.NetworkNamespace, "net", "extRootNetNS"},
	{specs.PIDNamespace, "pid", "extRootPidNS"},
}

// dumpOptions completes the options of a checkpoint that is whole.
func dumpOptions(r *engine.CheckpointRequest, o *rpc.CriuOpts) error {
	for _, n := range externalNamespaces {
		if !joins(r.Spec, n.kind) {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(proc.File(r.Init.Pid, "ns/"+n.name), &st); err != nil {
			return err
		}
		o.External = append(o.External, fmt.Sprintf("%s[%d]:%s", n.name, st.Ino, n.key))
	}
	saves, err := savesNetwork(&r.Container, &r.Image, r.Init.Pid)
	if err != nil {
		return err
	}
	if ownNetwork(r.Spec) && !saves {
		o.EmptyNs = emptyNetwork()
	}
	root, err := openRoot(r.Init.Pid)
	if err != nil {
		return err
	}
	defer root.Close()
	mounts, err := readMounts(r.Init.Pid)
	if err != nil {
		return err
	}
	points, err := pointsBelow(root)
	if err != nil {
		return err
	}
	all, err := externals(&r.Container, points)
	if err != nil {
		return err
	}
	if all, err = dumped(all, mounts, root); err != nil {
		return err
	}
	for _, e := range all {
		o.ExtMnt = append(o.ExtMnt, &rpc.ExtMountMap{Key: &e.point, Val: &e.name})
	}
	streams, err := outsideStreams(&r.Container, mounts)
	if err != nil {
		return err
	}
	for _, s := range streams {
		if strings.HasPrefix(s, "file[") {
			o.External = append(o.External, s)
		}
	}
	return streams.Write(r.Image.Dir)
}
