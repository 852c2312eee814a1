package cli

import (
	"encoding/json"
	"errors"
	"fmt"

	"hull"
)

// container returns the container with that id, for the operation op.
func (e *Env) container(op, id string) (*hull.Container, error) {
	c, err := e.Runtime().Container(id)
	if err != nil {
		return nil, inOp(op, id, err)
	}
	return c, nil
}

// inOp says of an error which operation on which container it ended, if it doesn't say so itself.
func inOp(op, id string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*hull.Error); ok && e.Op != "" {
		return err
	} else if ok {
		c := *e
		c.Op, c.ID = op, id
		return &c
	}
	return &hull.Error{Op: op, ID: id, Err: err}
}

// printJSON prints v, indented, or in one line if indent is empty; with a newline at the end.
func (e *Env) printJSON(v any, indent string) error {
	enc := json.NewEncoder(e.Stdout)
	enc.SetIndent("", indent)
	return enc.Encode(v)
}

// checkFormat returns an error if the value of --format isn't one of those there are.
func checkFormat(format string) error {
	if format != "table" && format != "json" {
		return &hull.Error{Step: fmt.Sprintf("--format %q", format), Kind: hull.ErrBadUsage, Err: errors.New("want table or json")}
	}
	return nil
}
