package kubernetes

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// object is one of the API's, as JSON has it.
type object map[string]any

func (o object) meta() object {
	m, _ := o["metadata"].(map[string]any)
	return m
}

// An api is as much of an API server as a kubelet needs to be told of pods, classes and secrets: it keeps objects and tells
// about changes, checks nothing, and lets everybody do anything.
type api struct {
	mu      sync.Mutex
	version int
	objects map[string]object // by path: /api/v1/namespaces/default/pods/one
	changed chan struct{}     // closed at a change
	log     []event
	server  *httptest.Server
	over    chan struct{}
}

// event is a change of an object.
type event struct {
	version int
	path    string
	Type    string `json:"type"`
	Object  object `json:"object"`
}

func startAPI(t *testing.T) *api {
	t.Helper()
	a := &api{objects: map[string]object{}, changed: make(chan struct{}), over: make(chan struct{})}
	a.server = httptest.NewServer(a)
	t.Cleanup(func() {
		close(a.over)
		a.server.CloseClientConnections()
		a.server.Close()
	})
	return a
}

// set keeps an object at its path; nil takes it away.
func (a *api) set(name string, o object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.setLocked(name, o)
}

func (a *api) setLocked(name string, o object) object {
	old, was := a.objects[name]
	a.version++
	e := event{version: a.version, path: name, Type: "ADDED", Object: o}
	switch {
	case o == nil:
		if !was {
			return nil
		}
		delete(a.objects, name)
		e.Type, e.Object = "DELETED", old
	case was:
		e.Type = "MODIFIED"
	}
	// Others read what was here before without the lock.
	e.Object = clone(e.Object)
	if e.Object["metadata"] == nil {
		e.Object["metadata"] = map[string]any{}
	}
	e.Object.meta()["resourceVersion"] = fmt.Sprint(a.version)
	if e.Object.meta()["uid"] == nil {
		e.Object.meta()["uid"] = fmt.Sprintf("00000000-0000-0000-0000-%012d", a.version)
	}
	if o != nil {
		a.objects[name] = e.Object
	}
	a.log = append(a.log, e)
	close(a.changed)
	a.changed = make(chan struct{})
	return e.Object
}

func (a *api) get(name string) object {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.objects[name]
}

func clone(o object) (c object) {
	p, err := json.Marshal(o)
	if err == nil {
		err = json.Unmarshal(p, &c)
	}
	if err != nil {
		panic(err)
	}
	return c
}

// kinds are those of the collections that a kubelet asks for.
var kinds = map[string]string{
	"nodes": "Node", "pods": "Pod", "services": "Service", "secrets": "Secret", "configmaps": "ConfigMap", "runtimeclasses": "RuntimeClass",
	"csidrivers": "CSIDriver", "csinodes": "CSINode", "leases": "Lease", "events": "Event", "clustertrustbundles": "ClusterTrustBundle", "volumeattachments": "VolumeAttachment",
	"resourceslices": "ResourceSlice", "resourceclaims": "ResourceClaim", "podcertificaterequests": "PodCertificateRequest",
}

// ServeHTTP answers a kubelet.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimSuffix(r.URL.Path, "/")
	name = strings.TrimSuffix(name, "/status")
	kind, collection := kinds[path.Base(name)], true
	if kind == "" {
		kind, collection = kinds[path.Base(path.Dir(name))], false
	}
	if kind == "" {
		refuse(w, http.StatusNotFound, "NotFound")
		return
	}
	body, err := io.ReadAll(r.Body)
	var o object
	if err == nil && len(body) > 0 {
		err = json.Unmarshal(body, &o)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	switch {
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") != "":
		a.watch(w, r, name, kind, collection)
	case r.Method == http.MethodGet && collection:
		a.list(w, r, name, kind)
	case r.Method == http.MethodPost && collection:
		o["kind"], o["apiVersion"] = kind, apiVersion(name)
		id, _ := o.meta()["name"].(string)
		a.mu.Lock()
		made := a.setLocked(name+"/"+id, o)
		a.mu.Unlock()
		answer(w, http.StatusCreated, made)
	case r.Method == http.MethodDelete:
		old := a.get(name)
		a.set(name, nil)
		if old == nil {
			refuse(w, http.StatusNotFound, "NotFound")
			return
		}
		answer(w, http.StatusOK, old)
	default:
		a.mu.Lock()
		defer a.mu.Unlock()
		old := a.objects[name]
		if old == nil {
			refuse(w, http.StatusNotFound, "NotFound")
			return
		}
		switch r.Method {
		case http.MethodPut:
			old = a.setLocked(name, o)
		case http.MethodPatch:
			old = clone(old)
			merge(old, o)
			old = a.setLocked(name, old)
		}
		answer(w, http.StatusOK, old)
	}
}

// merge applies a patch, of lists the new one whole.
func merge(old, patch map[string]any) {
	for k, v := range patch {
		was, _ := old[k].(map[string]any)
		switch is, _ := v.(map[string]any); {
		case strings.HasPrefix(k, "$"):
		case v == nil:
			delete(old, k)
		case is != nil && was != nil:
			merge(was, is)
		default:
			old[k] = v
		}
	}
}

func apiVersion(name string) string {
	if rest, ok := strings.CutPrefix(name, "/apis/"); ok {
		f := strings.Split(rest, "/")
		return f[0] + "/" + f[1]
	}
	return "v1"
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, reason string) {
	answer(w, status, object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": status})
}

// matches tells whether an object is of what a request asks for.
func matches(r *http.Request, name, at string, collection bool) bool {
	if !collection {
		return at == name
	}
	if selector := r.URL.Query().Get("fieldSelector"); strings.HasPrefix(selector, "metadata.name=") && path.Base(at) != strings.TrimPrefix(selector, "metadata.name=") {
		return false
	}
	// /api/v1/pods has those of /api/v1/namespaces/*/pods.
	dir := path.Dir(at)
	return dir == name || strings.Contains(dir, "/namespaces/") && path.Base(dir) == path.Base(name) && strings.HasPrefix(at, path.Dir(name)+"/namespaces/") && !strings.Contains(name, "/namespaces/")
}

func (a *api) list(w http.ResponseWriter, r *http.Request, name, kind string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	items := []object{}
	for at, o := range a.objects {
		if matches(r, name, at, true) {
			items = append(items, o)
		}
	}
	answer(w, http.StatusOK, object{"kind": kind + "List", "apiVersion": apiVersion(name), "metadata": object{"resourceVersion": fmt.Sprint(a.version)}, "items": items})
}

func (a *api) watch(w http.ResponseWriter, r *http.Request, name, kind string, collection bool) {
	var seen int
	_, _ = fmt.Sscan(r.URL.Query().Get("resourceVersion"), &seen)
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	a.mu.Lock()
	var first []event
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		seen = a.version
		for at, o := range a.objects {
			if matches(r, name, at, collection) {
				first = append(first, event{Type: "ADDED", Object: o})
			}
		}
		first = append(first, event{Type: "BOOKMARK", Object: object{
			"kind": kind, "apiVersion": apiVersion(name),
			"metadata": object{"resourceVersion": fmt.Sprint(seen), "annotations": object{"k8s.io/initial-events-end": "true"}},
		}})
	}
	a.mu.Unlock()
	for _, e := range first {
		if out.Encode(e) != nil {
			return
		}
	}
	end := time.After(5 * time.Minute)
	for {
		a.mu.Lock()
		i, _ := slices.BinarySearchFunc(a.log, seen+1, func(e event, v int) int { return e.version - v })
		news, changed := a.log[i:], a.changed
		a.mu.Unlock()
		for _, e := range news {
			seen = e.version
			if matches(r, name, e.path, collection) && out.Encode(e) != nil {
				return
			}
		}
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		case <-a.over:
			return
		case <-end:
			return
		}
	}
}
