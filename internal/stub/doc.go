// Package stub starts processes that execute system calls for their parent.
//
// A Go program can't fork and go on in the child. A stub is what it does instead: a process whose whole program is an
// interpreter of a few hundred bytes (image_GOARCH.s) that receives batches of system calls over a socket, executes
// them and sends the results back. All logic stays ordinary Go in the parent, with loops, errors and logs; only the
// system calls happen in the stub, with its namespaces and credentials. The last call is execve, and the stub becomes
// the container's process.
//
//	parent                                   stub
//	Start: memfd, vfork, exec  ───────────>  blocks all signals, becomes non-dumpable, reads from its socket
//	Do: length, header, entries, data  ───>  executes the entries in order
//	header, entries with results, outputs <─ until one fails
//	Fork: a batch that ends in clone ─────>  the child goes on with a socket of its own
//	Last: a batch that ends in execve ───>   is replaced, or writes its reply to a descriptor of the batch's choice
//	(end of file on the socket) ─────────>   exits: no stub outlives a parent that was killed while it set up
//
// The stub shares neither memory nor descriptors with its parent. It has no more descriptors than it was given, its
// executable is a sealed memfd without a word of the parent's, its environment is empty and its command line a
// constant. So nothing of the parent can be found in it by a process that traces it (CVE-2016-9962) or that reaches
// its executable (CVE-2019-5736). What it answers is not trusted: lengths and indexes of a reply are checked.
//
// A Stub is used by one goroutine at a time.
package stub
