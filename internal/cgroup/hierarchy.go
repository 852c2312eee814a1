package cgroup

import "path/filepath"

// Hierarchy is a v1 hierarchy that a container is in.
type Hierarchy struct {
	Name    string   // of the directory where the host has it: "cpu,cpuacct", "systemd"
	Options []string // that mount(2) takes for it: "cpu", "cpuacct"; or "name=systemd"
	Dir     string   // the container's cgroup, on the host
}

// Hierarchies returns the v1 hierarchies that g is in, each once: controllers may be mounted together.
func (g *Group) Hierarchies() ([]Hierarchy, error) {
	if g.mode == V2 {
		return nil, nil
	}
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var found []Hierarchy
	at := make(map[string]int)
	for _, h := range hs {
		dir := g.paths[h.controller]
		if dir == "" {
			continue
		}
		i, ok := at[h.mount]
		if !ok {
			i = len(found)
			at[h.mount] = i
			found = append(found, Hierarchy{Name: filepath.Base(h.mount), Dir: dir})
		}
		found[i].Options = append(found[i].Options, h.controller)
	}
	return found, nil
}
