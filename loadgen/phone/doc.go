// Package phone is SIP phones by the thousand: they register, call, ring, answer, hold,
// transfer and hang up, and their audio is a stream.Stream each. It knows nothing of the
// server that it talks to, so that it can judge any.
//
// An Endpoint is one SIP address with many phones behind it; a Phone is one address of
// record; a Call is one dialog. It stands on github.com/emiago/sipgo for messages (the
// parser and URIs) and on github.com/icholy/digest for credentials. Transactions are its
// own, since the library's start a goroutine per message, hold each for 32 s, repeat by
// process-wide timers, and answer a CANCEL by themselves; a measuring instrument must know
// when a message left and came, and what it did not send.
//
// How it works: one goroutine reads each socket, one waits for timers. Everything happens
// under the endpoint's lock, in the order of arrival, and nothing in there waits. A call is
// a value with a phase; channels tell its owner about the few changes that people wait for.
//
// What a transaction leaves behind for those who repeat themselves (RFC 3261 s.17: timers
// D, I, J, L) is the bytes to send again, in a list that forgets after 64*T1 and is bounded.
//
// Choices that the RFC leaves open:
//
//   - A 2xx to INVITE that belongs to no call here (a fork; a call that is over) is
//     acknowledged and hung up.
//   - A request inside a dialog goes where RFC 3261 s.12.2.1.1 says: the first Route, else
//     the remote target. If that is a name and not an address, it goes to the target of the
//     endpoint.
//   - A phone begins to speak with the ACK, sent or received, and not before: what is sent
//     into a bridge that is not there yet would be counted as lost. Early media is heard.
//   - An endpoint with one phone is that phone: whatever the Request-URI says reaches it.
package phone
