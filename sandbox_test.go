package hull_test

import (
	"testing"
)

// TestSandbox has tests of the native isolation pass in a sandbox: see newRuntime. Those that are missing are of what a
// sandbox can't do (docs/isolation.md), or look at the host's side of a native container.
func TestSandbox(t *testing.T) {
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
		"Stats":                       TestStats,
		"Stdin":                       TestStdin,
		"Tmpfs":                       TestTmpfs,
		"UnknownContainer":            TestUnknownContainer,
		"UserNamespaceWithoutTheUser": TestUserNamespaceWithoutTheUser,
		"WritableRoot":                TestWritableRoot,
		"WrongState":                  TestWrongState,
	} {
		t.Run(name, test)
	}
}
