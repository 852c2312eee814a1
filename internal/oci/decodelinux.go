package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func readLinux(d *decoder, l *specs.Linux) {
	d.object(func(key string) bool {
		switch key {
		case "uidMappings":
			list(d, &l.UIDMappings, readIDMapping)
		case "gidMappings":
			list(d, &l.GIDMappings, readIDMapping)
		case "sysctl":
			dict(d, &l.Sysctl, str)
		case "resources":
			optional(d, &l.Resources, readResources)
		case "cgroupsPath":
			str(d, &l.CgroupsPath)
		case "namespaces":
			list(d, &l.Namespaces, readNamespace)
		case "devices":
			list(d, &l.Devices, readDevice)
		case "netDevices":
			dict(d, &l.NetDevices, readNetDevice)
		case "seccomp":
			optional(d, &l.Seccomp, readSeccomp)
		case "rootfsPropagation":
			str(d, &l.RootfsPropagation)
		case "maskedPaths":
			list(d, &l.MaskedPaths, str)
		case "readonlyPaths":
			list(d, &l.ReadonlyPaths, str)
		case "mountLabel":
			str(d, &l.MountLabel)
		case "intelRdt":
			optional(d, &l.IntelRdt, readIntelRdt)
		case "memoryPolicy":
			optional(d, &l.MemoryPolicy, readMemoryPolicy)
		case "personality":
			optional(d, &l.Personality, readPersonality)
		case "timeOffsets":
			dict(d, &l.TimeOffsets, readTimeOffset)
		default:
			return false
		}
		return true
	})
}

func readIDMapping(d *decoder, m *specs.LinuxIDMapping) {
	d.object(func(key string) bool {
		switch key {
		case "containerID":
			uinteger(d, &m.ContainerID)
		case "hostID":
			uinteger(d, &m.HostID)
		case "size":
			uinteger(d, &m.Size)
		default:
			return false
		}
		return true
	})
}

func readNamespace(d *decoder, n *specs.LinuxNamespace) {
	d.object(func(key string) bool {
		switch key {
		case "type":
			str(d, &n.Type)
		case "path":
			str(d, &n.Path)
		default:
			return false
		}
		return true
	})
}

func readDevice(d *decoder, v *specs.LinuxDevice) {
	d.object(func(key string) bool {
		switch key {
		case "path":
			str(d, &v.Path)
		case "type":
			str(d, &v.Type)
		case "major":
			integer(d, &v.Major)
		case "minor":
			integer(d, &v.Minor)
		case "fileMode":
			optional(d, &v.FileMode, uinteger)
		case "uid":
			optional(d, &v.UID, uinteger)
		case "gid":
			optional(d, &v.GID, uinteger)
		default:
			return false
		}
		return true
	})
}

func readNetDevice(d *decoder, n *specs.LinuxNetDevice) {
	d.object(func(key string) bool {
		if key != "name" {
			return false
		}
		str(d, &n.Name)
		return true
	})
}

func readSeccomp(d *decoder, s *specs.LinuxSeccomp) {
	d.object(func(key string) bool {
		switch key {
		case "defaultAction":
			str(d, &s.DefaultAction)
		case "defaultErrnoRet":
			optional(d, &s.DefaultErrnoRet, uinteger)
		case "architectures":
			list(d, &s.Architectures, str)
		case "flags":
			list(d, &s.Flags, str)
		case "listenerPath":
			str(d, &s.ListenerPath)
		case "listenerMetadata":
			text(d, &s.ListenerMetadata)
		case "syscalls":
			list(d, &s.Syscalls, readSyscall)
		default:
			return false
		}
		return true
	})
}

func readSyscall(d *decoder, s *specs.LinuxSyscall) {
	d.object(func(key string) bool {
		switch key {
		case "names":
			list(d, &s.Names, str)
		case "action":
			str(d, &s.Action)
		case "errnoRet":
			optional(d, &s.ErrnoRet, uinteger)
		case "args":
			list(d, &s.Args, readSeccompArg)
		default:
			return false
		}
		return true
	})
}

func readSeccompArg(d *decoder, a *specs.LinuxSeccompArg) {
	d.object(func(key string) bool {
		switch key {
		case "index":
			uinteger(d, &a.Index)
		case "value":
			uinteger(d, &a.Value)
		case "valueTwo":
			uinteger(d, &a.ValueTwo)
		case "op":
			str(d, &a.Op)
		default:
			return false
		}
		return true
	})
}

func readIntelRdt(d *decoder, r *specs.LinuxIntelRdt) {
	d.object(func(key string) bool {
		switch key {
		case "closID":
			str(d, &r.ClosID)
		case "schemata":
			list(d, &r.Schemata, str)
		case "l3CacheSchema":
			str(d, &r.L3CacheSchema)
		case "memBwSchema":
			str(d, &r.MemBwSchema)
		case "enableMonitoring":
			boolean(d, &r.EnableMonitoring)
		case "enableCMT", "enableMBM":
			// Versions 1.1.0 to 1.2.1; 1.3.0 made one property of both.
			var enable bool
			boolean(d, &enable)
			r.EnableMonitoring = r.EnableMonitoring || enable
		default:
			return false
		}
		return true
	})
}

func readMemoryPolicy(d *decoder, m *specs.LinuxMemoryPolicy) {
	d.object(func(key string) bool {
		switch key {
		case "mode":
			str(d, &m.Mode)
		case "nodes":
			str(d, &m.Nodes)
		case "flags":
			list(d, &m.Flags, str)
		default:
			return false
		}
		return true
	})
}

func readPersonality(d *decoder, p *specs.LinuxPersonality) {
	d.object(func(key string) bool {
		switch key {
		case "domain":
			str(d, &p.Domain)
		case "flags":
			list(d, &p.Flags, str)
		default:
			return false
		}
		return true
	})
}

func readTimeOffset(d *decoder, o *specs.LinuxTimeOffset) {
	d.object(func(key string) bool {
		switch key {
		case "secs":
			integer(d, &o.Secs)
		case "nanosecs":
			uinteger(d, &o.Nanosecs)
		default:
			return false
		}
		return true
	})
}
