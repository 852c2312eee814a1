package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// Cluster is the API server, for one node.
type Cluster struct {
	base      string // its address
	node      string
	daemonSet string // "namespace/name", or ""
	token     string // the file with it, which is replaced from time to time
	client    *http.Client
	pause     time.Duration // between tries
}

// credentials is where a pod has its service account's.
const credentials = "/var/run/secrets/kubernetes.io/serviceaccount/"

// inCluster returns the API server that a pod is told of.
func inCluster(node, daemonSet string) (*Cluster, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, errors.New("no KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT: this is no pod; without --node no API server is needed")
	}
	if namespace, name, ok := strings.Cut(daemonSet, "/"); daemonSet != "" && (!ok || namespace == "" || name == "" || strings.Contains(name, "/")) {
		return nil, fmt.Errorf("--daemonset %q: want NAMESPACE/NAME", daemonSet)
	}
	ca, err := os.ReadFile(credentials + "ca.crt")
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, errors.New(credentials + "ca.crt: no certificate")
	}
	return &Cluster{
		base: "https://" + net.JoinHostPort(host, port), node: node, daemonSet: daemonSet, token: credentials + "token",
		client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}, Timeout: 10 * time.Second},
		pause:  2 * time.Second,
	}, nil
}

// A refusal is an answer that isn't 200: the API's Status, or what something in between says.
type refusal struct {
	status int
	text   string
	reason string // of the API's, or ""
	object string // "kind name" that it is about, in the API's words, or " "
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s", r.status, r.text) }

// tries is how often a server is asked that doesn't answer, or doesn't know who asks: it may just have started.
const tries = 5

// ask sends a request, more than once if need be, and reads the answer into v.
func (c *Cluster) ask(ctx context.Context, method, path, contentType string, body []byte, v any) (err error) {
	for i := range tries {
		if i > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(c.pause):
			}
		}
		err = c.askOnce(ctx, method, path, contentType, body, v)
		if r := (*refusal)(nil); err == nil || errors.As(err, &r) && r.reason == "NotFound" {
			return err
		}
	}
	return err
}

func (c *Cluster) askOnce(ctx context.Context, method, path, contentType string, body []byte, v any) error {
	token, err := os.ReadFile(c.token)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	r.Header.Set("Accept", "application/json")
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	answer, err := c.client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 16<<20))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		var status struct {
			Message, Reason string
			Details         struct{ Kind, Name string }
		}
		_ = json.Unmarshal(text, &status)
		return fmt.Errorf("%s %s: %w", method, path, &refusal{answer.StatusCode, status.Message, status.Reason, status.Details.Kind + " " + status.Details.Name})
	}
	return json.Unmarshal(text, v)
}

// label sets labels of the node; nil removes one.
func (c *Cluster) label(ctx context.Context, labels map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return err
	}
	var node struct{}
	return c.ask(ctx, http.MethodPatch, "/api/v1/nodes/"+c.node, "application/merge-patch+json", patch, &node)
}

// gone tells whether the DaemonSet is deleted. Only the API itself can say so, of this very object: a token or a right that isn't
// there may be back in a minute, and a 404 may be that of a proxy, or of a server that has just begun.
func (c *Cluster) gone(ctx context.Context) (bool, error) {
	namespace, name, _ := strings.Cut(c.daemonSet, "/")
	var d struct {
		Kind     string
		Metadata struct{ DeletionTimestamp string }
	}
	err := c.ask(ctx, http.MethodGet, "/apis/apps/v1/namespaces/"+namespace+"/daemonsets/"+name, "", nil, &d)
	if r := (*refusal)(nil); errors.As(err, &r) && r.isNotFound("daemonsets "+name) {
		return true, nil
	}
	if err == nil && d.Kind != "DaemonSet" {
		err = fmt.Errorf("the answer is of the kind %q", d.Kind)
	}
	return err == nil && d.Metadata.DeletionTimestamp != "", err
}

func (r *refusal) isNotFound(object string) bool {
	return r.status == http.StatusNotFound && r.reason == "NotFound" && r.object == object
}
