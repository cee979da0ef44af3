// Package peers notices, within milliseconds, that another process of the cluster has ended,
// and within some 130 ms that a host is silent. It reports; what follows is the core's.
//
// # What an event proves
//
// PeerDead: that incarnation had answered at its address, and then the address refused a
// connection, or answered (knowing the secret) as another incarnation of the node. It does not prove that the host is well, that the process had no calls, or that nothing
// it sent is still on its way. It can be wrong when something between the nodes refuses in
// the process's name: a firewall that rejects (tcp-reset, port unreachable) what it let
// through before, or an address that has moved to another host while the process lives. The
// claim in the store fences the process in any case. Once per incarnation, and final.
//
// PeerSilent: no heartbeat of that incarnation was received for Misses+1/2 beats, while this
// process was awake and read all that came. It does not prove that the process is dead: it may be
// stopped, starved of CPU, or cut off, in one direction too. One that was never heard
// is silent after 3 s: it may still be reading the store, and where a firewall stops all
// heartbeats none is ever heard; such a silence is one without a PeerUp before it. Once per
// silence.
//
// PeerUp: this process has a connection to that incarnation, and a heartbeat of it came that
// is newer than those before it. It does not prove that the peer hears us, nor that it
// does anything else than beat. At first, and after each silence.
//
// PeerAsked, PeerTold: the member of that name and incarnation said so on a connection which
// it opened. They do not prove that it was right, and what was said may be as old as the
// connection's buffers: who asks sets a time.
//
// A process that is stopped (SIGSTOP) keeps its connections, and its kernel accepts more:
// so it is silent, never dead. A host without power refuses nothing: silent, until it boots. A
// timeout, an unreachable network, a port that does not answer as a node of this cluster:
// none of them is more than silence. A refusal by an address at which the process was never
// met is nothing at all, for the address may be wrong.
//
// # How
//
// Each process opens a TCP connection to each peer: so there are two for a pair. Each judges
// by the one that it opened itself. That saves the question which one of two crossing
// connections stays, and the answer to a lost connection is the next one: the very attempt
// to be connected again is the question whether the process lives. It comes at once and, since
// the kernel may close a dead process's connections before its listening socket, once more
// 2 ms later.
//
// The connections that peers opened, and the socket that takes them, belong to one thread with
// a table of files of its own (gate.go): so the kernel of a killed process closes them at
// once, and not after its memory is freed. The price: ss and lsof, which look at a process's
// first thread, do not say whose socket it is; /proc/PID/task/TID/fd does.
//
// Heartbeats are UDP, one a beat to each peer. They are sealed with a key that comes of the
// handshake of the connection which their receiver opened, and numbered: a datagram of
// another connection, another incarnation or another day opens nothing, and one that
// was heard is not heard twice. Timestamps of the kernel say when each came, so the socket
// is read once a beat, and that one tick (a timerfd) sends, reads and judges for all peers.
//
// If the tick is more than a beat late, or the socket could not be read to its end, all
// windows begin anew: this process was asleep, and whoever is silent is so for another
// window. A process that is late time and again therefore suspects nobody (Gauges.Restarts
// counts); others do, and the store's lease does.
//
// # Who may do harm
//
// Whoever can send UDP to the port can do nothing: the kernel drops what does not bear one of our
// random tags before it takes room in the socket, and what bears one needs the key as well.
// No datagram leads to PeerDead. Whoever can open TCP connections to the port can hold
// 256 of them for a second each, which delays new connections of members, not heartbeats.
// Whoever stands between the nodes can cut, and what is cut is silent; can hold heartbeats
// back and hand them on later, which hides a silence for as many beats; and can refuse
// connections, see PeerDead. What nodes say to each other is not encrypted: it says who hears
// whom. Processes that know the secret are trusted.
//
// Without a secret, which is permitted on loopback only, everything is sealed all the same,
// with a key that everybody knows.
package peers
