// Package linux has system calls that need more than one line: wrappers that take files, name the call in their
// errors, and wait no longer than they should.
package linux
