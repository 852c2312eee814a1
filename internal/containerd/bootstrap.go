package containerd

// BootstrapParams is what containerd writes to a shim's command start from 2.3 on. Before, it wrote the runtime's options alone,
// as an Any, or nothing.
type BootstrapParams struct {
	ID, Namespace string
	TTRPCAddress  string
	GRPCAddress   string
	Options       Any // the first of the extensions
	SocketDir     string
}

func (p *BootstrapParams) field(f field) error {
	switch f.num {
	case 1:
		p.ID = f.str()
	case 2:
		p.Namespace = f.str()
	case 5:
		p.TTRPCAddress = f.str()
	case 6:
		p.GRPCAddress = f.str()
	case 8:
		if p.Options.TypeURL == "" {
			return each(f.p, func(f field) error {
				if f.num == 1 {
					return Unmarshal(f.p, &p.Options)
				}
				return nil
			})
		}
	case 9:
		p.SocketDir = f.str()
	}
	return nil
}

// BootstrapResult is the answer: how the shim is reached.
type BootstrapResult struct {
	Version  int
	Address  string
	Protocol string
}

func (r *BootstrapResult) marshal(w *writer) {
	w.uint(1, uint64(r.Version))
	w.str(2, r.Address)
	w.str(3, r.Protocol)
}

// RuntimeInfo is what a shim tells with -info (containerd/api/types/introspection.proto).
type RuntimeInfo struct {
	Name, Version string
	Options       Any
	Features      []byte // features of the runtime, as JSON
}

func (r *RuntimeInfo) marshal(w *writer) {
	w.str(1, r.Name)
	w.message(2, runtimeVersion(r.Version))
	if r.Options.TypeURL != "" {
		w.message(3, &r.Options)
	}
	w.message(4, &Any{TypeURL: "types.containerd.io/opencontainers/runtime-spec/1/features/Features", Value: r.Features})
}

type runtimeVersion string

func (v runtimeVersion) marshal(w *writer) { w.str(1, string(v)) }

// Types of options.
const (
	RuncOptions           = "containerd.runc.v1.Options"
	RuncCheckpointOptions = "containerd.runc.v1.CheckpointOptions"
	GenericOptions        = "runtimeoptions.v1.Options"
)

// Options are those of runc's shim that mean something to every runtime (containerd/api/types/runc/options/oci.proto): engines
// send them to other shims, too.
type Options struct {
	NoPivotRoot   bool
	NoNewKeyring  bool
	ShimCgroup    string // absolute: where the shim itself is to be
	BinaryName    string
	Root          string
	SystemdCgroup bool
	WorkPath      string // of CRIU, for a restore
}

func (o *Options) field(f field) error {
	switch f.num {
	case 1:
		o.NoPivotRoot = f.v != 0
	case 2:
		o.NoNewKeyring = f.v != 0
	case 3:
		o.ShimCgroup = f.str()
	case 6:
		o.BinaryName = f.str()
	case 7:
		o.Root = f.str()
	case 9:
		o.SystemdCgroup = f.v != 0
	case 11:
		o.WorkPath = f.str()
	}
	return nil
}

// CheckpointOptions are those of a checkpoint (the same file).
type CheckpointOptions struct {
	Exit          bool // the container ends
	TCPConnected  bool
	UnixSockets   bool
	ShellJob      bool
	FileLocks     bool
	EmptyNS       []string
	ManageCgroups string
	ImagePath     string // instead of the request's path
	WorkPath      string
	ParentPath    string
}

func (o *CheckpointOptions) field(f field) error {
	switch f.num {
	case 1:
		o.Exit = f.v != 0
	case 2:
		o.TCPConnected = f.v != 0
	case 3:
		o.UnixSockets = f.v != 0
	case 4:
		o.ShellJob = f.v != 0
	case 5:
		o.FileLocks = f.v != 0
	case 6:
		o.EmptyNS = append(o.EmptyNS, f.str())
	case 7:
		o.ManageCgroups = f.str()
	case 8:
		o.ImagePath = f.str()
	case 9:
		o.WorkPath = f.str()
	case 10:
		o.ParentPath = f.str()
	}
	return nil
}

// Generic are options of a runtime that containerd doesn't know (runtimeoptions/v1): a text of the runtime's own, TOML in
// containerd's configuration.
type Generic struct {
	TypeURL    string
	ConfigPath string
	ConfigBody []byte
}

func (g *Generic) field(f field) error {
	switch f.num {
	case 1:
		g.TypeURL = f.str()
	case 2:
		g.ConfigPath = f.str()
	case 3:
		g.ConfigBody = f.p
	}
	return nil
}
