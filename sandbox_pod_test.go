package hull_test

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull"
	"hull/hulltest"
)

// Annotations as containerd's plugin for CRI and CRI-O write them.
func ofPod(kind, id string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Annotations = map[string]string{"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": id}
	}
}

func ofCRIO(kind, id string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Annotations = map[string]string{"io.kubernetes.cri-o.ContainerType": kind, "io.kubernetes.cri-o.SandboxID": id}
	}
}

// newPod returns the first container of a pod, which runs.
func newPod(t testing.TB, edits ...func(*specs.Spec)) (*hull.Runtime, *hull.Container) {
	t.Helper()
	r := newRuntime(t)
	edits = append([]func(*specs.Spec){ofPod("sandbox", "box"), args("sleep", "3600"), func(s *specs.Spec) { s.Hostname = "pod" }}, edits...)
	return r, runningIn(t, r, edits...)
}

// inPod gives a configuration the namespaces of a member, as containerd's plugin does (WithPodNamespaces).
func inPod(pod *hull.Container) func(*specs.Spec) {
	return func(s *specs.Spec) {
		ofPod("container", pod.ID())(s)
		s.Hostname = ""
		path := func(name string) string { return procPath(pod.Init().Pid, "ns/"+name) }
		s.Linux.Namespaces = []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace, Path: path("ipc")}, {Type: specs.UTSNamespace, Path: path("uts")},
			{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: path("net")}, {Type: specs.CgroupNamespace},
		}
	}
}

// podPIDs gives a configuration the pid namespace of the pod, or of another member.
func podPIDs(c *hull.Container) func(*specs.Spec) {
	return func(s *specs.Spec) {
		i := slices.IndexFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.PIDNamespace })
		s.Linux.Namespaces[i].Path = procPath(c.Init().Pid, "ns/pid")
	}
}

// member returns a container of the pod that was created.
func member(t testing.TB, r *hull.Runtime, pod *hull.Container, id string, o hull.CreateOptions, edits ...func(*specs.Spec)) *hull.Container {
	t.Helper()
	o.Bundle = hulltest.Bundle(t, append([]func(*specs.Spec){inPod(pod), args("sleep", "3600")}, edits...)...)
	c, err := r.Create(t.Context(), id, o)
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	return c
}

// runningMember returns one whose program sleeps until it is killed.
func runningMember(t testing.TB, r *hull.Runtime, pod *hull.Container, id string, edits ...func(*specs.Spec)) *hull.Container {
	t.Helper()
	c := member(t, r, pod, id, hull.CreateOptions{}, edits...)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	return c
}

// A pod's containers have a life of their own each.
func TestSandboxPod(t *testing.T) {
	r, pod := newPod(t)
	a := member(t, r, pod, "a", hull.CreateOptions{})
	wantStatus(t, a, hull.Created)
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	wantStatus(t, a, hull.Running)
	says(t, exec1(t, a, verb("do", "echo", "in a", ",", "hostname")), "in a", "pod (none)")
	if err := a.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(errorText(err))
	}
	says(t, exec1(t, pod, verb("echo", "goes on")), "goes on")
}
