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

// A refusal is an answer that isn't 200.
type refusal struct {
	status int
	text   string
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
		if r := (*refusal)(nil); err == nil || errors.As(err, &r) && r.status == http.StatusNotFound {
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
		var status struct{ Message string }
		_ = json.Unmarshal(text, &status)
		return fmt.Errorf("%s %s: %w", method, path, &refusal{answer.StatusCode, status.Message})
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

// gone tells whether the DaemonSet is deleted, and with it what lets us ask: a server that goes on refusing to answer says the
// same, since it has answered this pod's first container.
func (c *Cluster) gone(ctx context.Context) (bool, error) {
	namespace, name, _ := strings.Cut(c.daemonSet, "/")
	var d struct {
		Metadata struct{ DeletionTimestamp string }
	}
	err := c.ask(ctx, http.MethodGet, "/apis/apps/v1/namespaces/"+namespace+"/daemonsets/"+name, "", nil, &d)
	if r := (*refusal)(nil); errors.As(err, &r) {
		switch r.status {
		case http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden:
			return true, nil
		}
	}
	return d.Metadata.DeletionTimestamp != "", err
}
