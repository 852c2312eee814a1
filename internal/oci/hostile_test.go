package oci

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestHostileFiles has files of megabytes that are built to make a reader slow or its message long.
func TestHostileFiles(t *testing.T) {
	const n = 50_000
	repeat := func(format string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format+",", i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	long := strings.Repeat("x", maxSize/8)
	tests := map[string]string{
		"capabilities":       `{"process":{"capabilities":{"bounding":[` + repeat(`"CAP_%d"`) + `]}}}`,
		"unknown namespaces": `{"linux":{"namespaces":[` + repeat(`{"type":"x%d"}`) + `,` + repeat(`{"type":"pid","path":"%d"}`) + `]}}`,
		"relative mounts":    `{"mounts":[` + repeat(`{"destination":"%d"}`) + `]}`,
		"net devices":        `{"linux":{"netDevices":{` + repeat(`"d%d":{"name":"same"}`) + `}}}`,
		"sysctls":            `{"linux":{"sysctl":{` + repeat(`"vm.x%d":"1"`) + `}}}`,
		"limits":             `{"process":{"rlimits":[` + repeat(`{"type":"R%d"}`) + `]}}`,
		"scheduler flags":    `{"process":{"scheduler":{"policy":"SCHED_OTHER","flags":[` + repeat(`"%d"`) + `]}}}`,
		"groups":             `{"process":{"user":{"additionalGids":[` + repeat(`%d`) + `]}}}`,
		"id ranges":          `{"linux":{"uidMappings":[` + repeat(`{"containerID":%d,"hostID":0,"size":1}`) + `]}}`,
		"properties":         `{` + repeat(`"p%d":{}`) + `}`,
		"annotations":        `{"annotations":{` + repeat(`"p%d":1`) + `}}`,
		"a key":              `{"process":{"` + long + `":1,"` + long + `":1}}`,
		"a sysctl's name":    `{"linux":{"sysctl":{"` + long + `":"1"}}}`,
		"a policy":           `{"process":{"scheduler":{"policy":"` + long + `"}}}`,
		"a version":          `{"ociVersion":"9.0.0-` + long + `"}`,
		"a number":           `{"process":{"oomScoreAdj":` + strings.Repeat("1", maxSize/8) + `}}`,
		"a value":            `{"process":{"args":"` + strings.Repeat(`\u0000`, maxSize/48) + `"}}`,
		"a CPU list":         `{"process":{"execCPUAffinity":{"initial":"` + strings.Repeat("0-8191,", maxSize/56) + `"}}}`,
	}
	for name, doc := range tests {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			_, err := Parse("f", []byte(doc))
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if err == nil {
				t.Fatal("parsed")
			}
			if n := len(err.Error()); n > 64<<10 {
				t.Errorf("a message of %d bytes", n)
			}
		})
	}
}
