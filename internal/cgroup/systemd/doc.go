// Package systemd asks a service manager for transient units, over D-Bus.
//
// It has of D-Bus what that takes: calls with the few types in Value, replies, and the one signal that tells the end of
// a job. Nothing runs in the background and nothing is kept between connections: a Conn belongs to one goroutine, for
// the length of one command.
//
//	caller                                manager
//	SASL EXTERNAL, Hello, Subscribe  -->
//	StartTransientUnit               -->  makes a job
//	                                 <--  the job's path
//	                                 <--  signal JobRemoved, with its result
//
// The signal can come before the reply, so that all signals are kept until they are asked for.
//
// What a manager sends is bounded in size and checked, but a caller trusts its manager: it puts processes where that
// says.
package systemd
