package task

import (
	"encoding/binary"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hull/internal/fault"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// checkErr compares an error's text, where "" wants none, and looks that each of the errors joined in it has its kind.
func checkErr(t *testing.T, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok && !errors.As(err, new(*fault.Error)) {
		all = joined.Unwrap()
	}
	for _, err := range all {
		if err != nil && !errors.Is(err, fault.BadSpec) && !errors.Is(err, fault.Unsupported) {
			t.Errorf("%q has no kind", err)
		}
	}
}

func TestPersonality(t *testing.T) {
	for _, test := range []struct {
		in   specs.LinuxPersonality
		want uintptr
		err  string
	}{
		{specs.LinuxPersonality{Domain: "LINUX"}, 0, ""},
		{specs.LinuxPersonality{Domain: "LINUX32", Flags: []specs.LinuxPersonalityFlag{}}, 8, ""},
		{specs.LinuxPersonality{}, 0, `linux.personality.domain: unknown domain "": want LINUX or LINUX32`},
		{specs.LinuxPersonality{Domain: "linux"}, 0, `linux.personality.domain: unknown domain "linux": want LINUX or LINUX32`},
		{specs.LinuxPersonality{Domain: "LINUX", Flags: []specs.LinuxPersonalityFlag{"ADDR_NO_RANDOMIZE"}}, 0,
			`linux.personality.flags[0]: "ADDR_NO_RANDOMIZE": the specification defines no flags`},
	} {
		got, err := Personality(&test.in)
		checkErr(t, err, test.err)
		if got != test.want {
			t.Errorf("Personality(%v) = %#x, want %#x", test.in, got, test.want)
		}
	}
}

func TestOOMScoreAdj(t *testing.T) {
	for adj, want := range map[int]string{-1000: "-1000", 0: "0", 1000: "1000"} {
		got, err := OOMScoreAdj(adj)
		checkErr(t, err, "")
		if got != want {
			t.Errorf("OOMScoreAdj(%d) = %q", adj, got)
		}
	}
	_, err := OOMScoreAdj(1001)
	checkErr(t, err, "process.oomScoreAdj: 1001 is not in -1000 to 1000")
	_, err = OOMScoreAdj(-1001)
	checkErr(t, err, "process.oomScoreAdj: -1001 is not in -1000 to 1000")
}

func TestRlimits(t *testing.T) {
	got, err := Rlimits([]specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096},
		{Type: "RLIMIT_CORE", Soft: 0, Hard: math.MaxUint64},
		{Type: "RLIMIT_AS", Soft: math.MaxUint64, Hard: math.MaxUint64},
	})
	checkErr(t, err, "")
	want := []Rlimit{
		{unix.RLIMIT_NOFILE, unix.Rlimit{Cur: 1024, Max: 4096}},
		{unix.RLIMIT_CORE, unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY}},
		{unix.RLIMIT_AS, unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	_, err = Rlimits([]specs.POSIXRlimit{
		{Type: "RLIMIT_CPU", Soft: 2, Hard: 1},
		{Type: "rlimit_cpu"}, {Type: "NOFILE"}, {Type: ""},
		{Type: "RLIMIT_CPU", Soft: 1, Hard: 1},
	})
	checkErr(t, err, `process.rlimits[0]: RLIMIT_CPU: soft limit 2 is above hard limit 1
process.rlimits[1].type: unknown resource "rlimit_cpu": did you mean RLIMIT_CPU?
process.rlimits[2].type: unknown resource "NOFILE": did you mean RLIMIT_NOFILE?
process.rlimits[3].type: unknown resource ""
process.rlimits[4].type: RLIMIT_CPU appears twice`)
}

// The kernel has 16 resources, 0 to 15 (RLIM_NLIMITS), and getrlimit must succeed on each name.
func TestRlimitNamesCoverTheKernel(t *testing.T) {
	seen := make([]bool, 16)
	for _, name := range strings.Fields("AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK") {
		n, ok := resource("RLIMIT_" + name)
		if !ok || n >= len(seen) || seen[n] {
			t.Fatalf("resource(RLIMIT_%s) = %d, %v", name, n, ok)
		}
		seen[n] = true
		if err := unix.Getrlimit(n, new(unix.Rlimit)); err != nil {
			t.Errorf("getrlimit %s: %v", name, err)
		}
	}
	if slices.Contains(seen, false) {
		t.Errorf("numbers covered: %v", seen)
	}
}

func TestScheduler(t *testing.T) {
	for _, test := range []struct {
		name string
		in   specs.Scheduler
		want unix.SchedAttr
	}{
		{"other", specs.Scheduler{Policy: "SCHED_OTHER", Nice: -20}, unix.SchedAttr{Policy: 0, Nice: -20}},
		{"fifo", specs.Scheduler{Policy: "SCHED_FIFO", Priority: 99}, unix.SchedAttr{Policy: 1, Priority: 99}},
		{"rr", specs.Scheduler{Policy: "SCHED_RR", Priority: 1}, unix.SchedAttr{Policy: 2, Priority: 1}},
		{"batch", specs.Scheduler{Policy: "SCHED_BATCH", Nice: 19}, unix.SchedAttr{Policy: 3, Nice: 19}},
		{"idle", specs.Scheduler{Policy: "SCHED_IDLE"}, unix.SchedAttr{Policy: 5}},
		{"deadline", specs.Scheduler{
			Policy: "SCHED_DEADLINE", Nice: 19, Runtime: 42000, Deadline: 1000000, Period: 2000000,
			Flags: []specs.LinuxSchedulerFlag{"SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"},
		}, unix.SchedAttr{Policy: 6, Nice: 19, Runtime: 42000, Deadline: 1000000, Period: 2000000, Flags: 7}},
		{"deadline without period", specs.Scheduler{Policy: "SCHED_DEADLINE", Runtime: 1024, Deadline: 1024},
			unix.SchedAttr{Policy: 6, Runtime: 1024, Deadline: 1024}},
		{"kept parameters", specs.Scheduler{Policy: "SCHED_RR", Flags: []specs.LinuxSchedulerFlag{
			"SCHED_FLAG_KEEP_POLICY", "SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX",
		}}, unix.SchedAttr{Policy: 2, Flags: 0x78}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Scheduler(&test.in)
			checkErr(t, err, "")
			test.want.Size = unix.SizeofSchedAttr
			want, err := binary.Append(nil, binary.NativeEndian, test.want)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got[:]); diff != "" {
				t.Errorf("struct sched_attr (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSchedulerErrors(t *testing.T) {
	for _, test := range []struct {
		in  specs.Scheduler
		err string
	}{
		{specs.Scheduler{}, "process.scheduler.policy: a policy is required"},
		{specs.Scheduler{Policy: "SCHED_NORMAL"}, `process.scheduler.policy: unknown policy "SCHED_NORMAL"`},
		{specs.Scheduler{Policy: "SCHED_ISO"}, "process.scheduler.policy: SCHED_ISO is reserved: no Linux has it"},
		{specs.Scheduler{Policy: "SCHED_OTHER", Nice: 20, Priority: 1, Runtime: 1, Flags: []specs.LinuxSchedulerFlag{"SCHED_FLAG_RECLAIM", "X"}},
			`process.scheduler.flags[1]: unknown flag "X"
process.scheduler.nice: 20 is not in -20 to 19
process.scheduler.priority: 1: SCHED_OTHER has no priority: want 0
process.scheduler: runtime, deadline and period go with SCHED_DEADLINE, not SCHED_OTHER`},
		{specs.Scheduler{Policy: "SCHED_IDLE", Nice: -21}, "process.scheduler.nice: -21 is not in -20 to 19"},
		{specs.Scheduler{Policy: "SCHED_FIFO"}, "process.scheduler.priority: 0 is not in 1 to 99, which SCHED_FIFO takes"},
		{specs.Scheduler{Policy: "SCHED_RR", Priority: 100}, "process.scheduler.priority: 100 is not in 1 to 99, which SCHED_RR takes"},
		{specs.Scheduler{Policy: "SCHED_DEADLINE", Runtime: 1023, Deadline: 5000}, "process.scheduler.runtime: 1023 ns is below 1024 ns"},
		{specs.Scheduler{Policy: "SCHED_DEADLINE", Runtime: 5000, Deadline: 4000}, "process.scheduler.deadline: 4000 ns is below the runtime of 5000 ns"},
		{specs.Scheduler{Policy: "SCHED_DEADLINE", Runtime: 2000, Deadline: 4000, Period: 3000},
			"process.scheduler.period: 3000 ns is below the deadline of 4000 ns"},
		{specs.Scheduler{Policy: "SCHED_DEADLINE", Runtime: 2000, Deadline: 1 << 63}, "process.scheduler: deadline and period must be below 1<<63 ns"},
	} {
		_, err := Scheduler(&test.in)
		checkErr(t, err, test.err)
	}
	_, err := Scheduler(&specs.Scheduler{Policy: "SCHED_ISO"})
	if !errors.Is(err, fault.Unsupported) {
		t.Errorf("%v is not of kind Unsupported", err)
	}
}

// onThread runs f on a thread of its own, which ends with it: f may change the thread's attributes.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		f()
	}()
	<-done
}

func TestKernelTakesScheduler(t *testing.T) {
	if testing.Short() {
		t.Skip("asks the kernel")
	}
	attr, err := Scheduler(&specs.Scheduler{Policy: "SCHED_BATCH", Nice: 7, Flags: []specs.LinuxSchedulerFlag{"SCHED_FLAG_RESET_ON_FORK"}})
	checkErr(t, err, "")
	var given unix.SchedAttr
	if _, err := binary.Decode(attr[:], binary.NativeEndian, &given); err != nil {
		t.Fatal(err)
	}
	onThread(func() {
		if err := unix.SchedSetAttr(0, &given, 0); err != nil {
			t.Error(err)
			return
		}
		got, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Error(err)
			return
		}
		if got.Policy != unix.SCHED_BATCH || got.Nice != 7 || got.Flags&unix.SCHED_FLAG_RESET_ON_FORK == 0 {
			t.Errorf("the kernel has %+v", got)
		}
	})
}

func TestIOPriority(t *testing.T) {
	for _, test := range []struct {
		in   specs.LinuxIOPriority
		want int
		err  string
	}{
		{specs.LinuxIOPriority{Class: "IOPRIO_CLASS_RT", Priority: 0}, 1 << 13, ""},
		{specs.LinuxIOPriority{Class: "IOPRIO_CLASS_BE", Priority: 4}, 2<<13 | 4, ""},
		{specs.LinuxIOPriority{Class: "IOPRIO_CLASS_IDLE", Priority: 7}, 3<<13 | 7, ""},
		{specs.LinuxIOPriority{Class: "IOPRIO_CLASS_BE", Priority: 8}, 0, "process.ioPriority.priority: 8 is not in 0 to 7"},
		{specs.LinuxIOPriority{Class: "IOPRIO_CLASS_BE", Priority: -1}, 0, "process.ioPriority.priority: -1 is not in 0 to 7"},
		{specs.LinuxIOPriority{Class: "IOPRIO_CLASS_NONE"}, 0,
			`process.ioPriority.class: unknown class "IOPRIO_CLASS_NONE": want IOPRIO_CLASS_RT, IOPRIO_CLASS_BE or IOPRIO_CLASS_IDLE`},
	} {
		got, err := IOPriority(&test.in)
		checkErr(t, err, test.err)
		if got != test.want {
			t.Errorf("IOPriority(%v) = %#x, want %#x", test.in, got, test.want)
		}
	}
}

func TestCredentials(t *testing.T) {
	gids := []uint32{5, 5, math.MaxUint32 - 1}
	got, err := Credentials(specs.User{UID: 1, GID: math.MaxUint32 - 1, AdditionalGids: gids})
	checkErr(t, err, "")
	if diff := cmp.Diff(Cred{1, math.MaxUint32 - 1, gids}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	_, err = Credentials(specs.User{UID: math.MaxUint32, GID: math.MaxUint32, AdditionalGids: []uint32{0, math.MaxUint32}})
	checkErr(t, err, `process.user.uid: 4294967295 is not an id: it stands for no change
process.user.gid: 4294967295 is not an id: it stands for no change
process.user.additionalGids[1]: 4294967295 is not an id: it stands for no change`)
	_, err = Credentials(specs.User{AdditionalGids: make([]uint32, 65537)})
	checkErr(t, err, "process.user.additionalGids: 65537 groups: Linux takes 65536")
}

func TestUmask(t *testing.T) {
	if _, set, err := Umask(specs.User{}); set || err != nil {
		t.Errorf("no umask: %v, %v", set, err)
	}
	for in, wantErr := range map[uint32]string{
		0: "", 0o77: "", 0o777: "",
		0o1000:         "process.user.umask: 512 (01000) has bits above 0777",
		math.MaxUint32: "process.user.umask: 4294967295 (037777777777) has bits above 0777",
	} {
		got, set, err := Umask(specs.User{Umask: &in})
		checkErr(t, err, wantErr)
		if wantErr == "" && (got != int(in) || !set) {
			t.Errorf("Umask(%o) = %o, %v", in, got, set)
		}
	}
}
