package hull_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// TestSandbox has tests of the native isolation pass in a sandbox: see newRuntime. Those that are missing are of what a
// sandbox can't do (docs/isolation.md), or look at the host's side of a native container.
func TestSandbox(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	for name, test := range map[string]func(*testing.T){
		"BindMounts":                  TestBindMounts,
		"CVE_2019_18837":              TestCVE_2019_18837,
		"CVE_2019_5736":               TestCVE_2019_5736,
		"CVE_2021_30465":              TestCVE_2021_30465,
		"CVE_2021_41103":              TestCVE_2021_41103,
		"CVE_2024_25621":              TestCVE_2024_25621,
		"CVE_2024_45310":              TestCVE_2024_45310,
		"CVE_2025_31133":              TestCVE_2025_31133,
		"CVE_2025_52565":              TestCVE_2025_52565,
		"CVE_2025_52881":              TestCVE_2025_52881,
		"CVE_2025_62161":              TestCVE_2025_62161,
		"CVE_2026_41579":              TestCVE_2026_41579,
		"CVE_2026_47766":              TestCVE_2026_47766,
		"CgroupNamespace":             TestCgroupNamespace,
		"ConfigIsKept":                TestConfigIsKept,
		"ConfigurationThatCannotBe":   TestConfigurationThatCannotBe,
		"CreateCancelled":             TestCreateCancelled,
		"DefaultDevices":              TestDefaultDevices,
		"Delete":                      TestDelete,
		"DeleteAmongOthers":           TestDeleteAmongOthers,
		"DeletedContainer":            TestDeletedContainer,
		"ExitStatus":                  TestExitStatus,
		"HookChangesLimits":           TestHookChangesLimits,
		"HookSeesTheNamespaces":       TestHookSeesTheNamespaces,
		"HooksStopAtTheFirstFailure":  TestHooksStopAtTheFirstFailure,
		"HostIsOutOfSight":            TestHostIsOutOfSight,
		"Hostname":                    TestHostname,
		"IDTaken":                     TestIDTaken,
		"IDTakenAtTheSameTime":        TestIDTakenAtTheSameTime,
		"IgnoredSignalsOfTheCaller":   TestIgnoredSignalsOfTheCaller,
		"LifeCycle":                   TestLifeCycle,
		"LifeCycleByOthers":           TestLifeCycleByOthers,
		"LimitsAndUpdate":             TestLimitsAndUpdate,
		"List":                        TestList,
		"LoopbackIsUp":                TestLoopbackIsUp,
		"ManyContainers":              TestManyContainers,
		"MaskedPaths":                 TestMaskedPaths,
		"MountsInOrder":               TestMountsInOrder,
		"NoPath":                      TestNoPath,
		"OOM":                         TestOOM,
		"PauseAndResume":              TestPauseAndResume,
		"PauseCreated":                TestPauseCreated,
		"PausedContainerDies":         TestPausedContainerDies,
		"PidFile":                     TestPidFile,
		"PidFileThatCannotBe":         TestPidFileThatCannotBe,
		"PidfdSocket":                 TestPidfdSocket,
		"PidsLimitHolds":              TestPidsLimitHolds,
		"PoststopThatFails":           TestPoststopThatFails,
		"ReadonlyRoot":                TestReadonlyRoot,
		"RunIsStarted":                TestRunIsStarted,
		"SeccompThatCannotBe":         TestSeccompThatCannotBe,
		"Signals":                     TestSignals,
		"SignalsBeforeTheStart":       TestSignalsBeforeTheStart,
		"SocketAndMapInTheRoot":       TestSocketAndMapInTheRoot,
		"Stats":                       TestStats,
		"Stdin":                       TestStdin,
		"Tmpfs":                       TestTmpfs,
		"UnknownContainer":            TestUnknownContainer,
		"UserNamespaceWithoutTheUser": TestUserNamespaceWithoutTheUser,
		"WritableRoot":                TestWritableRoot,
		"WrongState":                  TestWrongState,
		"Rlimits":                     TestRlimits,
		"ExecInPaused":                TestExecInPaused,
		"UserNamespaceMaps":           TestUserNamespaceMaps,
		"SeccompShortAllowList":       TestSeccompShortAllowList,
		"ExecAmidDelete":              TestExecAmidDelete,
		"CVE_2022_24769":              TestCVE_2022_24769,
		"CVE_2022_27650":              TestCVE_2022_27650,
		"CVE_2022_29162":              TestCVE_2022_29162,
		"CVE_2025_27612":              TestCVE_2025_27612,
		"CVE_2024_21626":              TestCVE_2024_21626,
	} {
		t.Run(name, test)
	}
}

// Whoever can reach the control socket may be out of his mind; the container goes on.
func TestSandboxControl(t *testing.T) {
	c := running(t)
	path := filepath.Join(c.Dir(), "control.sock")
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	for name, message := range map[string]struct {
		text string
		fds  []int
	}{
		"nothing":              {"", nil},
		"garbage":              {"\x00\xff", nil},
		"half a message":       {`{"Op":"exec","Proc`, nil},
		"no such request":      {`{"Op":"dance"}`, nil},
		"exec of nothing":      {`{"Op":"exec"}`, nil},
		"exec without streams": {`{"Op":"exec","Process":{"args":["/bin/testprog","true"],"cwd":"/"}}`, nil},
		"too many descriptors": {`{"Op":"ps"}`, []int{null, null, null, null, null, null}},
		"too long":             {`{"Op":"ps","Signal":` + strings.Repeat("1", 150000) + "}", nil},
		"exec that never goes": {`{"Op":"exec","Same":[9,-1,7],"Process":{"args":["/bin/testprog","sleep","9"],"cwd":"/"}}`, []int{null, null, null}},
	} {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := unix.Sendmsg(fd, []byte(message.text), unix.UnixRights(message.fds...), nil, unix.MSG_NOSIGNAL); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		time.Sleep(5 * time.Millisecond)
		unix.Close(fd)
		says(t, exec1(t, c, verb("echo", name)), name)
	}
	eventually(t, "nothing of that is left", func() bool {
		list, err := c.Inside()
		return err == nil && len(list) == 1
	})
}

// A command over the host's files, which is not found by others: nothing but its own end ends it.
func TestSandboxCommand(t *testing.T) {
	hulltest.Require(t, hulltest.Command("sh"))
	cmd := hull.CommandContext(t.Context(), "sh", "-c", "read line; echo got $line; kill -TERM $$")
	cmd.Runtime, cmd.Stdin, cmd.Dir = newRuntime(t), strings.NewReader("word\n"), "/"
	out, err := cmd.Output()
	var ended *hull.ExitError
	if !errors.As(err, &ended) || !ended.WaitStatus.Signaled() || string(out) != "got word\n" {
		t.Errorf("got %q, %v", out, err)
	}
	cmd = hull.CommandContext(t.Context(), "hull-no-such-command")
	cmd.Runtime, cmd.Dir = newRuntime(t), "/"
	if err := cmd.Run(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v", err)
	}
}
