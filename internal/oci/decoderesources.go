package oci

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func readResources(d *decoder, r *specs.LinuxResources) {
	d.object(func(key string) bool {
		switch key {
		case "devices":
			list(d, &r.Devices, readDeviceRule)
		case "memory":
			optional(d, &r.Memory, readMemory)
		case "cpu":
			optional(d, &r.CPU, readCPU)
		case "pids":
			optional(d, &r.Pids, readPids)
		case "blockIO":
			optional(d, &r.BlockIO, readBlockIO)
		case "hugepageLimits":
			list(d, &r.HugepageLimits, readHugepageLimit)
		case "network":
			optional(d, &r.Network, readNetwork)
		case "rdma":
			dict(d, &r.Rdma, readRdma)
		case "unified":
			dict(d, &r.Unified, str)
		default:
			return false
		}
		return true
	})
}

func readDeviceRule(d *decoder, r *specs.LinuxDeviceCgroup) {
	d.object(func(key string) bool {
		switch key {
		case "allow":
			boolean(d, &r.Allow)
		case "type":
			str(d, &r.Type)
		case "major":
			optional(d, &r.Major, integer)
		case "minor":
			optional(d, &r.Minor, integer)
		case "access":
			str(d, &r.Access)
		default:
			return false
		}
		return true
	})
}

func readMemory(d *decoder, m *specs.LinuxMemory) {
	d.object(func(key string) bool {
		switch key {
		case "limit":
			optional(d, &m.Limit, integer)
		case "reservation":
			optional(d, &m.Reservation, integer)
		case "swap":
			optional(d, &m.Swap, integer)
		case "kernel":
			//lint:ignore SA1019 deprecated, but in use
			optional(d, &m.Kernel, integer)
		case "kernelTCP":
			optional(d, &m.KernelTCP, integer)
		case "swappiness":
			optional(d, &m.Swappiness, uinteger)
		case "disableOOMKiller":
			optional(d, &m.DisableOOMKiller, boolean)
		case "useHierarchy":
			optional(d, &m.UseHierarchy, boolean)
		case "checkBeforeUpdate":
			optional(d, &m.CheckBeforeUpdate, boolean)
		default:
			return false
		}
		return true
	})
}

func readCPU(d *decoder, c *specs.LinuxCPU) {
	d.object(func(key string) bool {
		switch key {
		case "shares":
			optional(d, &c.Shares, uinteger)
		case "quota":
			optional(d, &c.Quota, integer)
		case "burst":
			optional(d, &c.Burst, uinteger)
		case "period":
			optional(d, &c.Period, uinteger)
		case "realtimeRuntime":
			optional(d, &c.RealtimeRuntime, integer)
		case "realtimePeriod":
			optional(d, &c.RealtimePeriod, uinteger)
		case "cpus":
			str(d, &c.Cpus)
		case "mems":
			str(d, &c.Mems)
		case "idle":
			optional(d, &c.Idle, integer)
		default:
			return false
		}
		return true
	})
}

func readPids(d *decoder, p *specs.LinuxPids) {
	d.object(func(key string) bool {
		if key != "limit" {
			return false
		}
		optional(d, &p.Limit, integer)
		return true
	})
}

func readBlockIO(d *decoder, b *specs.LinuxBlockIO) {
	d.object(func(key string) bool {
		switch key {
		case "weight":
			optional(d, &b.Weight, uinteger)
		case "leafWeight":
			optional(d, &b.LeafWeight, uinteger)
		case "weightDevice":
			list(d, &b.WeightDevice, readWeightDevice)
		case "throttleReadBpsDevice":
			list(d, &b.ThrottleReadBpsDevice, readThrottleDevice)
		case "throttleWriteBpsDevice":
			list(d, &b.ThrottleWriteBpsDevice, readThrottleDevice)
		case "throttleReadIOPSDevice":
			list(d, &b.ThrottleReadIOPSDevice, readThrottleDevice)
		case "throttleWriteIOPSDevice":
			list(d, &b.ThrottleWriteIOPSDevice, readThrottleDevice)
		default:
			return false
		}
		return true
	})
}

func readWeightDevice(d *decoder, w *specs.LinuxWeightDevice) {
	d.object(func(key string) bool {
		switch key {
		case "major":
			integer(d, &w.Major)
		case "minor":
			integer(d, &w.Minor)
		case "weight":
			optional(d, &w.Weight, uinteger)
		case "leafWeight":
			optional(d, &w.LeafWeight, uinteger)
		default:
			return false
		}
		return true
	})
}

func readThrottleDevice(d *decoder, t *specs.LinuxThrottleDevice) {
	d.object(func(key string) bool {
		switch key {
		case "major":
			integer(d, &t.Major)
		case "minor":
			integer(d, &t.Minor)
		case "rate":
			uinteger(d, &t.Rate)
		default:
			return false
		}
		return true
	})
}

func readHugepageLimit(d *decoder, h *specs.LinuxHugepageLimit) {
	d.object(func(key string) bool {
		switch key {
		case "pageSize":
			str(d, &h.Pagesize)
		case "limit":
			uinteger(d, &h.Limit)
		default:
			return false
		}
		return true
	})
}

func readNetwork(d *decoder, n *specs.LinuxNetwork) {
	d.object(func(key string) bool {
		switch key {
		case "classID":
			optional(d, &n.ClassID, uinteger)
		case "priorities":
			list(d, &n.Priorities, readInterfacePriority)
		default:
			return false
		}
		return true
	})
}

func readInterfacePriority(d *decoder, p *specs.LinuxInterfacePriority) {
	d.object(func(key string) bool {
		switch key {
		case "name":
			str(d, &p.Name)
		case "priority":
			uinteger(d, &p.Priority)
		default:
			return false
		}
		return true
	})
}

func readRdma(d *decoder, r *specs.LinuxRdma) {
	d.object(func(key string) bool {
		switch key {
		case "hcaHandles":
			optional(d, &r.HcaHandles, uinteger)
		case "hcaObjects":
			optional(d, &r.HcaObjects, uinteger)
		default:
			return false
		}
		return true
	})
}
