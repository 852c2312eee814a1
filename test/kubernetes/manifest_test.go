package kubernetes

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
)

// manifests are the objects of deploy/kubernetes, each of which has fields of its kind alone, and each once.
func manifests(t *testing.T, name string) (all []runtime.Object) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../deploy/kubernetes", name))
	if err != nil {
		t.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	for _, document := range bytes.Split(text, []byte("\n---\n")) {
		o, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, document)
			continue
		}
		all = append(all, o)
	}
	return all
}

func TestManifests(t *testing.T) {
	for name, want := range map[string]int{"runtimeclass.yaml": 2, "hull-system.yaml": 6, "hull-node.yaml": 1} {
		if got := len(manifests(t, name)); got != want {
			t.Errorf("%s has %d objects, want %d", name, got, want)
		}
	}
}

// TestPrograms: what kube/build builds is there; building it takes too long for every change.
func TestPrograms(t *testing.T) {
	script, err := os.ReadFile("kube/build")
	if err != nil {
		t.Fatal(err)
	}
	packages := regexp.MustCompile(` \./(\w+)`).FindAllSubmatch(script, -1)
	if len(packages) == 0 {
		t.Fatalf("it builds nothing:\n%s", script)
	}
	for _, p := range packages {
		if _, err := os.Stat(filepath.Join("kube", string(p[1]), "main.go")); err != nil {
			t.Error(err)
		}
	}
}
