package native_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest"
)

// network returns a network namespace of the test's own that plays the host's: with the devices d0, which has addresses
// and is up, and peer0.
func network(t *testing.T) *os.File {
	t.Helper()
	ns := hulltest.EmptyNetwork(t)
	for line := range strings.Lines(`link add d0 mtu 1400 address 02:00:00:00:00:01 type veth peer name peer0
addr add 192.0.2.7/24 dev d0
addr add 2001:db8::7/64 dev d0 nodad
link set d0 up
`) {
		hulltest.IP(t, ns, line)
	}
	return ns
}

// show runs in the container and prints what it has of a device.
func show(name string) []string {
	return hulltest.Args("do", "ls", "/sys/class/net", ",", "cat", "/sys/class/net/"+name+"/mtu", "/sys/class/net/"+name+"/address",
		"/sys/class/net/"+name+"/flags", "/proc/net/fib_trie", "/proc/net/if_inet6")
}

func devices(args []string, name string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Process.Args = args
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"d0": {Name: name}}
	}
}

func ownUsers(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	s.Linux.GIDMappings = s.Linux.UIDMappings
}

func needNetwork(t *testing.T) {
	t.Helper()
	hulltest.Require(t, hulltest.Root, hulltest.Command("ip"), hulltest.Command("nsenter"))
}

func TestNetDevices(t *testing.T) {
	needNetwork(t)
	kept := []string{"1400\n", "02:00:00:00:00:01\n", "192.0.2.7\n", "20010db8000000000000000000000007"}
	tests := map[string]struct {
		name  string // in the container
		edits []func(*specs.Spec)
		want  []string
	}{
		"kept":                {"", nil, []string{"d0\n"}},
		"renamed":             {"eth0", nil, []string{"eth0\n"}},
		"numbered":            {"eth%d", nil, []string{"eth0\n"}},
		"in a user namespace": {"eth0", []func(*specs.Spec){ownUsers}, []string{"eth0\n"}},
		"without a pid namespace": {"eth0", []func(*specs.Spec){func(s *specs.Spec) {
			s.Linux.Namespaces = without(s.Linux.Namespaces, specs.PIDNamespace)
		}}, []string{"eth0\n"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			host := network(t)
			inside := strings.Replace(test.name, "%d", "0", 1)
			if inside == "" {
				inside = "d0"
			}
			bundle := hulltest.Bundle(t, append(test.edits, devices(show(inside), test.name))...)
			out, status := output(t, hull(t, host, "run", "--bundle", bundle, "c"))
			if status != 0 {
				t.Fatalf("exit status %d: %s", status, out)
			}
			contains(t, out, append(test.want, kept...), []string{"peer0"})
			if !strings.Contains(out, "0x1003\n") && !strings.Contains(out, "0x1043\n") { // IFF_UP, IFF_BROADCAST, IFF_MULTICAST
				t.Errorf("the device is not up:\n%s", out)
			}
			// The device was a virtual one: it ended with the namespace, and its peer with it.
			contains(t, hulltest.IP(t, host, "-o link show"), []string{"lo"}, []string{": d0", ": eth0"})
		})
	}
}

func without(all []specs.LinuxNamespace, t specs.LinuxNamespaceType) (left []specs.LinuxNamespace) {
	for _, ns := range all {
		if ns.Type != t {
			left = append(left, ns)
		}
	}
	return left
}

// joinNetwork has the container join the namespace that hull finds at its descriptor 3.
func joinNetwork(path string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(without(s.Linux.Namespaces, specs.NetworkNamespace), specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path})
	}
}

// In a namespace that was joined the device stays, whatever becomes of the container (config-linux.md, "Namespace
// Lifecycle and Container Termination").
func TestNetDevicesStayInJoinedNamespace(t *testing.T) {
	needNetwork(t)
	host, joined := network(t), hulltest.EmptyNetwork(t)
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), joined.Fd())
	bundle := hulltest.Bundle(t, joinNetwork(path), devices(hulltest.Args("true"), "eth0"))
	if out, status := output(t, hull(t, host, "run", "--bundle", bundle, "c")); status != 0 {
		t.Fatalf("exit status %d: %s", status, out)
	}
	contains(t, hulltest.IP(t, joined, "addr show dev eth0"), []string{"192.0.2.7/24", "2001:db8::7/64", "02:00:00:00:00:01", "UP"}, nil)
	contains(t, hulltest.IP(t, host, "-o link show"), []string{"peer0"}, []string{" d0@"})
}

// A creation that fails gives the devices back.
func TestNetDevicesReturn(t *testing.T) {
	needNetwork(t)
	bad := []string{"/no/such/program"}
	tests := map[string]struct {
		edit func(*specs.Spec)
		want []string
	}{
		"program missing": {devices(bad, "eth0"), []string{"/no/such/program"}},
		"in a user namespace": {func(s *specs.Spec) {
			ownUsers(s)
			devices(bad, "eth0")(s)
		}, []string{"/no/such/program"}},
		"one device missing": {func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"d0": {}, "no0": {}}
		}, []string{"linux.netDevices[no0]: no such device"}},
		"name taken": {devices(hulltest.Args("true"), "lo"), []string{"linux.netDevices[d0].name: ", "file exists"}},
		"a hook fails": {func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
			devices(hulltest.Args("true"), "eth0")(s)
		}, []string{"createRuntime"}},
		"no namespace": {func(s *specs.Spec) {
			devices(hulltest.Args("true"), "eth0")(s)
			s.Linux.Namespaces = without(s.Linux.Namespaces, specs.NetworkNamespace)
		}, []string{"linux.netDevices: needs a network namespace"}},
		"the host's namespace": {func(s *specs.Spec) {
			joinNetwork("/proc/self/ns/net")(s)
			devices(hulltest.Args("true"), "eth0")(s)
		}, []string{"linux.netDevices: the container's network namespace is the host's"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			host := network(t)
			bundle := hulltest.Bundle(t, test.edit)
			out, status := output(t, hull(t, host, "create", "--bundle", bundle, "c"))
			if status == 0 {
				t.Fatalf("created: %s", out)
			}
			contains(t, out, test.want, nil)
			contains(t, hulltest.IP(t, host, "addr show dev d0"), []string{"192.0.2.7/24", "2001:db8::7/64", "02:00:00:00:00:01", "mtu 1400", "UP"}, nil)
		})
	}
}

func TestNetDevicesRefusedWithoutRoot(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.UserNS)
	bundle := hulltest.Bundle(t, devices(hulltest.Args("true"), "eth0"), func(s *specs.Spec) {
		ownUsers(s)
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 65534, Size: 1}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		s.Linux.CgroupsPath, s.Linux.Resources = "", nil
	})
	cmd := hull(t, nil, "run", "--bundle", bundle, "c")
	dir, err := os.MkdirTemp("", "hull-rootless-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	cmd.Args[2] = dir
	out, status := output(t, as(cmd, syscall.Credential{Uid: 65534, Gid: 65534}))
	if status == 0 {
		t.Errorf("it ran: %s", out)
	}
	contains(t, out, []string{"linux.netDevices: only root can take network devices from the host"}, nil)
}
