package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The structs of specs-go, one reader each. A test fills every field of specs.Spec by reflection and reads it back, so a
// field that a newer specs-go brings is missed here by that test only once.

func readSpec(d *decoder, s *specs.Spec) {
	d.object(func(key string) bool {
		switch key {
		case "ociVersion":
			str(d, &s.Version)
		case "process":
			optional(d, &s.Process, readProcess)
		case "root":
			optional(d, &s.Root, readRoot)
		case "hostname":
			str(d, &s.Hostname)
		case "domainname":
			str(d, &s.Domainname)
		case "mounts":
			list(d, &s.Mounts, readMount)
		case "hooks":
			optional(d, &s.Hooks, readHooks)
		case "annotations":
			dict(d, &s.Annotations, text)
		case "linux":
			optional(d, &s.Linux, readLinux)
		case "solaris":
			optional(d, &s.Solaris, foreign)
		case "windows":
			optional(d, &s.Windows, foreign)
		case "vm":
			optional(d, &s.VM, foreign)
		case "zos":
			optional(d, &s.ZOS, foreign)
		case "freebsd":
			optional(d, &s.FreeBSD, foreign)
		default:
			return false
		}
		return true
	})
}

// foreign notes that a section for another platform is there. What it says is not read, because Check refuses it.
func foreign[T any](d *decoder, _ *T) { d.skip() }

func readProcess(d *decoder, p *specs.Process) {
	d.object(func(key string) bool {
		switch key {
		case "terminal":
			boolean(d, &p.Terminal)
		case "consoleSize":
			optional(d, &p.ConsoleSize, readBox)
		case "user":
			readUser(d, &p.User)
		case "args":
			list(d, &p.Args, str)
		case "commandLine":
			str(d, &p.CommandLine)
		case "env":
			list(d, &p.Env, str)
		case "cwd":
			str(d, &p.Cwd)
		case "capabilities":
			optional(d, &p.Capabilities, readCapabilities)
		case "rlimits":
			list(d, &p.Rlimits, readRlimit)
		case "noNewPrivileges":
			boolean(d, &p.NoNewPrivileges)
		case "apparmorProfile":
			str(d, &p.ApparmorProfile)
		case "oomScoreAdj":
			optional(d, &p.OOMScoreAdj, integer)
		case "scheduler":
			optional(d, &p.Scheduler, readScheduler)
		case "selinuxLabel":
			str(d, &p.SelinuxLabel)
		case "ioPriority":
			optional(d, &p.IOPriority, readIOPriority)
		case "execCPUAffinity":
			optional(d, &p.ExecCPUAffinity, readCPUAffinity)
		default:
			return false
		}
		return true
	})
}

func readBox(d *decoder, b *specs.Box) {
	d.object(func(key string) bool {
		switch key {
		case "height":
			uinteger(d, &b.Height)
		case "width":
			uinteger(d, &b.Width)
		default:
			return false
		}
		return true
	})
}

func readUser(d *decoder, u *specs.User) {
	d.object(func(key string) bool {
		switch key {
		case "uid":
			uinteger(d, &u.UID)
		case "gid":
			uinteger(d, &u.GID)
		case "umask":
			optional(d, &u.Umask, uinteger)
		case "additionalGids":
			list(d, &u.AdditionalGids, uinteger)
		case "username":
			str(d, &u.Username)
		default:
			return false
		}
		return true
	})
}

func readCapabilities(d *decoder, c *specs.LinuxCapabilities) {
	d.object(func(key string) bool {
		switch key {
		case "bounding":
			list(d, &c.Bounding, str)
		case "effective":
			list(d, &c.Effective, str)
		case "inheritable":
			list(d, &c.Inheritable, str)
		case "permitted":
			list(d, &c.Permitted, str)
		case "ambient":
			list(d, &c.Ambient, str)
		default:
			return false
		}
		return true
	})
}

func readRlimit(d *decoder, r *specs.POSIXRlimit) {
	d.object(func(key string) bool {
		switch key {
		case "type":
			str(d, &r.Type)
		case "hard":
			uinteger(d, &r.Hard)
		case "soft":
			uinteger(d, &r.Soft)
		default:
			return false
		}
		return true
	})
}

func readScheduler(d *decoder, s *specs.Scheduler) {
	d.object(func(key string) bool {
		switch key {
		case "policy":
			str(d, &s.Policy)
		case "nice":
			integer(d, &s.Nice)
		case "priority":
			integer(d, &s.Priority)
		case "flags":
			list(d, &s.Flags, str)
		case "runtime":
			uinteger(d, &s.Runtime)
		case "deadline":
			uinteger(d, &s.Deadline)
		case "period":
			uinteger(d, &s.Period)
		default:
			return false
		}
		return true
	})
}

func readIOPriority(d *decoder, p *specs.LinuxIOPriority) {
	d.object(func(key string) bool {
		switch key {
		case "class":
			str(d, &p.Class)
		case "priority":
			integer(d, &p.Priority)
		default:
			return false
		}
		return true
	})
}

func readCPUAffinity(d *decoder, a *specs.CPUAffinity) {
	d.object(func(key string) bool {
		switch key {
		case "initial":
			str(d, &a.Initial)
		case "final":
			str(d, &a.Final)
		default:
			return false
		}
		return true
	})
}

func readRoot(d *decoder, r *specs.Root) {
	d.object(func(key string) bool {
		switch key {
		case "path":
			str(d, &r.Path)
		case "readonly":
			boolean(d, &r.Readonly)
		default:
			return false
		}
		return true
	})
}

func readMount(d *decoder, m *specs.Mount) {
	d.object(func(key string) bool {
		switch key {
		case "destination":
			str(d, &m.Destination)
		case "type":
			str(d, &m.Type)
		case "source":
			str(d, &m.Source)
		case "options":
			list(d, &m.Options, str)
		case "uidMappings":
			list(d, &m.UIDMappings, readIDMapping)
		case "gidMappings":
			list(d, &m.GIDMappings, readIDMapping)
		default:
			return false
		}
		return true
	})
}

func readHooks(d *decoder, h *specs.Hooks) {
	d.object(func(key string) bool {
		switch key {
		case "prestart":
			//lint:ignore SA1019 deprecated, but in use
			list(d, &h.Prestart, readHook)
		case "createRuntime":
			list(d, &h.CreateRuntime, readHook)
		case "createContainer":
			list(d, &h.CreateContainer, readHook)
		case "startContainer":
			list(d, &h.StartContainer, readHook)
		case "poststart":
			list(d, &h.Poststart, readHook)
		case "poststop":
			list(d, &h.Poststop, readHook)
		default:
			return false
		}
		return true
	})
}

func readHook(d *decoder, h *specs.Hook) {
	d.object(func(key string) bool {
		switch key {
		case "path":
			str(d, &h.Path)
		case "args":
			list(d, &h.Args, str)
		case "env":
			list(d, &h.Env, str)
		case "timeout":
			optional(d, &h.Timeout, integer)
		default:
			return false
		}
		return true
	})
}
