package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"hull"
)

var (
	errNeedsConsoleSocket = errors.New("a detached process with a terminal needs --console-socket")
	errNoConsoleSocket    = errors.New("--console-socket is for a detached process with a terminal")
)

// checkConsoleSocket tells whether the options go together: someone must hold the master of a terminal, hull as long as it
// stays, else whoever is at the socket.
func checkConsoleSocket(detached, terminal bool, socket string) error {
	switch {
	case detached && terminal && socket == "":
		return &hull.Error{Field: "process.terminal", Kind: hull.ErrBadUsage, Err: errNeedsConsoleSocket,
			Hint: `set "terminal" to false, or name a socket where a program waits for the terminal`}
	case (!detached || !terminal) && socket != "":
		return &hull.Error{Kind: hull.ErrBadUsage, Err: errNoConsoleSocket}
	}
	return nil
}

// wantsTerminal looks for process.terminal in a bundle's configuration. A file that can't be read or has mistakes is left
// to the library, which says what is wrong with it.
func wantsTerminal(bundle string) bool {
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil || !hasTrue(data, "terminal") {
		return false // most containers: the file isn't parsed twice for them
	}
	var config struct {
		Process struct {
			Terminal bool `json:"terminal"`
		} `json:"process"`
	}
	return json.Unmarshal(data, &config) == nil && config.Process.Terminal
}

// hasTrue tells whether some object of a JSON text has true under that name.
func hasTrue(data []byte, name string) bool {
	for {
		_, rest, ok := bytes.Cut(data, []byte(`"`+name+`"`))
		if !ok {
			return false
		}
		value, ok := bytes.CutPrefix(bytes.TrimLeft(rest, " \t\r\n"), []byte(":"))
		if ok && bytes.HasPrefix(bytes.TrimLeft(value, " \t\r\n"), []byte("true")) {
			return true
		}
		data = rest
	}
}
