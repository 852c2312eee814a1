package containerd

// PodOptions is the type of the options that containerd's CRI makes a pod with.
const PodOptions = "runtime.v1.PodSandboxConfig"

// PodConfig is what CRI says of a pod, as far as it concerns a runtime (k8s.io/cri-api/pkg/apis/runtime/v1/api.proto,
// PodSandboxConfig). Its annotations are the pod's author's, and whoever may start a pod can't choose by them: none is read.
type PodConfig struct {
	Name, UID, Namespace string
	Hostname             string
	LogDirectory         string
	DNS                  *DNSConfig // nil is the host's
	CgroupParent         string
	Sysctls              map[string]string
	Security             PodSecurity
}

func (c *PodConfig) field(f field) error {
	switch f.num {
	case 1:
		return each(f.p, func(f field) error {
			switch f.num {
			case 1:
				c.Name = f.str()
			case 2:
				c.UID = f.str()
			case 3:
				c.Namespace = f.str()
			}
			return nil
		})
	case 2:
		c.Hostname = f.str()
	case 3:
		c.LogDirectory = f.str()
	case 4:
		if c.DNS == nil {
			c.DNS = new(DNSConfig)
		}
		return Unmarshal(f.p, c.DNS)
	case 8:
		return each(f.p, c.linux)
	}
	return nil
}

func (c *PodConfig) linux(f field) error {
	switch f.num {
	case 1:
		c.CgroupParent = f.str()
	case 2:
		return Unmarshal(f.p, &c.Security)
	case 3:
		return f.entry(&c.Sysctls)
	}
	return nil
}

// DNSConfig is what a pod's resolv.conf consists of.
type DNSConfig struct{ Servers, Searches, Options []string }

func (c *DNSConfig) field(f field) error {
	switch f.num {
	case 1:
		c.Servers = append(c.Servers, f.str())
	case 2:
		c.Searches = append(c.Searches, f.str())
	case 3:
		c.Options = append(c.Options, f.str())
	}
	return nil
}

// Mode says whose a namespace of a pod is (NamespaceMode).
type Mode int

const (
	PodNamespace       Mode = 0
	ContainerNamespace Mode = 1 // each container has its own
	NodeNamespace      Mode = 2 // the host's
)

// PodSecurity is the part of LinuxSandboxSecurityContext that concerns more than the program of a pause container.
type PodSecurity struct {
	Network, PID, IPC Mode
	User              *PodUsers // or nil
	SELinux           bool      // it has options for SELinux
}

func (s *PodSecurity) field(f field) error {
	switch f.num {
	case 1:
		return each(f.p, func(f field) error {
			switch f.num {
			case 1:
				s.Network = Mode(f.v)
			case 2:
				s.PID = Mode(f.v)
			case 3:
				s.IPC = Mode(f.v)
			case 5:
				if s.User == nil {
					s.User = &PodUsers{}
				}
				return Unmarshal(f.p, s.User)
			}
			return nil
		})
	case 2:
		s.SELinux = len(f.p) > 0
	}
	return nil
}

// PodUsers is a pod's user namespace (UserNamespace).
type PodUsers struct {
	Mode       Mode
	UIDs, GIDs []IDMapping
}

// IDMapping maps a range of ids.
type IDMapping struct{ Host, Container, Size uint32 }

func (u *PodUsers) field(f field) error {
	switch f.num {
	case 1:
		u.Mode = Mode(f.v)
	case 2:
		return mapping(f, &u.UIDs)
	case 3:
		return mapping(f, &u.GIDs)
	}
	return nil
}

func mapping(f field, list *[]IDMapping) error {
	var m IDMapping
	err := each(f.p, func(f field) error {
		switch f.num {
		case 1:
			m.Host = uint32(f.v)
		case 2:
			m.Container = uint32(f.v)
		case 3:
			m.Size = uint32(f.v)
		}
		return nil
	})
	*list = append(*list, m)
	return err
}
