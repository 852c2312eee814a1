package task

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// list returns the numbers in m.
func list(m Mask) []int {
	var out []int
	for n := range len(m) * 64 {
		if m.Has(n) {
			out = append(out, n)
		}
	}
	return out
}

func TestParseList(t *testing.T) {
	for in, want := range map[string][]int{
		"":                nil,
		" , ,":            nil,
		"0":               {0},
		"0-3,7":           {0, 1, 2, 3, 7},
		"7, 0-1 ,,1":      {0, 1, 7},
		"62-65":           {62, 63, 64, 65},
		"8191":            {8191},
		"0004":            {4},
		"3-3":             {3},
		"1024,1023,0-0,1": {0, 1, 1023, 1024},
	} {
		m, err := parseList(in, maxCPU)
		if err != nil {
			t.Errorf("parseList(%q): %v", in, err)
		}
		if diff := cmp.Diff(want, list(m)); diff != "" {
			t.Errorf("parseList(%q) (-want +got):\n%s", in, diff)
		}
		if m.Count() != len(want) {
			t.Errorf("parseList(%q).Count() = %d", in, m.Count())
		}
	}
}

func TestParseListErrors(t *testing.T) {
	for in, want := range map[string]string{
		"a":                       `"a": "a" is not a number`,
		"1-":                      `"1-": "" is not a number`,
		"-1":                      `"-1": "" is not a number`,
		"1-2-3":                   `"1-2-3": "2-3" is not a number`,
		"1 - 2":                   `"1 - 2": "1 " is not a number`,
		"+1":                      `"+1": "+1" is not a number`,
		"0x1":                     `"0x1": "0x1" is not a number`,
		"1_0":                     `"1_0": "1_0" is not a number`,
		"0,3-2":                   `"3-2": the range runs backwards`,
		"8192":                    `"8192": 8192 is above 8191, the most Linux is built for`,
		"0-9876543210":            `"0-9876543210": 9876543210 is above 8191, the most Linux is built for`,
		"99999999999999999999999": `"99999999999999999999999": 99999999999999999999999 is above 8191, the most Linux is built for`,
	} {
		m, err := parseList(in, maxCPU)
		if err == nil || err.Error() != want {
			t.Errorf("parseList(%q): %v, want %s", in, err, want)
		}
		if m != nil {
			t.Errorf("parseList(%q) = %v beside its error", in, m)
		}
	}
}

func TestMaskIsTheKernels(t *testing.T) {
	var set unix.CPUSet
	for _, cpu := range []int{0, 5, 63, 64, 1023} {
		set.Set(cpu)
	}
	m, err := parseList("0,5,63-64,1023", maxCPU)
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for i := range len(m) {
		for b := range 8 {
			want = append(want, byte(set[i]>>(8*b))) // both architectures are little-endian
		}
	}
	if diff := cmp.Diff(want, m.Bytes()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if m.Has(-1) || m.Has(1024) || m.Has(1<<40) {
		t.Error("the mask has numbers that it has no words for")
	}
}

func TestCPUAffinity(t *testing.T) {
	got, err := CPUAffinity(&specs.CPUAffinity{Initial: "1-2", Final: "64"})
	checkErr(t, err, "")
	if diff := cmp.Diff(Affinity{Mask{6}, Mask{0, 1}}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	got, err = CPUAffinity(&specs.CPUAffinity{})
	checkErr(t, err, "")
	if got.Initial != nil || got.Final != nil {
		t.Errorf("no lists gave %v", got)
	}
	_, err = CPUAffinity(&specs.CPUAffinity{Initial: "x"})
	checkErr(t, err, `process.execCPUAffinity.initial: invalid CPU list: "x": "x" is not a number`)
	_, err = CPUAffinity(&specs.CPUAffinity{Final: "2-1"})
	checkErr(t, err, `process.execCPUAffinity.final: invalid CPU list: "2-1": the range runs backwards`)
}

func FuzzParseList(f *testing.F) {
	for _, s := range []string{"0-3,7", "", "1-", "8191", "0-9876543210"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseList(s, maxCPU)
		if err != nil {
			return
		}
		if len(m) > maxCPU/64+1 {
			t.Fatalf("%d words", len(m))
		}
		// What was read, written out, reads the same.
		var items []string
		for _, n := range list(m) {
			items = append(items, fmt.Sprint(n))
		}
		again, err := parseList(strings.Join(items, ","), maxCPU)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, again); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}

func TestMemoryPolicy(t *testing.T) {
	type flags = []specs.MemoryPolicyFlagType
	for _, test := range []struct {
		in      specs.LinuxMemoryPolicy
		want    MemPolicy
		maxNode uint64
	}{
		{specs.LinuxMemoryPolicy{Mode: "MPOL_DEFAULT"}, MemPolicy{0, nil}, 0},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_LOCAL"}, MemPolicy{4, nil}, 0},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_PREFERRED"}, MemPolicy{1, nil}, 0},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_PREFERRED", Nodes: "0", Flags: flags{"MPOL_F_RELATIVE_NODES"}}, MemPolicy{0x4001, Mask{1}}, 65},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "0-1", Flags: flags{"MPOL_F_STATIC_NODES", "MPOL_F_NUMA_BALANCING"}},
			MemPolicy{0xa002, Mask{3}}, 65},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_INTERLEAVE", Nodes: "2-3"}, MemPolicy{3, Mask{12}}, 65},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_PREFERRED_MANY", Nodes: "64"}, MemPolicy{5, Mask{0, 1}}, 129},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_WEIGHTED_INTERLEAVE", Nodes: "1"}, MemPolicy{6, Mask{2}}, 65},
	} {
		got, err := MemoryPolicy(&test.in)
		checkErr(t, err, "")
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", test.in, diff)
		}
		if got.MaxNode() != test.maxNode {
			t.Errorf("%v: MaxNode() = %d, want %d", test.in, got.MaxNode(), test.maxNode)
		}
	}
}

func TestMemoryPolicyErrors(t *testing.T) {
	type flags = []specs.MemoryPolicyFlagType
	for _, test := range []struct {
		in  specs.LinuxMemoryPolicy
		err string
	}{
		{specs.LinuxMemoryPolicy{}, `linux.memoryPolicy.mode: invalid memory policy mode ""`},
		{specs.LinuxMemoryPolicy{Mode: "BIND", Nodes: "x", Flags: flags{"MPOL_F_STATIC_NODES", "badflag"}},
			`linux.memoryPolicy.mode: invalid memory policy mode "BIND"
linux.memoryPolicy.flags[1]: invalid memory policy flag "badflag"
linux.memoryPolicy.nodes: invalid memory policy node "x": "x" is not a number`},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "1024"},
			`linux.memoryPolicy.nodes: invalid memory policy node "1024": 1024 is above 1023, the most Linux is built for`},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_DEFAULT", Nodes: "0-7"}, "linux.memoryPolicy.nodes: MPOL_DEFAULT mode requires 0 nodes but got 8"},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_LOCAL", Nodes: "3"}, "linux.memoryPolicy.nodes: MPOL_LOCAL mode requires 0 nodes but got 1"},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_BIND"}, "linux.memoryPolicy.nodes: MPOL_BIND mode requires at least one node"},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "0", Flags: flags{"MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"}},
			"linux.memoryPolicy.flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other"},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_PREFERRED", Flags: flags{"MPOL_F_STATIC_NODES"}},
			"linux.memoryPolicy.flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES want nodes"},
		{specs.LinuxMemoryPolicy{Mode: "MPOL_DEFAULT", Flags: flags{"MPOL_F_NUMA_BALANCING"}},
			"linux.memoryPolicy.flags: MPOL_F_NUMA_BALANCING goes with MPOL_BIND or MPOL_PREFERRED_MANY"},
	} {
		_, err := MemoryPolicy(&test.in)
		checkErr(t, err, test.err)
	}
}
