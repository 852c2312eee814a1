package main

import (
	"fmt"
	"path"
	"strings"
	"time"

	"hull/hulltest/ociimage"
)

// nodeProgram is in the image alone: it puts the others onto a node of a cluster.
const nodeProgram = "libexec/hull/hull-node"

// nodeImage is the name of the image. Manifests have it with the version of the source, see nodeManifest.
const nodeImage = "localhost/hull-node"

// image returns an archive of an image for Kubernetes's nodes, an OCI image layout: the programs, and what is said of them.
func (d *dist) image(t tree, when time.Time) ([]byte, error) {
	a := ociimage.Archive{Time: when}
	made := map[string]bool{}
	for _, name := range sorted(t) {
		if dir, _, _ := strings.Cut(name, "/"); dir == "share" && path.Dir(name) != "share/doc/hull" && !strings.HasPrefix(name, "share/doc/hull/licenses/") {
			continue
		}
		for _, dir := range parents(name) {
			if !made[dir] {
				made[dir] = true
				a.Dir(dir, 0o755)
			}
		}
		if f := t[name]; f.link != "" {
			a.Link(name, f.link)
		} else {
			a.File(name, f.mode, f.content)
		}
	}
	layer, err := a.Close()
	if err != nil {
		return nil, err
	}
	return ociimage.Layout(ociimage.Image{
		Name: nodeImage + ":" + imageTag(d.version), Arch: d.arch, Layer: layer, Time: when,
		Config: ociimage.Config{
			Entrypoint: []string{"/" + nodeProgram},
			Labels:     map[string]string{"org.opencontainers.image.title": "hull-node", "org.opencontainers.image.version": d.version},
		},
	})
}

// imageTag returns a version as a tag, which has no plus.
func imageTag(version string) string { return strings.ReplaceAll(version, "+", "-") }

// nodeManifest returns a manifest of the source's with the name of the image that is handed out with it.
func nodeManifest(text []byte, version string) ([]byte, error) {
	const placeholder = nodeImage + ":dev"
	s := string(text)
	if n := strings.Count(s, placeholder); strings.Contains(s, nodeImage) && n != 1 {
		return nil, fmt.Errorf("a manifest has %s %d times, want once", placeholder, n)
	}
	return []byte(strings.Replace(s, placeholder, nodeImage+":"+imageTag(version), 1)), nil
}
