package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func toObject(t *testing.T, v any) (o object) {
	t.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestClasses has one kubelet run pods of both classes, as a control plane would tell it to, with the RuntimeClasses of
// deploy/kubernetes. Neither is containerd's default.
func TestClasses(t *testing.T) {
	a := startAPI(t)
	n := startNodeOf(t, class{name: "default", handler: "runc"}, a)
	for _, o := range manifests(t, "runtimeclass.yaml") {
		c := o.(*nodev1.RuntimeClass)
		a.set("/apis/node.k8s.io/v1/runtimeclasses/"+c.Name, toObject(t, c))
	}
	const namespace = "/api/v1/namespaces/default/"
	a.set(namespace+"secrets/secret", toObject(t, v1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: "secret", Namespace: "default"}, Data: map[string][]byte{"key": []byte("word")}}))
	a.set(namespace+"configmaps/map", toObject(t, v1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "map", Namespace: "default"}, Data: map[string]string{"key": "value"}}))
	pods := map[string]*pod{}
	for _, c := range classes {
		b := box("main", sleeps)
		b.VolumeMounts = []v1.VolumeMount{{Name: "secret", MountPath: "/secret"}, {Name: "map", MountPath: "/map"}}
		p := v1.Pod{
			TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Name: c.name + "-" + nodeName, Namespace: "default", CreationTimestamp: metav1.Now()},
			Spec: v1.PodSpec{
				NodeName: nodeName, RuntimeClassName: &c.name, AutomountServiceAccountToken: ptr(false), EnableServiceLinks: ptr(false),
				TerminationGracePeriodSeconds: ptr(int64(20)), RestartPolicy: v1.RestartPolicyAlways, DNSPolicy: v1.DNSDefault,
				SecurityContext: &v1.PodSecurityContext{},
				Containers:      []v1.Container{b},
				Volumes: []v1.Volume{
					{Name: "secret", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "secret", DefaultMode: ptr(int32(0o400))}}},
					{Name: "map", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "map"}, DefaultMode: ptr(int32(0o644))}}},
				},
			},
		}
		a.set(namespace+"pods/"+p.Name, toObject(t, p))
		pods[c.name] = &pod{n: n, name: c.name}
	}
	for _, c := range classes {
		p := pods[c.name]
		p.ready(t)
		p.says(t, "word value", "main", "echo $(cat /secret/key) $(cat /map/key)")
		// hull's own kernel says which it is.
		if got := p.sh(t, "main", "dmesg 2>/dev/null | grep -c gVisor; true"); (got != "0") != c.sandbox() {
			t.Errorf("%s: its kernel is another: %s lines", c.name, got)
		}
	}
	// A change of a file that is there.
	m := clone(a.get(namespace + "configmaps/map"))
	m["data"] = map[string]any{"key": "changed"}
	a.set(namespace+"configmaps/map", m)
	for _, c := range classes {
		p := pods[c.name]
		become(t, c.name+": the change comes", func() error {
			var s streams
			if _, err := p.exec(t, "main", &s, "cat", "/map/key"); err != nil || s.out.String() != "changed" {
				return fmt.Errorf("%q, %v", s.out.String(), err)
			}
			return nil
		})
		// What a control plane does to delete a pod.
		o := clone(a.get(namespace + "pods/" + c.name + "-" + nodeName))
		o.meta()["deletionTimestamp"], o.meta()["deletionGracePeriodSeconds"] = metav1.Now(), 20
		a.set(namespace+"pods/"+c.name+"-"+nodeName, o)
	}
	for _, c := range classes {
		become(t, c.name+" is deleted", func() error {
			if a.get(namespace+"pods/"+c.name+"-"+nodeName) != nil {
				return errors.New("it is still there")
			}
			return nil
		})
	}
	t.Run("nothing is left", n.nothingLeft)
}
