package hull

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/native"
	"hull/internal/sandbox"
	"hull/internal/store"
)

// Isolation is what keeps a container apart from the host.
type Isolation string

const (
	// Native is the host's kernel: namespaces, cgroups, capabilities, seccomp.
	Native Isolation = "native"
	// Sandbox is a kernel of the container's own, a program of the host in a jail. docs/isolation.md says what it can't do.
	Sandbox Isolation = "sandbox"
)

// SandboxOptions are what can be chosen of a sandbox. Empty is the default.
//
//	Overlay          // what is written to the root: "none", it is; "memory", "dir=DIR", it is kept there and gone with the container
//	FileAccess       // who changes the root while the container runs: it alone, "exclusive", or others, too, "shared"
//	FileAccessMounts // and what is mounted into it: "shared", or "exclusive"
//	HostFifo         // whether programs open FIFOs together with those of the host: "none", or "open"
//	HostUDS          // whether programs connect with stream sockets that the host's have in mounts, or make such: "none", "open", "create", "all"
//	Platform         // how programs run: "systrap", or "kvm", by the host's KVM
//	PlatformDevice   // where that is, "/dev/kvm"
type SandboxOptions = sandbox.Options

// IsolationAnnotation is the annotation of config.json that names the isolation, unless the caller does.
const IsolationAnnotation = "run.hull.isolation"

// Known tells whether there is such an isolation.
func (i Isolation) Known() bool { return i == Native || i == Sandbox }

// checkHost returns why a command over the host's files can't have that isolation.
func (i Isolation) checkHost() error {
	if i == "" || i.Known() {
		return nil
	}
	return i.unknown()
}

// sandboxed tells whether a command over the host's files gets a kernel of its own.
func (c *Cmd) sandboxed() bool { return c.Runtime.Isolation == Sandbox }

func (i Isolation) unknown() error {
	return &fault.Error{Step: fmt.Sprintf("isolation %q", i), Kind: fault.BadUsage, Err: errors.New("want native or sandbox")}
}

// isolation returns that of a container to be made.
func (r *Runtime) isolation(s *specs.Spec) (Isolation, error) {
	if i := r.Isolation; i != "" {
		if !i.Known() {
			return "", i.unknown()
		}
		return i, nil
	}
	a, ok := s.Annotations[IsolationAnnotation]
	if !ok {
		return Native, nil
	}
	if i := Isolation(a); i.Known() {
		return i, nil
	}
	return "", fault.Spec("annotations."+IsolationAnnotation, fmt.Sprintf("%q is neither native nor sandbox", a))
}

// checkOptions refuses options of a sandbox where there is none.
func (r *Runtime) checkOptions(i Isolation) error {
	if name := r.Sandbox.Given(); i != Sandbox && name != "" {
		return &fault.Error{Step: "--" + name, Kind: fault.BadUsage, Err: errors.New("an option of sandboxes, and the container is in none"),
			Hint: "hull --isolation sandbox gives it a kernel of its own"}
	}
	return nil
}

// checkHostOptions refuses options of a sandbox for a command over the host's files, whatever its isolation, but for how programs run.
func (r *Runtime) checkHostOptions() error {
	o := r.Sandbox
	o.Platform, o.PlatformDevice = "", ""
	if name := o.Given(); name != "" {
		return &fault.Error{Step: "--" + name, Kind: fault.BadUsage, Err: errors.New("a command over the host's files has none of a sandbox's options, but --platform")}
	}
	i := r.Isolation
	if i == "" {
		i = Native
	}
	if err := r.checkOptions(i); err != nil {
		return err
	}
	return r.Sandbox.Check()
}

// Platforms returns the platforms of sandboxes that this machine can be taken to have, as Sandbox.Platform names them. That is systrap, unless
// Sandbox asks for another one: it is tried then, and the error is why there isn't that one, too. A trial of KVM ends within some
// seconds, also where the device hangs whoever uses it; in that case a process stays behind that can't be killed.
func (r *Runtime) Platforms() ([]string, error) {
	platforms := []string{sandbox.Systrap}
	e := r.sandboxEngine()
	if err := e.Options.Check(); err != nil || e.Platform != sandbox.KVM {
		return platforms, fault.In("platforms", "", err)
	}
	device, err := e.ProbeKVM()
	if err != nil {
		return platforms, fault.In("platforms", "", err)
	}
	device.Close()
	return append(platforms, sandbox.KVM), nil
}

func (r *Runtime) engine(i Isolation) engine.Engine {
	if i == Sandbox {
		return r.sandboxEngine()
	}
	return native.Engine{}
}

func (r *Runtime) sandboxEngine() sandbox.Engine {
	return sandbox.Engine{Program: r.SandboxProgram, Release: Version, Pool: r.store().Root, Options: r.Sandbox}
}

// throwawayEngine is that of a command over the host's files.
func (r *Runtime) throwawayEngine() engine.HostFiles {
	if r.Isolation == Sandbox {
		return r.sandboxEngine()
	}
	return native.Engine{}
}

// recorded is how records name the isolation.
func (i Isolation) recorded() string {
	if i == Native {
		return ""
	}
	return string(i)
}

func recordedIsolation(r *store.Record) Isolation {
	if r.Isolation == "" {
		return Native
	}
	return Isolation(r.Isolation)
}
