package engines

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// composeFile is of a server and of what asks it by its name. Formats of version 2 have a service say its runtime.
const composeFile = `version: "2.4"
services:
  web:
    image: %[1]q
    runtime: %[2]q
    init: true
    volumes: ["pages:/pages"]
    ports: ["127.0.0.1:8081:80"]
    command: ["sh", "-c", "echo page >/pages/index.html; exec httpd -f -h /pages -p 80"]
    healthcheck: {test: ["CMD", "test", "-e", "/pages/index.html"], interval: 200ms}
    mem_limit: 64m
  asks:
    image: %[1]q
    runtime: %[2]q
    depends_on: {web: {condition: service_healthy}}
    volumes: ["pages:/pages:ro"]
    command: ["sh", "-c", "wget -qO- http://web/ && trap 'exit 0' TERM && while :; do sleep 0.05; done"]
volumes: {pages: {}}
`

// TestDockerCompose has docker-compose take two services up, scale, run something in them and take them down.
func TestDockerCompose(t *testing.T) {
	need(t, "docker-compose")
	long(t)
	d := docker(t)
	each(t, func(t *testing.T, c contestant) {
		clean(t)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "docker-compose.yml"), fmt.Appendf(nil, composeFile, imageName, c.name), 0o644); err != nil {
			t.Fatal(err)
		}
		project := strings.ReplaceAll(name("compose"), "-", "")
		compose := client{
			argv: []string{"docker-compose", "--project-directory", dir, "-f", filepath.Join(dir, "docker-compose.yml"), "-p", project},
			env:  []string{"DOCKER_HOST=" + strings.TrimPrefix(d.argv[1], "--host=")},
		}
		defer compose.run(t, "down", "-v", "-t", "1") // of a test that has failed
		compose.ok(t, "up", "-d")
		client{argv: []string{"busybox", "wget", "-qO-"}}.become(t, "page", "http://127.0.0.1:8081/")
		d.become(t, "page", "logs", compose.ok(t, "ps", "-q", "asks"))
		compose.says(t, "page", "exec", "-T", "asks", "cat", "/pages/index.html")
		compose.fails(t, 3, "", "exec", "-T", "asks", "sh", "-c", "exit 3")
		compose.says(t, "page", "run", "--rm", "-T", "--no-deps", "asks", "wget", "-qO-", "http://web/")
		compose.ok(t, "up", "-d", "--scale", "asks=2")
		if ids := strings.Fields(compose.ok(t, "ps", "-q", "asks")); len(ids) != 2 {
			t.Errorf("containers of asks: %q, want two", ids)
		}
		compose.ok(t, "pause", "web")
		compose.ok(t, "unpause", "web")
		compose.ok(t, "restart", "-t", "10", "asks")
		web := compose.ok(t, "ps", "-q", "web")
		d.says(t, c.name+" running", "inspect", "-f", "{{.HostConfig.Runtime}} {{.State.Status}}", web)
		compose.ok(t, "down", "-v", "-t", "10")
		if left := d.ok(t, "ps", "-aq", "--filter=label=com.docker.compose.project="+project); left != "" {
			t.Errorf("left: %s", left)
		}
	})
}
